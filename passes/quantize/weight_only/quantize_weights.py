"""Store weights in few bits; activations stay as they are.

    y = MatMul(x, w)   ->   y = MatMul(x, DequantizeLinear<axis = 0, block_size = 32>(w4, scale, zero))

A weight of 4 bits with a scale for 32 of them takes 5 to 6 bits instead of 32. Runtimes that know the form
multiply with it as it is, and read that much less memory (``formats.py`` says which do; ``layout.py`` shows
all forms). Each weight is rounded so that the outputs on the samples seen change least (``second_order.py``).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar, cast

import onnx_ir as ir

from adapass.budgeted import BudgetedPass, Choice, Damage, Feeds, Proposal, Refusal, Samples, Together
from adapass.errors import UsageError
from adapass.facts import FactCache
from adapass.graph.edit import remove_dead_nodes
from adapass.graph.raise_opset import raise_opset
from adapass.graph.text import clone
from adapass.passes.quantize.weight_only.check_stored import check_stored
from adapass.passes.quantize.weight_only.damage import damages_of
from adapass.passes.quantize.weight_only.fitting import Seen, walk_sites
from adapass.passes.quantize.weight_only.formats import GROUPS, Format, Kind
from adapass.passes.quantize.weight_only.grid import Scales
from adapass.passes.quantize.weight_only.layout import (
    arrays_of,
    lay_out,
    note_rounding,
    product_of,
    store_again,
)
from adapass.passes.quantize.weight_only.plans import FedPlans, Offers
from adapass.passes.quantize.weight_only.rounding import Method, Rounding, stored_form
from adapass.passes.quantize.weight_only.sites import Site, choice_of, find_sites, has_room, possible_formats
from adapass.rewrite import PassResult

logger = logging.getLogger(__name__)
_ORIGINAL = "adapass.quantize-weights.original"
"""Where a graph keeps, between ``apply`` and ``fit``, what it was; not serialised."""


@dataclass(frozen=True, slots=True)
class _Open:
    """What ``apply`` did: the model before, and for each site its format and the names of what it stores."""

    original: ir.Model
    formats: Mapping[str, Format]
    parts: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, kw_only=True)
class QuantizeWeights(BudgetedPass):
    """Weights of MatMul, Gemm and Conv in few bits, restored where they are read.

    A setting is a format: ``int8`` (one scale an output), ``int8-g128``, ``int4-g32``, ``int2-g32``,
    ``int4-g32-rank8`` (with a thin float branch), ``float16``, ``bfloat16``, ``binary-2``. Without data every
    weight goes to its nearest value, whatever ``rounding`` says, and the model notes that.
    """

    name: ClassVar[str] = "quantize-weights"
    max_distortion: ClassVar[float] = 0.5
    damage_samples: ClassVar[int] = 64
    source: ClassVar[str] = "Frantar et al. 2023, GPTQ, arXiv:2210.17323"

    settings: tuple[str, ...] = ("int4-g32", "int4-g128", "int8")
    """Formats, the preferred one first."""
    rounding: Rounding = Rounding.SECOND_ORDER
    """How integers are chosen when there is data; ``learned`` needs torch."""
    scales: Scales = Scales.MIN_MAX
    """How the scale of a block is found."""
    symmetric: bool = False
    """Signed integers without zero points: a little smaller, less accurate."""
    correction_rank: int = 0
    """Rank of the float branch of integer formats that name none; 0: no branch. Convolutions get none."""
    activation_order: bool = True
    """Second order: round the weights of large inputs first."""
    follow_float: bool = False
    """Aim at the outputs of the float model, not at those of its weights on what is read now."""
    damping: float = 1e-2
    """Added to the diagonal of the inputs' second moments, as a share of its mean."""
    calibration_samples: int = 256
    """How many samples, evenly spaced, second moments are taken from."""
    calibration_rows: int = 64
    """Positions (tokens, pixels) of each sample that count."""
    min_elements: int = 4096
    """Smaller weights stay as they are."""
    skip_sites: tuple[str, ...] = ()
    """Results of products whose weights stay as they are."""

    def __post_init__(self) -> None:
        if not self.settings or len(set(self.settings)) != len(self.settings):
            raise ValueError(f"settings must name each format once, found {list(self.settings)}")
        for text in self.settings:
            if (group := Format.parse(text).group) is not None and group not in GROUPS:
                raise ValueError(f"format '{text}' has groups of {group}, expected one of {list(GROUPS)}")
        if not self.damping > 0.0:
            raise ValueError(f"damping must be positive, found {self.damping}")
        if not 0 <= self.correction_rank <= 1024:
            raise ValueError(f"correction_rank must lie between 0 and 1024, found {self.correction_rank}")
        for name in ("calibration_samples", "calibration_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")

    @property
    def sketch(self) -> QuantizeWeights:
        """Second order tells which weight matters as well as learning does, in a fraction of the time."""
        return replace(self, rounding=Rounding.SECOND_ORDER) if self.rounding == Rounding.LEARNED else self

    def propose(self, model: ir.Model, facts: FactCache) -> Proposal:
        del facts
        sites, refusals = self._find(model)
        choices = [
            choice_of(self.name, site, setting, format_, symmetric=self.symmetric)
            for (_, setting), (site, format_) in self._offers(model, sites).items()
        ]
        return Proposal(tuple(choices), refusals)

    def apply(self, model: ir.Model, facts: FactCache, choices: Sequence[Choice]) -> PassResult:
        """Store the chosen weights, each at its nearest value; ``fit`` rounds anew with data.

        Raises:
            UsageError: a choice names an unknown site or setting, or a site twice.

        """
        sites, refusals = self._find(model)
        chosen = _matched(choices, self._offers(model, sites))
        reasons = Counter(refusal.reason for refusal in refusals)
        if chosen:
            original = clone(model)
            raise_opset(model, max(format_.opset for _, format_ in chosen))
            parts: dict[str, Mapping[str, str]] = {}
            for site, format_ in chosen:
                form = stored_form(site.matrix, None, format_, self._method)
                parts[site.name] = lay_out(model.graph, site.node, format_, form)
            remove_dead_nodes(model)
            formats = {site.name: format_ for site, format_ in chosen}
            kept = cast("dict[str, object]", model.graph.meta)
            kept[_ORIGINAL] = _Open(original, MappingProxyType(formats), MappingProxyType(parts))
            facts.keep_only(())
        return PassResult(
            len(chosen), MappingProxyType(dict(reasons)), tuple(site.name for site, _ in chosen)
        )

    def fit(self, model: ir.Model, data: Samples | None) -> None:
        """Round again, by what the products read on samples; without data leave the nearest values.

        Raises:
            UsageError: rounding is to be learned and torch is not installed.

        """
        opened = cast("dict[str, object]", model.graph.meta).pop(_ORIGINAL, None)
        if not isinstance(opened, _Open):
            return
        wanted = {name: f for name, f in opened.formats.items() if _needs_data(f, self.rounding)}
        if not wanted:
            return
        if data is None:
            logger.warning(
                "%s: %d weights are rounded to the nearest value: %s rounding needs data, and none was given",
                self.name,
                len(wanted),
                self.rounding,
            )
            return
        nodes = {node.outputs[0].name or "": node for node in model.graph}
        sites = {site.name: site for site in self._find(opened.original)[0] if site.name in wanted}

        def install(name: str, seen: Seen) -> None:
            site, format_ = sites[name], wanted[name]
            target = seen.target(site.matrix, self.damping)
            form = stored_form(target, seen.gram, format_, self._method)
            store_again(model, opened.parts[name], arrays_of(site.convolution, format_, form))
            if format_.kind is Kind.INTEGER and (product := product_of(nodes[name])) is not None:
                note_rounding(product, self.rounding)

        walk_sites(
            model,
            opened.original,
            {name: site.op.source for name, site in sites.items()},
            data,
            install,
            samples=self.calibration_samples,
            rows_each=self.calibration_rows,
            corrected=self.follow_float,
        )

    def damages(
        self, model: ir.Model, facts: FactCache, choices: Sequence[Choice], samples: Samples
    ) -> Mapping[str, Damage]:
        """Damage of each choice alone, by its key; one session serves all. Rounded on every other sample."""
        del facts
        offers = self._offers(model, self._find(model)[0])
        return damages_of(
            model,
            [(choice, *_offered(choice, offers)) for choice in choices],
            samples,
            self.sketch._method,
            calibration_samples=self.calibration_samples,
            rows_each=self.calibration_rows,
        )

    def together(
        self, model: ir.Model, facts: FactCache, choices: Sequence[Choice], samples: Samples
    ) -> Together:
        """Plans measured without being built; judged on every other sample, rounded by those between."""
        del facts
        offers = self._offers(model, self._find(model)[0])
        return FedPlans(
            model,
            {(choice.site, choice.setting): _offered(choice, offers) for choice in choices},
            samples,
            self.sketch._method,
            calibration_samples=self.calibration_samples,
            rows_each=self.calibration_rows,
        )

    def check(self, before: ir.Model, after: ir.Model, feeds: Sequence[Feeds]) -> None:
        """Compare what is restored with the weights it stands for, and all other weights.

        Raises:
            VerificationError: naming the first that is off by more than its format explains.

        """
        del feeds
        check_stored(self.name, self._find(before)[0], before, after)

    @property
    def _method(self) -> Method:
        return Method(
            rounding=self.rounding,
            scales=self.scales,
            symmetric=self.symmetric,
            damping=self.damping,
            ordered=self.activation_order,
        )

    def _formats(self) -> list[Format]:
        return [Format.parse(text) for text in self.settings]

    def _full(self, format_: Format, site: Site) -> Format:
        """The format as this site takes it, with the branch that ``correction_rank`` asks for."""
        if site.convolution:
            return format_.for_convolution(site.shape[0])
        if format_.kind is not Kind.INTEGER or format_.rank:
            return format_
        return replace(format_, rank=min(self.correction_rank, min(site.shape) // 2))

    def _find(self, model: ir.Model) -> tuple[tuple[Site, ...], tuple[Refusal, ...]]:
        return find_sites(model, self._formats(), self.min_elements, self.skip_sites)

    def _offers(self, model: ir.Model, sites: Sequence[Site]) -> Offers:
        """Everything that can be chosen, in execution order, the preferred format of each site first."""
        formats = possible_formats(model, self._formats())
        return {
            (site.name, format_.text): (site, self._full(format_, site))
            for site in sites
            for format_ in formats
            if has_room(format_, site)
        }


def _needs_data(format_: Format, rounding: Rounding) -> bool:
    """Whether data makes a difference: to how numbers are rounded, or to the branch beside them."""
    if format_.kind not in {Kind.INTEGER, Kind.BINARY}:
        return False
    return rounding != Rounding.NEAREST or format_.rank > 0


def _offered(choice: Choice, offers: Offers) -> tuple[Site, Format]:
    found = offers.get((choice.site, choice.setting))
    if found is None:
        raise UsageError(f"this model has no choice {choice.key}; propose() lists sites and settings")
    return found


def _matched(choices: Sequence[Choice], offers: Offers) -> list[tuple[Site, Format]]:
    """Choices with their sites, in execution order; refuses before anything is changed."""
    wanted: dict[str, tuple[Site, Format]] = {}
    for choice in choices:
        found = _offered(choice, offers)
        if choice.site in wanted:
            raise UsageError(
                f"quantize-weights: site '{choice.site}' is chosen twice; choose one setting a site"
            )
        wanted[choice.site] = found
    order = {site: place for place, (site, _) in enumerate(offers)}
    return [wanted[name] for name in sorted(wanted, key=order.__getitem__)]
