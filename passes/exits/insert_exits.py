"""insert-exits: let easy samples leave the model early.

Before::

    v1 = Block1 (x)
    v2 = Block2 (v1)
    y = Classify (v2)

After, with an exit at ``v1`` (one more for every chosen cut)::

    v1 = Block1 (x)
    h_0 = Gemm (pooled v1, weight, bias)                 the head
    c_0 = ReduceMax (Softmax (h_0))                      the rule
    stop_0 = GreaterOrEqual (c_0, thresholds[0])
    v2 = Block2 (v1)
    y_all = Classify (v2)
    y = adapass.ExitSelect (stop_0, h_0, y_all)
    adapass_exit = adapass.ExitSelect (stop_0, 0, 1)

Faster because a generator need not run ``Block2`` for samples with ``stop_0``; in a batch they leave and
the others go on. Right because the head imitates the original model's own output, thresholds are
chosen on data within the quality budget and certified on other data; with thresholds of infinity
the model computes exactly what it did before.

Heads are fitted without labels: multinomial logistic regression on the original's soft outputs, or
closed-form Gaussian discriminants, on pooled features of the cut, whichever follows the original
best on held-out samples; a temperature per head (Guo et al. 2017) lets one threshold serve all.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar

import onnx_ir as ir

from adapass.analyses.cut_points import CutPoints
from adapass.budgeted import (
    BudgetedPass,
    Choice,
    Damage,
    Feeds,
    Knob,
    OperatingPoint,
    Proposal,
    Refusal,
    Samples,
    Services,
    SiteFit,
)
from adapass.errors import DataError, ModelError, UsageError
from adapass.facts import FactCache
from adapass.graph.shapes import infer_shapes
from adapass.ops import EXIT_INDEX, EXIT_THRESHOLDS, MINIMUM_OPSET, read_exits
from adapass.passes.exits.check_exits import check_exits
from adapass.passes.exits.features import Site, check_features
from adapass.passes.exits.fit_heads import FitOptions, Winner, fit_all
from adapass.passes.exits.fitted_form import pack, unpack
from adapass.passes.exits.heads import HeadKind, candidates
from adapass.passes.exits.insert import Planned, insert_exits
from adapass.passes.exits.install import install
from adapass.passes.exits.output_form import Task, read_output
from adapass.passes.exits.record import MAX_EXITS, read_record
from adapass.passes.exits.rules import Rule
from adapass.passes.exits.sites import find_sites, make_site
from adapass.passes.exits.tuning import tune_thresholds
from adapass.rewrite import PassResult, Reject

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class InsertExits(BudgetedPass):
    """Insert early exits at the cut points of a classifier (one class, or independent labels).

    Refused, each with its reason: regression, embeddings, one row per token, several outputs.
    """

    name: ClassVar[str] = "insert-exits"
    separable: ClassVar[bool] = True
    source: ClassVar[str] = (
        "BranchyNet (Teerapittayanon et al. 2016), DeeBERT (Xin et al. 2020), PABEE (Zhou et al. 2020), "
        "BERxiT (Xin et al. 2021), PALBERT (Balagansky and Gavrilov 2022), E2CM (Gormez et al. 2022), "
        "efficient probing (Psomas et al. 2025)"
    )

    rule: Rule = Rule.MAX_PROBABILITY
    """When a sample leaves: max-probability, margin, entropy, patience (exits that agree in a row), or
    quantile (of the cumulative exit probability)."""
    head: HeadKind = HeadKind.AUTO
    """linear, gda, attentive (tokens only), or auto: the best of them on held-out fit samples."""
    features: str = "auto"
    """What a head reads, joined by +: mean, class-token, max (tokens); mean, std, max, grid2, grid4, grid8
    (images); raw (vectors). auto tries several."""
    task: Task = Task.AUTO
    """classification or multi-label, where the graph alone cannot tell."""
    max_exits: int = 32
    """Most exits to propose; they are spread over the depth of the model."""
    min_saving: float = 0.03
    """Share of the model's work that must be left after a cut for an exit there."""
    queries: int = 4
    """Queries of attentive heads."""
    label_weight: float = 0.0
    """Share of the labels in the targets of the heads; the rest is the original model's output."""
    mirror: bool = True
    """Fit on mirrored images as well; the original model says what they are."""
    seed: int = 0
    """Start of the queries of attentive heads."""

    def __post_init__(self) -> None:
        check_features(self.features)
        if not 1 <= self.max_exits <= MAX_EXITS:
            raise UsageError(f"insert-exits: max-exits is {self.max_exits}, expected 1 to {MAX_EXITS}")
        if not 0.0 <= self.min_saving < 1.0:
            raise UsageError(
                f"insert-exits: min-saving is {self.min_saving}, expected a share from 0 to below 1"
            )
        if not 0.0 <= self.label_weight <= 1.0:
            raise UsageError(
                f"insert-exits: label-weight is {self.label_weight}, expected a share from 0 to 1"
            )
        if not 1 <= self.queries <= 64:
            raise UsageError(f"insert-exits: queries is {self.queries}, expected 1 to 64")

    def propose(self, model: ir.Model, facts: FactCache) -> Proposal:
        if (reason := self._refusal(model)) is not None:
            return Proposal(refusals=(Refusal(_output_name(model), reason),))
        sites, refusals = find_sites(model, facts, min_saving=self.min_saving, max_exits=self.max_exits)
        choices: list[Choice] = []
        no_head: list[Refusal] = []
        for site in sites:
            if candidates(site, self.head, self.features, self.queries):
                choices.append(self._choice(site))
            else:
                no_head.append(
                    Refusal(site.cut.value, "the head and features asked for do not exist at this cut")
                )
        return Proposal(tuple(choices), (*refusals, *no_head))

    def apply(self, model: ir.Model, facts: FactCache, choices: Sequence[Choice]) -> PassResult:
        """Insert the chosen exits, unfitted and with thresholds that never stop.

        Raises:
            UsageError: the model can have no exits, or a choice is not one that ``propose`` made for it.

        """
        if not choices:
            return PassResult(applied=0)
        if (reason := self._refusal(model)) is not None:
            raise UsageError(f"insert-exits: {reason}")
        form = read_output(model, self.task)
        planned = self._planned(model, facts, choices)
        insert_exits(model, form, self.rule, planned)
        infer_shapes(model)
        facts.keep_only(())
        logger.info("insert-exits: %d exits", len(planned))
        return PassResult(applied=len(planned), sites=tuple(plan.site.cut.value for plan in planned))

    def fit(self, model: ir.Model, data: Samples | None) -> None:
        """Fit all heads to the model's own output on ``data``; thresholds stay as they are.

        Raises:
            DataError: no data, too little, or not finite.

        """
        record = read_record(model)
        install(model, record, self._winners(model, data))

    @property
    def fitting(self) -> InsertExits:
        """Heads do not depend on the rule that reads them."""
        return replace(self, rule=Rule.MAX_PROBABILITY)

    def fit_sites(self, model: ir.Model, data: Samples | None) -> Mapping[str, SiteFit]:
        """The fitted head of every exit in ``model``, by its cut.

        Raises:
            DataError: no data, too little, or not finite.

        """
        cuts = read_record(model).cuts
        return {cut: pack(winner) for cut, winner in zip(cuts, self._winners(model, data), strict=True)}

    def install_fits(self, model: ir.Model, fits: Mapping[str, SiteFit]) -> None:
        record = read_record(model)
        if missing := [cut for cut in record.cuts if cut not in fits]:
            raise ModelError(f"insert-exits: no head was fitted for the exits at {', '.join(missing)}")
        install(model, record, [unpack(fits[cut]) for cut in record.cuts])

    def _winners(self, model: ir.Model, data: Samples | None) -> list[Winner]:
        if data is None:
            raise DataError("insert-exits: heads are fitted on data and none was given; pass --data")
        options = FitOptions(self.features, self.queries, self.label_weight, self.mirror, self.seed)
        return fit_all(model, read_record(model), data, options)

    def check(self, before: ir.Model, after: ir.Model, feeds: Sequence[Feeds]) -> None:
        """Compute every head and rule a second time: neutral thresholds would hide a mistake."""
        check_exits(before, after, feeds)

    def knobs(self, model: ir.Model) -> tuple[Knob, ...]:
        if EXIT_THRESHOLDS not in model.graph.initializers:
            return ()
        meaning = (
            "confidence from which a sample leaves, one per exit; larger is safer, infinity never leaves"
        )
        return (Knob(EXIT_THRESHOLDS, default=float("inf"), neutral=float("inf"), meaning=meaning),)

    def damages(
        self, model: ir.Model, facts: FactCache, choices: Sequence[Choice], samples: Samples
    ) -> Mapping[str, Damage]:
        """None: with its threshold at infinity an exit changes nothing; ``tune`` looks after the budget."""
        del model, facts, samples
        return MappingProxyType({choice.key: Damage(0.0) for choice in choices})

    def tune(
        self,
        model: ir.Model,
        services: Services,
        max_loss: float,
        *,
        known: Sequence[OperatingPoint] = (),
    ) -> tuple[OperatingPoint, ...]:
        return tune_thresholds(model, services, max_loss, known)

    def _refusal(self, model: ir.Model) -> str | None:
        if model.opset_imports.get("", 0) < MINIMUM_OPSET:
            return "the model's operator set is older than 13; convert it with onnx.version_converter first"
        if EXIT_INDEX in {value.name for value in model.graph.outputs} or read_exits(model):
            return "the model already has early exits"
        try:
            read_output(model, self.task)
        except Reject as reason:
            return str(reason)
        return None

    def _choice(self, site: Site) -> Choice:
        cut = site.cut
        heads = candidates(site, self.head, self.features, self.queries)
        return Choice(
            family=self.name,
            site=cut.value,
            setting=self.head.value,
            detail=MappingProxyType(
                {
                    "depth": round(cut.depth, 4),
                    "layout": cut.layout.value,
                    "block": cut.block,
                    "heads": [f"{spec.kind.value}/{spec.features}" for spec in heads],
                }
            ),
        )

    def _planned(self, model: ir.Model, facts: FactCache, choices: Sequence[Choice]) -> list[Planned]:
        kinds = {choice.site: HeadKind(choice.setting) for choice in choices}
        planned: list[Planned] = []
        for cut in facts.get(CutPoints).points:
            if cut.value not in kinds:
                continue
            kind = kinds.pop(cut.value)
            site = make_site(model, facts, cut)
            specs = candidates(site, kind, self.features, self.queries)
            if not specs:
                raise UsageError(
                    f"insert-exits: no {kind.value} head on {self.features} features exists at '{cut.value}'"
                )
            planned.append(Planned(site, specs[0], kind))
        if kinds:
            raise UsageError(
                f"insert-exits: no exit can sit at {', '.join(sorted(kinds))}; propose() lists the sites"
            )
        return planned


def _output_name(model: ir.Model) -> str:
    return model.graph.outputs[0].name or "" if model.graph.outputs else ""
