"""How much each site alone damages the outputs when it is computed in 8 bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.budgeted import Array, Feeds, Samples
from adapass.errors import UsageError
from adapass.facts import FactCache
from adapass.graph.edit import remove_dead_nodes
from adapass.passes.quantize.fitting import observe, spread
from adapass.passes.quantize.ranges import ActivationScale, RangeMethod, activation_scale
from adapass.passes.quantize.sites import Setting, Site
from adapass.passes.quantize.suffixes import Suffixes
from adapass.passes.quantize.switches import insert_switches, watched_values
from adapass.passes.quantize.weights import QuantizedWeight
from adapass.search.damage import divergence_of

BATCH = 16
PARTS = 4
"""More parts run less again and hold more copies of the weights."""
Outputs = Mapping[str, Array]


class Rounding(Protocol):
    """What of ``quantize-8bit`` decides how a site is rounded."""

    @property
    def ranges(self) -> RangeMethod: ...

    @property
    def percentile(self) -> float: ...

    @property
    def calibration_samples(self) -> int: ...

    def sites(self, model: ir.Model) -> tuple[Site, ...]: ...

    def rounded(self, site: Site) -> QuantizedWeight: ...


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What 8 bits at some sites do to the outputs, everything else in float."""

    distortion: float
    """Root mean square of the change over that of the output; the largest of all float outputs."""
    divergence: float | None
    """Mean Kullback-Leibler divergence of the class probabilities from the float ones, in nats, if any."""


def sensitivity(
    model: ir.Model,
    facts: FactCache,
    samples: Samples,
    groups: Mapping[str, Sequence[str]] | None = None,
    *,
    options: Rounding,
    setting: Setting = Setting.STATIC,
    count: int = 32,
) -> Mapping[str, Sensitivity]:
    """Measure each group of sites (default: every site alone) on ``count`` evenly spaced samples.

    Raises:
        UsageError: a group names a site the family does not propose at this setting.
        DataError: there are no samples, or they do not fit the model.

    """
    del facts
    switched = _Switched(model, samples, options, setting)
    groups = {name: (name,) for name in switched.sites} if groups is None else groups
    if unknown := sorted({site for group in groups.values() for site in group} - set(switched.sites)):
        raise UsageError(f"quantize-8bit has no sites {unknown} at setting '{setting}'; propose() lists them")
    reference = [switched.first(feeds) for feeds in _batches(samples, count)]
    measured: dict[str, Sensitivity] = {}
    for name, group in groups.items():
        measured[name] = compare(
            reference, [switched.run(known, group) for known in reference], switched.outputs
        )
    return measured


def _batches(samples: Samples, count: int) -> list[Feeds]:
    """Evenly spaced samples, those of similar length together: padding is work too."""
    sizes = {i: sum(array.size for array in samples.feeds(i).values()) for i in spread(len(samples), count)}
    order = sorted(sizes, key=lambda i: (sizes[i], i))
    return [samples.batch(order[i : i + BATCH]) for i in range(0, len(order), BATCH)]


class _Switched:
    """The model with a switch at every site, cut at some sites so that only what is behind runs again."""

    def __init__(self, model: ir.Model, samples: Samples, options: Rounding, setting: Setting) -> None:
        copy = model.clone()
        sites = [site for site in options.sites(copy) if setting in site.settings]
        scales = _scales(model, sites, samples, options) if setting is Setting.STATIC else None
        switches = insert_switches(copy, [(site, options.rounded(site)) for site in sites], scales)
        remove_dead_nodes(copy)
        self.sites = tuple(site.name for site in sites)
        self._switches = dict(zip(self.sites, switches, strict=True))
        starts = {len(sites) * part // PARTS: None for part in range(PARTS)} if sites else {}
        self._starts = {index: switches[index].first for index in starts}
        self._suffixes = Suffixes(copy, list(self._starts.values()))
        self.outputs = self._suffixes.outputs

    def first(self, feeds: Feeds) -> Outputs:
        """Everything later runs need, with all switches off."""
        off = {switch.name: np.array(False) for switch in self._switches.values()}
        return self._suffixes.first({**feeds, **off})

    def run(self, known: Outputs, on: Sequence[str]) -> Outputs:
        earliest = min((self.sites.index(site) for site in on), default=len(self.sites))
        start = max((index for index in self._starts if index <= earliest), default=None)
        if start is None or not on:
            return known
        changed = {self._switches[site].name: np.array(True) for site in on}
        return self._suffixes.again(known, changed, self._starts[start])


def _scales(
    model: ir.Model, sites: Sequence[Site], samples: Samples, options: Rounding
) -> dict[str, ActivationScale]:
    exact = options.ranges is not RangeMethod.MIN_MAX
    seen = observe(model, watched_values(sites), samples, samples=options.calibration_samples, exact=exact)
    return {
        name: activation_scale(*found.range(options.ranges, options.percentile))
        for name, found in seen.items()
    }


def compare(reference: Sequence[Outputs], changed: Sequence[Outputs], outputs: Sequence[str]) -> Sensitivity:
    """How far the ``outputs`` of batches moved."""
    distortion, divergence = 0.0, None
    for name in outputs:
        first = reference[0][name]
        if first.dtype.kind != "f":
            continue
        a, b = _joined(reference, name), _joined(changed, name)
        error, size = float(np.mean((b - a) ** 2)), float(np.mean(a**2))
        distortion = max(distortion, float(np.sqrt(error / size)) if size > 0.0 else float(error > 0.0))
        if first.ndim == 2 and first.shape[1] > 1:
            divergence = max(divergence or 0.0, _classes_moved(a, b, first.shape[1]))
    return Sensitivity(distortion, divergence)


def _joined(batches: Sequence[Outputs], name: str) -> npt.NDArray[np.float64]:
    """All numbers of one output in a row: batches may be padded to different lengths."""
    return np.concatenate([batch[name].astype(np.float64).ravel() for batch in batches])


def _classes_moved(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], classes: int) -> float:
    return divergence_of(a.reshape(-1, classes), b.reshape(-1, classes))
