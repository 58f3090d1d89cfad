"""Compute products with constant weights in 8-bit integers.

    y = MatMul(x, w)  ->  y = MatMul(DequantizeLinear(QuantizeLinear(x)), DequantizeLinear(w8))

The runtime fuses the conversions into one integer kernel (four times the multiplications an
instruction on CPUs with VNNI, a quarter of the weight traffic). ``layout.py`` shows both layouts;
rounding moves a weight by at most half a step of its channel and an activation by half a step of its
range, so damage is bounded per site and measured by ``sensitivity``.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from adapass.budgeted import BudgetedPass, Choice, Damage, Feeds, Proposal, Refusal, Samples
from adapass.errors import DataError, UsageError
from adapass.facts import FactCache
from adapass.graph.edit import remove_dead_nodes
from adapass.graph.text import clone
from adapass.passes.quantize.bias_correction import Product, correct_biases
from adapass.passes.quantize.fitting import fit_scales, pending
from adapass.passes.quantize.layout import lay_out_dynamic, lay_out_static
from adapass.passes.quantize.local_check import check_locally
from adapass.passes.quantize.opened import (
    Opened,
    keep_opened,
    keep_rescaled,
    rescaled_form,
    take_opened,
)
from adapass.passes.quantize.ranges import RangeMethod
from adapass.passes.quantize.rescaling.apply import check_rescaled, equalize, migrate, rename
from adapass.passes.quantize.rescaling.migrate import Migrate
from adapass.passes.quantize.rescaling.slots import output_axis
from adapass.passes.quantize.sensitivity import sensitivity
from adapass.passes.quantize.sites import Limits, Setting, Site, find_sites
from adapass.passes.quantize.weights import Floats, QuantizedWeight, quantize_weight
from adapass.rewrite import PassResult

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Quantize8bit(BudgetedPass):
    """8-bit weights and activations for MatMul, Gemm and Conv with constant weights.

    Static scales are calibrated by ``fit``. Dynamic scales are computed from the batch at hand, so a
    sample's result depends on its neighbours; in return they need no data.
    """

    name: ClassVar[str] = "quantize-8bit"
    max_distortion: ClassVar[float] = 0.25
    source: ClassVar[str] = "Jacob et al. 2018, arXiv:1712.05877"

    settings: tuple[Setting, ...] = (Setting.STATIC, Setting.DYNAMIC)
    """Allowed settings, the preferred one first."""
    per_channel: bool = True
    """One weight scale an output channel instead of one a weight."""
    symmetric_weights: bool = True
    """Weights without zero points. Convolutions are always symmetric: their kernels know one only."""
    reduce_range: bool = False
    """7-bit weights, for x86 CPUs without VNNI, whose 16-bit sums would saturate."""
    ranges: RangeMethod = RangeMethod.MSE
    """How activation ranges are chosen from the calibration samples."""
    percentile: float = 99.999
    """With ``ranges=percentile``: this percentage lies below the upper end, and above the lower."""
    calibration_samples: int = 128
    """How many samples, evenly spaced, calibrate the ranges."""
    min_matmul_elements: int = 4096
    """Smaller MatMul and Gemm weights stay in float."""
    min_conv_elements: int = 256
    """Smaller Conv weights stay in float."""
    equalize: bool = False
    """First give layers that follow each other the same ranges of weights, see ``equalize-channels``."""
    migrate: Migrate = Migrate.AUTO
    """Whether outliers of activations move into the weights that read them: auto (where that clearly helps),
    always, or never."""
    alpha: float = 0.5
    """With ``migrate=always``: 0 leaves activations as they are, 1 makes all their channels equally wide."""
    correct_bias: bool = False
    """Take the mean error of each product, measured on the calibration samples, out of its bias."""
    skip_sites: tuple[str, ...] = ()
    """Results of products that stay in float."""

    def __post_init__(self) -> None:
        if not self.settings or len(set(self.settings)) != len(self.settings):
            raise ValueError(f"settings must name each setting once, found {list(self.settings)}")
        if not 50.0 < self.percentile <= 100.0:
            raise ValueError(f"percentile must be above 50 and at most 100, found {self.percentile}")
        if not 0.0 <= self.alpha <= 1.0:
            raise ValueError(f"alpha must lie between 0 and 1, found {self.alpha}")
        if self.calibration_samples < 1:
            raise ValueError(f"calibration_samples must be at least 1, found {self.calibration_samples}")

    def propose(self, model: ir.Model, facts: FactCache) -> Proposal:
        del facts
        sites, refusals = self._find(model)
        choices = [
            Choice(
                family=self.name,
                site=site.name,
                setting=setting,
                batch_invariant=setting is Setting.STATIC,
                detail=MappingProxyType(
                    {"operator": site.node.op_type, "weight_shape": list(site.weight.shape)}
                ),
            )
            for site in sites
            for setting in self.settings
            if setting in site.settings
        ]
        return Proposal(tuple(choices), refusals)

    def apply(self, model: ir.Model, facts: FactCache, choices: Sequence[Choice]) -> PassResult:
        """Rewrite the chosen sites; static ones have placeholder scales until ``fit``.

        Raises:
            UsageError: a choice names an unknown site or setting, or a site twice.

        """
        sites, refusals = self._find(model)
        chosen = _matched(choices, {site.name: site for site in sites})
        if chosen:
            changed = equalize(model) if self.equalize else frozenset[str]()
            keep_opened(model, Opened(clone(model), tuple(choices), changed))
            self._lay_out(model, choices)
            facts.keep_only(())
        reasons = Counter(refusal.reason for refusal in refusals)
        return PassResult(
            len(chosen), MappingProxyType(dict(reasons)), tuple(site.name for site, _ in chosen)
        )

    def _lay_out(self, model: ir.Model, choices: Sequence[Choice]) -> None:
        chosen = _matched(choices, {site.name: site for site in self.sites(model)})
        if self.correct_bias:
            chosen = [(_with_bias(site, setting), setting) for site, setting in chosen]
        weights = {site.name: self.rounded(site) for site, _ in chosen}
        for setting, lay_out in ((Setting.STATIC, lay_out_static), (Setting.DYNAMIC, lay_out_dynamic)):
            picked = [(site, weights[site.name]) for site, wanted in chosen if wanted is setting]
            if picked:
                lay_out(model.graph, picked)
        remove_dead_nodes(model)

    def fit(self, model: ir.Model, data: Samples | None) -> None:
        """Calibrate what ``apply`` left open; nothing to do for dynamic sites.

        Raises:
            DataError: there are static sites and no data.

        """
        opened, waiting = take_opened(model), len(pending(model))
        if waiting and data is None:
            raise DataError(
                f"{self.name}: {waiting} ranges and biases must be calibrated and no data was given; "
                'give data, or let ranges follow the inputs: quantize-8bit{settings=["dynamic"]}'
            )
        if opened is not None and data is not None:
            opened = self._migrated(model, opened, data)
        if data is not None and (opened is not None or waiting):
            correct = None
            if opened is not None and self.correct_bias:
                correct = partial(self._correct_biases, opened, model, data)
            fit_scales(
                model,
                data,
                method=self.ranges,
                percentile=self.percentile,
                samples=self.calibration_samples,
                correct=correct,
            )
        if opened is not None and opened.changed:
            rename(model, opened.changed)
            rename(opened.original, opened.changed)
            keep_rescaled(model, opened.original)

    def _migrated(self, model: ir.Model, opened: Opened, data: Samples) -> Opened:
        """Lay ``model`` out anew over a float model in which outliers were moved, where that is worth it."""
        if self.migrate is Migrate.NEVER:
            return opened
        exact = clone(opened.original)
        products = frozenset(choice.site for choice in opened.choices)
        changed = self._migrate(exact, products, data)
        if not changed:
            return opened
        logger.info("%s: outliers of %d values were moved into weights", self.name, len(changed))
        laid_out = clone(exact)
        self._lay_out(laid_out, opened.choices)
        model.graph = laid_out.graph
        return replace(opened, original=exact, changed=opened.changed | changed)

    def _migrate(self, model: ir.Model, products: frozenset[str], data: Samples) -> frozenset[str]:
        alpha = self.alpha if self.migrate is Migrate.ALWAYS else None
        count = self.calibration_samples
        return migrate(model, products, data, samples=count, alpha=alpha, rounded=self._nearest)

    def rescaled(self, model: ir.Model, data: Samples, setting: Setting = Setting.STATIC) -> ir.Model:
        """A float copy with channels scaled as before rounding, every site of ``setting`` chosen."""
        copy = clone(model)
        if self.equalize:
            equalize(copy)
        if self.migrate is not Migrate.NEVER:
            products = frozenset(site.name for site in self.sites(copy) if setting in site.settings)
            self._migrate(copy, products, data)
        return copy

    def _correct_biases(self, opened: Opened, model: ir.Model, data: Samples) -> None:
        wanted = {choice.site for choice in opened.choices}
        products = [
            Product(
                data=site.node.inputs[0].name or "" if site.node.inputs[0] is not None else "",
                result=site.name,
                channels=site.weight.shape[site.channel_axis],
                axis=1 if site.node.op_type == "Conv" else -1,
            )
            for site in self.sites(opened.original)
            if site.name in wanted
        ]
        without = correct_biases(opened.original, model, products, data, samples=self.calibration_samples)
        logger.debug("%s: no bias to correct at %s", self.name, ", ".join(without) or "no site")

    def damages(
        self, model: ir.Model, facts: FactCache, choices: Sequence[Choice], samples: Samples
    ) -> Mapping[str, Damage]:
        """Damage of each choice alone, by its key; one session serves all sites."""
        found: dict[str, Damage] = {}
        for setting in Setting:
            keys = {choice.key: (choice.site,) for choice in choices if choice.setting == setting}
            if not keys:
                continue
            measured = sensitivity(
                self.rescaled(model, samples, setting),
                facts,
                samples,
                keys,
                options=self,
                setting=setting,
                count=len(samples),
            )
            found.update((k, Damage(result.distortion, result.divergence)) for k, result in measured.items())
        return found

    def check(self, before: ir.Model, after: ir.Model, feeds: Sequence[Feeds]) -> None:
        """Compare ``after`` (applied and fitted) with ``before`` value by value, see ``local_check``.

        Raises:
            VerificationError: naming the first value that differs by more than 8 bits explain.

        """
        exact = rescaled_form(after)
        if exact is not None:
            check_rescaled(before, exact, feeds)
        check_locally(exact or before, after, feeds, looseness=1.0 if self.per_channel else 2.0)

    def sites(self, model: ir.Model) -> tuple[Site, ...]:
        """The sites of ``model`` in execution order."""
        return self._find(model)[0]

    def _find(self, model: ir.Model) -> tuple[tuple[Site, ...], tuple[Refusal, ...]]:
        limits = Limits(self.min_matmul_elements, self.min_conv_elements)
        return find_sites(model, limits, frozenset(self.skip_sites))

    def rounded(self, site: Site) -> QuantizedWeight:
        """The site's weight as it will be stored."""
        return self._quantized(site.node, site.weight, site.channel_axis)

    def _quantized(self, node: ir.Node, weight: Floats, axis: int) -> QuantizedWeight:
        return quantize_weight(
            weight,
            axis=axis if self.per_channel else None,
            symmetric=self.symmetric_weights or node.op_type == "Conv",
            reduce_range=self.reduce_range,
        )

    def _nearest(self, node: ir.Node, weight: Floats) -> Floats:
        return self._quantized(node, weight, output_axis(node)).dequantized()


def _with_bias(site: Site, setting: Setting) -> Site:
    """A bias of zeros where adding one costs nothing, so that it can be corrected."""
    if site.bias is not None or site.node.op_type == "MatMul" or setting is not Setting.STATIC:
        return site
    return replace(site, bias=np.zeros(site.weight.shape[site.channel_axis], np.float32))


def _matched(choices: Sequence[Choice], sites: Mapping[str, Site]) -> list[tuple[Site, Setting]]:
    """Choices with their sites, in execution order; refuses before anything is changed."""
    wanted: dict[str, Setting] = {}
    for choice in choices:
        site = sites.get(choice.site)
        if site is None or choice.setting not in site.settings:
            raise UsageError(f"this model has no choice {choice.key}; propose() lists sites and settings")
        if choice.site in wanted:
            raise UsageError(
                f"quantize-8bit: site '{choice.site}' is chosen twice; choose one setting a site"
            )
        wanted[choice.site] = Setting(choice.setting)
    return [(site, wanted[name]) for name, site in sites.items() if name in wanted]
