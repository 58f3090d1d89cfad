"""Budgeted passes: lossy rewrites that the search drives.

A budgeted pass works in four steps:

    propose(model, facts)           what could be done, where, at what predicted saving and damage
    apply(model, facts, choices)    do the chosen part (structure only: weights may still be unfitted)
    fit(model, data)                compute what needs data: ranges, heads, thresholds, reconstructions
    knobs(model)                    what can still be turned at run time (a threshold), without a rebuild

The search never looks inside a family: everything it needs to know about a choice is in ``Choice``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.facts import FactCache
from adapass.rewrite import Exactness, Pass, PassResult

Array = npt.NDArray[np.generic]
Feeds = Mapping[str, Array]
Span = tuple[Sequence[str], Sequence[str]]
"""A part of a model: the names of the values it begins with, and of those it ends with."""
SiteFit = Mapping[str, Array]
"""What was fitted at one site: numeric arrays and texts (as NumPy strings) by name."""


class Samples(Protocol):
    """Data a pass may fit on: a sized sequence of batch-1 feeds, padding already trimmed."""

    def __len__(self) -> int: ...

    def feeds(self, index: int) -> Feeds:
        """The inputs of one sample; every array has a leading batch axis of 1."""
        ...

    def batch(self, indices: Sequence[int]) -> Feeds:
        """The inputs of several samples, padded to the longest of them."""
        ...

    @property
    def labels(self) -> Array | None:
        """Ground truth, one row a sample; ``None`` when unknown."""
        ...


@dataclass(frozen=True, slots=True)
class Choice:
    """One thing a family could do at one site. The search picks at most one setting a site and family."""

    family: str
    """Name of the pass that proposed it and will apply it."""
    site: str
    """Where: the name of a value or region, stable while the clean graph stays the same."""
    setting: str
    """What: a word the family understands, for example ``int8`` or ``linear``."""
    batch_invariant: bool = True
    """Whether a sample's result is independent of the other samples in its batch."""
    excludes: frozenset[tuple[str, str]] = frozenset()
    """(family, site) pairs that cannot be chosen together with this one."""
    needs: frozenset[tuple[str, str]] = frozenset()
    """(family, site) pairs of which one at least must be chosen together with this one."""
    detail: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    """Anything worth showing to the user, JSON values only."""

    @property
    def key(self) -> str:
        return f"{self.family}:{self.site}={self.setting}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A site where a family can do nothing, and why, in plain words."""

    site: str
    reason: str


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a family can do for a model."""

    choices: tuple[Choice, ...] = ()
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class Damage:
    """How far the output moves, two ways."""

    distortion: float
    """Root mean square of the change over that of the output."""
    divergence: float | None = None
    """Mean Kullback-Leibler divergence of the class probabilities, in nats; ``None`` without classes."""

    def additive(self, *, classes: bool) -> float:
        """What adds up over small independent changes: the divergence, else the squared distortion.

        Both are quadratic in the change, so cross terms of independent changes cancel in the mean.
        """
        if classes and self.divergence is not None:
            return self.divergence
        return self.distortion**2


Exchange = tuple[str, Choice | None]
"""A site, and the choice it gets in the place of what it has; ``None``: it is left as it was."""


class Together(Protocol):
    """Damage of plans of one family as wholes, on fixed samples: single damages do not quite add up."""

    def damage(self, chosen: Sequence[Choice]) -> Damage:
        """Of all these choices together, one a site."""
        ...

    def beside(self, chosen: Sequence[Choice], exchanges: Sequence[Exchange]) -> list[Damage]:
        """Of ``chosen`` with one site exchanged, for each of ``exchanges``."""
        ...


@dataclass(frozen=True, slots=True)
class Knob:
    """Something that can be turned at run time: an input of the model with a default value."""

    input_name: str
    default: float
    neutral: float
    """The setting at which the model computes what it computed before the pass (up to rounding)."""
    meaning: str


class Services(Protocol):
    """What the search lends a family that tunes run-time knobs: data, a judge of quality, and a clock.

    Everything here is about the search part of the data; the certify part is never handed out.
    """

    @property
    def samples(self) -> Samples:
        """The search samples."""
        ...

    def losses(self, output: Array) -> npt.NDArray[np.float64]:
        """Paired loss of each search sample, [N], given the model's first output for all of them in order.

        0 = as good as the original, 1 = one right answer lost (or one changed, without labels), and
        negative where the result is better than the original's.
        """
        ...

    def seconds(self, model: ir.Model, spans: Sequence[Span]) -> list[float]:
        """Measured mean latency, on the target, of a call of each of these parts of ``model``."""
        ...


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """One setting of the run-time knobs of a fitted model."""

    knobs: Mapping[str, Array]
    """Value of each knob, by the name of the graph input."""
    sites: frozenset[str]
    """Sites that do something at this setting; the others could as well be left out of the model."""
    expected_seconds: float
    """Predicted mean latency of a call."""
    loss: float
    """Mean paired loss on the search samples."""
    changed: float = 0.0
    """Mean square of the paired losses: the share of the verdicts that change."""
    reach: tuple[tuple[float, float], ...] = ()
    """(depth, share) pairs, depth rising: behind this share of the model's work, only this share of the
    samples goes on. Empty where all samples do everything."""
    leaves: tuple[float, ...] = ()
    """Share of the samples that leaves at each exit of the model, the last entry at its end."""
    detail: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, kw_only=True)
class BudgetedPass(Pass):
    """A family of lossy rewrites with sites and settings. See the module docstring."""

    exactness: ClassVar[Exactness] = Exactness.LOSSY
    needs_labels: ClassVar[bool] = False
    needs_data: ClassVar[bool] = True
    """Whether ``fit`` needs samples; without data such a family only shows up in ``analyze``."""
    structural: ClassVar[bool] = False
    """Whether choices leave less work to do (narrower layers, blocks taken out), so that what other choices
    save there shrinks. ``apply`` alone then gives a model that is as fast as the fitted one."""
    damage_samples: ClassVar[int] = 0
    """At least so many samples are given to ``damages``, where there are as many, whatever the effort."""
    separable: ClassVar[bool] = False
    """Whether sites are fitted independently of each other, through ``fit_sites`` and ``install_fits``."""

    @abstractmethod
    def propose(self, model: ir.Model, facts: FactCache) -> Proposal:
        """List sites and settings, and the sites refused with reasons. Must not change the model."""

    @abstractmethod
    def apply(self, model: ir.Model, facts: FactCache, choices: Sequence[Choice]) -> PassResult:
        """Rewrite ``model`` in place at the chosen sites."""

    @abstractmethod
    def fit(self, model: ir.Model, data: Samples | None) -> None:
        """Compute from data what ``apply`` left open, in place. Deterministic.

        Raises:
            DataError: something is open that only data can settle, and ``data`` is None.

        """

    def fit_to(self, model: ir.Model, data: Samples | None, original: ir.Model) -> None:
        """``fit`` where the model that a plan began with is at hand; it must not be changed.

        Raises:
            DataError: as ``fit``.

        """
        del original
        self.fit(model, data)

    @property
    def fitting(self) -> BudgetedPass:
        """The pass whose ``fit_sites`` serve here: options that fitting ignores, at their defaults."""
        return self

    @property
    def sketch(self) -> BudgetedPass:
        """The pass that makes single choices to see what they damage; less thorough where that is quicker."""
        return self

    def fit_sites(self, model: ir.Model, data: Samples | None) -> Mapping[str, SiteFit]:
        """What ``fit`` would compute for each site applied in ``model``, which is left as it is.

        For separable families: the search fits a few sites at a time, on several workers, keeps what is
        finished when it is interrupted, and never fits a site twice.
        """
        raise NotImplementedError(f"{self.name} fits all its sites together (separable is False)")

    def install_fits(self, model: ir.Model, fits: Mapping[str, SiteFit]) -> None:
        """Put what ``fit_sites`` found for the sites applied in ``model`` in place.

        Raises:
            ModelError: a site of the model has no fit, or it does not belong there.

        """
        raise NotImplementedError(f"{self.name} fits all its sites together (separable is False)")

    def check(self, before: ir.Model, after: ir.Model, feeds: Sequence[Feeds]) -> None:
        """Look closer than the pipeline does, which compares the outputs of ``after``, applied and fitted.

        Outputs with neutral knobs hide what only counts at other settings (an exit's head), and a loose
        bound on the outputs hides small damage inside.

        Raises:
            VerificationError: naming what is wrong.

        """
        del before, after, feeds

    def knobs(self, model: ir.Model) -> tuple[Knob, ...]:
        """Run-time knobs that the applied pass left in ``model``."""
        del model
        return ()

    def damages(
        self, model: ir.Model, facts: FactCache, choices: Sequence[Choice], samples: Samples
    ) -> Mapping[str, Damage] | None:
        """Measured damage of each choice alone, by ``Choice.key``.

        ``None`` (the default) lets the search measure each choice by applying and fitting it alone;
        a family that can do many at once overrides this.
        """
        del model, facts, choices, samples
        return None

    def together(
        self, model: ir.Model, facts: FactCache, choices: Sequence[Choice], samples: Samples
    ) -> Together | None:
        """Measures plans of ``choices`` without building them; ``None`` (the default): it cannot."""
        del model, facts, choices, samples
        return None

    def remaining(
        self, model: ir.Model, facts: FactCache, choice: Choice, samples: Samples
    ) -> Mapping[str, float] | None:
        """Share of its work that each product keeps where ``choice`` alone is made, mean over ``samples``.

        For structural families that leave out work but no weights (tokens, gates). By the name of the
        product's output; products not named keep all their work. ``None`` (the default): what is left can be
        seen in the stored weights.
        """
        del model, facts, choice, samples
        return None

    def tune(
        self,
        model: ir.Model,
        services: Services,
        max_loss: float,
        *,
        known: Sequence[OperatingPoint] = (),
    ) -> tuple[OperatingPoint, ...]:
        """Settings of the knobs of a fitted ``model``, from the safest to the most aggressive.

        Mean loss on the search samples must stay within ``max_loss``; expected latency falls along the
        list. ``known`` are settings found on another model with the same sites (before 8 bits, say): they
        are judged on this one too. Families without knobs return nothing.
        """
        del model, services, max_loss, known
        return ()

    def run(self, model: ir.Model, facts: FactCache, only: frozenset[str] | None = None) -> PassResult:
        """Apply every proposed choice (or those at the sites in ``only``), the first setting of each site.

        This is what naming the pass in a pipeline text means. Without data ``fit`` uses what the
        family can do without (generated inputs are never passed off as data).
        """
        first: dict[str, Choice] = {}
        for choice in self.propose(model, facts).choices:
            if only is None or choice.site in only:
                first.setdefault(choice.site, choice)
        return self.apply(model, facts, tuple(first.values())) if first else PassResult(applied=0)
