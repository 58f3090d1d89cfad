"""Run feed-forward parts on the tokens that need them only.

    y = Add(x, f(x))       ->    rows = LiveRows(score(x) > threshold)
                                 y = ScatterRows(x + bias, rows, x[rows] + f(x[rows]))

Faster because the two largest products of a transformer layer run on fewer rows: those of live tokens of all
samples together, none of padding. Most tokens can do without most of the time: what a feed-forward part adds
to them hardly moves the result of the model. A token is judged from its own state, so results do not
depend on the company in the batch. Attention runs on all tokens as before. (Jaiswal et al. 2024,
arXiv:2404.03865, skip by saturation; the score here is fitted to slopes of the model's own result.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from types import MappingProxyType
from typing import ClassVar, cast

import onnx_ir as ir

from adapass.analyses.work import Work
from adapass.budgeted import BudgetedPass, Choice, Feeds, Proposal, Refusal, Samples
from adapass.errors import DataError, ModelError, UsageError
from adapass.facts import FactCache
from adapass.graph.edit import mark_roots, remove_dead_nodes
from adapass.graph.shapes import infer_shapes
from adapass.graph.text import clone
from adapass.moments.batches import Batches
from adapass.ops import MINIMUM_OPSET
from adapass.passes.gates.calibrate import Aim, calibrate
from adapass.passes.gates.check_gates import Fitted, check_gates
from adapass.passes.gates.contributions import fitted_scores, share_fits
from adapass.passes.gates.deciders import Decider, Scope
from adapass.passes.gates.install import install
from adapass.passes.gates.row_branches import RowBranch, end_of, find_row_branches
from adapass.passes.prune.linear_ops import store, stored
from adapass.passes.prune.remove_blocks import RemoveBlocks
from adapass.rewrite import PassResult

PREFIX = "skip-"
SKETCH_SAMPLES = 96
_OPEN = "adapass.skip-feed-forward.open"
"""Where a graph keeps, between ``apply`` and ``fit``, what is to be fitted; not serialised."""
_FITTED = "adapass.skip-feed-forward.fitted"
"""Where a graph keeps, between ``fit`` and ``check``, what was fitted; not serialised."""


@dataclass(frozen=True, slots=True)
class Open:
    """What ``apply`` left to ``fit``."""

    before: ir.Model
    """The model before the gates."""
    original: ir.Model
    """The model that the plan began with."""
    aims: Mapping[str, Aim]
    """By site, in execution order."""


@dataclass(frozen=True, kw_only=True)
class SkipFeedForward(BudgetedPass):
    """Tokens to which a feed-forward part matters little go around it; the threshold is fitted on samples.

    Sites are named after the result of the last product of a part. Padding never goes through, and the
    first token always does where the model's result is read there. Learned scores need the ``torch``
    extra when they are fitted, and nothing afterwards. The first part has none before it, so saturation
    says nothing about it.
    """

    name: ClassVar[str] = "skip-feed-forward"
    max_distortion: ClassVar[float] = 0.5
    structural: ClassVar[bool] = True
    source: ClassVar[str] = "Jaiswal et al. 2024, arXiv:2404.03865"

    settings: tuple[str, ...] = ("skip-25", "skip-50", "skip-75", "skip-90")
    """``skip-P``: P percent of the real tokens go around."""
    decider: Decider = Decider.LEARNED
    """Where the score comes from."""
    scope: Scope = Scope.TOKEN
    """Decide about each token, or about all tokens of a sample at once."""
    bias: bool = True
    """Whether those who go around get what the part adds to them on average."""
    damping: float = 0.1
    """Pull of the weights of a learned score towards 0, relative to the variance of the stream."""
    score_samples: int = 256
    """How many samples, evenly spaced, learned scores are fitted on."""
    calibration_samples: int = 256
    """How many samples, evenly spaced, thresholds are set on."""
    skip_sites: tuple[str, ...] = ()
    """Sites that stay as they are."""

    def __post_init__(self) -> None:
        if not self.settings or len(set(self.settings)) != len(self.settings):
            raise ValueError(f"settings must name each setting once, found {list(self.settings)}")
        for setting in self.settings:
            share_of(setting)
        if not self.damping > 0.0:
            raise ValueError(f"damping must be positive, found {self.damping}")
        if min(self.score_samples, self.calibration_samples) < 1:
            found = min(self.score_samples, self.calibration_samples)
            raise ValueError(f"score_samples and calibration_samples must be at least 1, found {found}")

    @property
    def sketch(self) -> SkipFeedForward:
        """Thresholds from fewer samples; scores are shared by all plans, and stay."""
        return replace(self, calibration_samples=min(self.calibration_samples, SKETCH_SAMPLES))

    def propose(self, model: ir.Model, facts: FactCache) -> Proposal:
        share_fits(model)
        rows, refusals = self._sites(model, facts)
        if rows and self.decider is Decider.LEARNED and not _has_twin(model):
            reason = "learned scores need a torch twin of every operator; decider=saturation does not"
            return Proposal((), (*refusals, *(Refusal(row.site, reason) for row in rows)))
        work = facts.get(Work)
        index = {node: place for place, node in enumerate(work.flow.nodes)}
        whole = sum(part.flops for part in work.typical) or 1
        choices: list[Choice] = []
        for row in rows:
            own = sum(work.typical[index[node]].flops for node in row.branch.nodes)
            for setting in self.settings:
                detail = {"skipped": share_of(setting), "share_of_work": share_of(setting) * own / whole}
                choices.append(
                    Choice(
                        family=self.name,
                        site=row.site,
                        setting=setting,
                        excludes=frozenset(
                            {(RemoveBlocks.name, row.site), (RemoveBlocks.name, end_of(row.branch))}
                        ),
                        detail=MappingProxyType(detail),
                    )
                )
        return Proposal(tuple(choices), refusals)

    def apply(self, model: ir.Model, facts: FactCache, choices: Sequence[Choice]) -> PassResult:
        """Gate the chosen sites; everybody goes through until ``fit``.

        Raises:
            UsageError: a choice names an unknown site or setting, or a site comes twice.

        """
        rows, refusals = self._sites(model, facts)
        reasons = MappingProxyType(dict(Counter(refusal.reason for refusal in refusals)))
        wanted = _matched(choices, {row.site for row in rows}, self.settings)
        if not wanted:
            return PassResult(0, reasons)
        share_fits(model)
        before = clone(model)
        mark_roots(model)
        aims: dict[str, Aim] = {}
        # Backwards: what a gate replaces is then read by later gates that are in place.
        for row in reversed(rows):
            if row.site in wanted:
                gate = install(model, row, self.decider, self.scope, bias=self.bias)
                always = row.first_is_read and self.scope is Scope.TOKEN
                aims[row.site] = Aim(gate, wanted[row.site], always)
        remove_dead_nodes(model)
        infer_shapes(model)
        kept = cast("dict[str, object]", model.graph.meta)
        kept[_OPEN] = Open(before, before, dict(reversed(aims.items())))
        facts.keep_only(())
        return PassResult(len(wanted), reasons, tuple(dict.fromkeys(choice.site for choice in choices)))

    def fit(self, model: ir.Model, data: Samples | None) -> None:
        """Fit scores, thresholds and biases.

        Raises:
            DataError: there is no data to fit on.

        """
        kept = cast("dict[str, object]", model.graph.meta)
        found = kept.pop(_OPEN, None)
        if not isinstance(found, Open):
            return
        if data is None:
            raise DataError(
                f"{self.name}: thresholds of {len(found.aims)} gates must be fitted and no data was given"
            )
        if self.decider is Decider.LEARNED:
            self._put_scores(model, data, found)
        batches = Batches.of(found.before, data, count=self.calibration_samples, padded=True)
        calibrate(model, tuple(found.aims.values()), batches)
        kept[_FITTED] = Fitted.of(model, found.aims)

    def fit_to(self, model: ir.Model, data: Samples | None, original: ir.Model) -> None:
        """``fit``, with learned scores fitted on ``original``, whose fit other plans share."""
        kept = cast("dict[str, object]", model.graph.meta)
        found = kept.get(_OPEN)
        if isinstance(found, Open):
            kept[_OPEN] = replace(found, original=original)
        self.fit(model, data)

    def check(self, before: ir.Model, after: ir.Model, feeds: Sequence[Feeds]) -> None:
        """Run ``before`` with the same tokens masked.

        Raises:
            VerificationError: naming what is wrong.

        """
        fitted = cast("dict[str, object]", after.graph.meta).get(_FITTED)
        if isinstance(fitted, Fitted):
            check_gates(self.name, before, after, fitted, feeds)

    def _put_scores(self, model: ir.Model, data: Samples, found: Open) -> None:
        scores = fitted_scores(found.original, data, count=self.score_samples, damping=self.damping)
        if not found.aims.keys() <= scores.keys():
            scores = fitted_scores(found.before, data, count=self.score_samples, damping=self.damping)
        for site, aim in found.aims.items():
            name = aim.gate.decision.weight
            assert name is not None  # a learned score has one
            old = stored(model, name)
            store(model, name, scores[site].reshape(old.shape).astype(old.dtype))

    def remaining(
        self, model: ir.Model, facts: FactCache, choice: Choice, samples: Samples
    ) -> Mapping[str, float] | None:
        """The threshold is set so that this share of the tokens goes through."""
        del samples
        rows = {row.site: row for row in self._sites(model, facts)[0]}
        return dict.fromkeys(rows[choice.site].products, 1.0 - share_of(choice.setting))

    def _sites(self, model: ir.Model, facts: FactCache) -> tuple[tuple[RowBranch, ...], tuple[Refusal, ...]]:
        if model.opset_imports.get("", 0) < MINIMUM_OPSET:
            return (), (Refusal("", "the operator set is too old for adaptive operators"),)
        found, refusals = find_row_branches(model, facts)
        rows: list[RowBranch] = []
        reasons = list(refusals)
        for row in found:
            reason = self._refused(row)
            if reason is None:
                rows.append(row)
            else:
                reasons.append(Refusal(row.site, reason))
        return tuple(rows), tuple(reasons)

    def _refused(self, row: RowBranch) -> str | None:
        if row.site in self.skip_sites:
            return "listed in skip_sites"
        if self.decider is Decider.SATURATION and row.before is None:
            return "there is no part before it whose saturation could tell"
        if self.decider is Decider.LEARNED and find_spec("torch") is None:
            return "learned scores are fitted with torch, which is not installed; decider=saturation is not"
        return None


def _has_twin(model: ir.Model) -> bool:
    from adapass.twin.prepare import prepared

    try:
        prepared(model)
    except ModelError:
        return False
    return True


def share_of(setting: str) -> float:
    """Share of the tokens that a setting lets go around."""
    number = setting.removeprefix(PREFIX)
    if not setting.startswith(PREFIX) or not number.isdecimal() or not 0 < int(number) <= 100:
        raise ValueError(f"a setting is skip-1 to skip-100, found '{setting}'")
    return int(number) / 100


def _matched(choices: Sequence[Choice], sites: set[str], settings: Sequence[str]) -> dict[str, float]:
    """The share to skip at each site; refuses before anything is changed."""
    wanted: dict[str, float] = {}
    for choice in choices:
        if choice.site not in sites or choice.setting not in settings:
            raise UsageError(f"this model has no choice {choice.key}; propose() lists sites and settings")
        if choice.site in wanted:
            raise UsageError(f"{choice.family}: site '{choice.site}' was chosen twice; choose one setting")
        wanted[choice.site] = share_of(choice.setting)
    return wanted
