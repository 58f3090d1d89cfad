"""Leave tokens behind that the rest of the network need not read.

    x = Add(stream, attention(stream))         x = Add(stream, attention(stream))
                                               kept, valid = SelectTokens(score, count)
                                               x' = GatherTokens(x, kept)
    y = Add(x, feed_forward(x))           ->   y = Add(x', feed_forward(x'))
    ...                                        ...

From one site on, or up to the next one, layers run on the tokens that matter; which these are is read from
the attention before (Fayyaz et al. 2022, arXiv:2111.15667; Goyal et al. 2020, arXiv:2001.08950), and what is
not dropped may be merged (Bolya et al. 2023, arXiv:2210.09461). The work of every product behind falls in
proportion, that of the attentions with the square. Each sample keeps its own number of tokens: results do not
depend on its batch, nor on padding. Models with a result a token, or a mean over tokens, get all tokens back
before that, in order, each in its last state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar, cast

import onnx_ir as ir

from adapass.analyses.cut_sites import CutSites
from adapass.analyses.dataflow import Dataflow
from adapass.budgeted import BudgetedPass, Choice, Feeds, Proposal, Refusal, Samples
from adapass.errors import DataError, UsageError
from adapass.facts import FactCache
from adapass.graph.edit import remove_dead_nodes
from adapass.graph.shapes import infer_shapes
from adapass.graph.text import clone
from adapass.moments.batches import spread
from adapass.ops import MINIMUM_OPSET
from adapass.passes.prune.kept_weights import check_weights
from adapass.passes.prune.linear_ops import linear_ops
from adapass.passes.tokens.counting import kept_by_running, kept_by_share, lengths, shares
from adapass.passes.tokens.fit import fit_probes, is_open
from adapass.passes.tokens.refit import refit_result, row_products
from adapass.passes.tokens.scores import scorable
from adapass.passes.tokens.settings import Rule, Score, Setting
from adapass.passes.tokens.sites import Site, Sites, find_sites
from adapass.passes.tokens.surgery import Surgery, Wanted
from adapass.rewrite import PassResult

EXITS_FAMILY = "insert-exits"
COUNTED_SAMPLES = 64
SKETCH_SAMPLES = 64
_ORIGINAL = "adapass.prune-tokens.original"
"""Where a graph keeps, between ``apply`` and ``fit``, what it was; not serialised."""


@dataclass(frozen=True, kw_only=True)
class PruneTokens(BudgetedPass):
    """After an attention the tokens that matter least are dropped, merged, or go around some layers.

    Sites are named after the stream behind an attention. Settings are a rule and a share of what is there:
    ``keep-0.7``, ``merge-0.7``, ``bypass-0.7``, ``mass-0.9``, ``learned-0.7``, ``threshold-0.7``. The first
    token stays where the result is read from it.
    """

    name: ClassVar[str] = "prune-tokens"
    max_distortion: ClassVar[float] = 1.0
    structural: ClassVar[bool] = True
    damage_samples: ClassVar[int] = 192
    """Few verdicts change where few tokens go."""
    source: ClassVar[str] = "Fayyaz et al. 2022, arXiv:2111.15667"

    settings: tuple[str, ...] = ("learned-0.7", "learned-0.5", "learned-0.3", "merge-0.7")
    """What is offered at each site, the preferred one first."""
    score: Score = Score.AUTO
    """What says how much a token matters; ``learned`` and ``threshold`` always learn it."""
    fit_samples: int = 256
    """How many samples, evenly spaced, learned scores and thresholds are fitted on."""
    damping: float = 1e-2
    """Pull of learned scores towards the same for all tokens, relative to the mean variance of the states."""
    refit_samples: int = 1024
    """How many samples, evenly spaced, products with one row a sample are fitted on again; 0: not at all."""
    refit_ridge: float = 1e-3
    """Pull of these towards the weights they had, relative to the mean square of what they multiply; larger
    ones are tried as well."""
    skip_sites: tuple[str, ...] = ()
    """Sites where nothing is left behind."""

    def __post_init__(self) -> None:
        if not self.settings or len(set(self.settings)) != len(self.settings):
            raise ValueError(f"settings must name each setting once, found {list(self.settings)}")
        for text in self.settings:
            Setting.parse(text)
        if not self.damping > 0.0:
            raise ValueError(f"damping must be positive, found {self.damping}")
        if self.fit_samples < 1:
            raise ValueError(f"fit_samples must be at least 1, found {self.fit_samples}")
        if self.refit_samples < 0:
            raise ValueError(f"refit_samples must be at least 0, found {self.refit_samples}")
        if not self.refit_ridge > 0.0:
            raise ValueError(f"refit_ridge must be positive, found {self.refit_ridge}")

    @property
    def sketch(self) -> PruneTokens:
        """Few samples, and nothing refitted: enough to tell where tokens matter."""
        return replace(self, fit_samples=min(self.fit_samples, SKETCH_SAMPLES), refit_samples=0)

    def propose(self, model: ir.Model, facts: FactCache) -> Proposal:
        found = self._find(model, facts)
        choices = [
            Choice(
                family=self.name,
                site=site.name,
                setting=text,
                excludes=_hidden(site, Setting.parse(text), facts),
                detail=self._detail(site, text),
            )
            for site in found.sites
            for text in self.settings
            if self._offers(site, text)
        ]
        offered = {choice.site for choice in choices}
        reason = "attentions are written in a form that no setting can score tokens by"
        bare = [Refusal(site.name, reason) for site in found.sites if site.name not in offered]
        return Proposal(tuple(choices), (*found.refusals, *bare))

    def apply(self, model: ir.Model, facts: FactCache, choices: Sequence[Choice]) -> PassResult:
        """Rewrite the chosen sites; until ``fit``, learned scores are alike and thresholds keep everything.

        Raises:
            UsageError: a choice names an unknown site or setting, or a site twice.

        """
        found = self._find(model, facts)
        wanted = self._matched(found, choices)
        reasons = MappingProxyType(dict(Counter(refusal.reason for refusal in found.refusals)))
        if not wanted:
            return PassResult(0, reasons)
        original = clone(model)
        surgery = Surgery(model, facts, found)
        for each in wanted:
            surgery.leave_behind(each)
        remove_dead_nodes(model)
        infer_shapes(model)
        cast("dict[str, object]", model.graph.meta)[_ORIGINAL] = original
        facts.keep_only(())
        return PassResult(len(wanted), reasons, tuple(each.site.name for each in wanted))

    def fit(self, model: ir.Model, data: Samples | None) -> None:
        """Fit learned scores and thresholds, then what reads the result; without data only leave tokens.

        Raises:
            DataError: something is open and no data was given.
            UsageError: the model was stored and read back between ``apply`` and ``fit``.

        """
        original = cast("dict[str, object]", model.graph.meta).pop(_ORIGINAL, None)
        if is_open(model) and data is None:
            raise DataError(
                f"{self.name}: learned scores must be fitted and no data was given; give data, or choose "
                "settings without (keep, merge, mass, bypass)"
            )
        if is_open(model) and not isinstance(original, ir.Model):
            raise UsageError(
                f"{self.name}: the original of this model is not at hand; apply and fit in one process"
            )
        if data is None or not isinstance(original, ir.Model):
            return
        if is_open(model):
            fit_probes(model, original, data, count=self.fit_samples, damping=self.damping)
        if self.refit_samples:
            refit_result(original, model, data, count=self.refit_samples, ridge=self.refit_ridge)

    def check(self, before: ir.Model, after: ir.Model, feeds: Sequence[Feeds]) -> None:
        """Compare the weights: only those of products with one row a sample may have been fitted again.

        Raises:
            VerificationError: naming the weight.

        """
        del feeds
        rows = row_products(before)
        ops = [op for op in linear_ops(before) if op.node in rows]
        fitted = {name for op in ops for name in (op.weight, op.bias) if name is not None}
        check_weights(self.name, before, after, fitted)

    def remaining(
        self, model: ir.Model, facts: FactCache, choice: Choice, samples: Samples
    ) -> Mapping[str, float]:
        """Counted on a few samples; where a threshold decides, by the share it is fitted to."""
        found = self._find(model, facts)
        (wanted,) = self._matched(found, [choice])
        indices = spread(len(samples), COUNTED_SAMPLES)
        whole = lengths(wanted.site, found.mask, samples, indices)
        if wanted.setting.rule is Rule.MASS:
            changed = clone(model)
            self.apply(changed, FactCache(changed), [choice])
            kept = kept_by_running(changed, samples, indices)
        else:
            kept = kept_by_share(whole, wanted.setting)
        return shares(wanted.way, whole, kept)

    def _find(self, model: ir.Model, facts: FactCache) -> Sites:
        opset = model.opset_imports.get("", 0)
        if opset < MINIMUM_OPSET:
            return Sites((), (Refusal("", "the operator set is too old for adaptive operators"),), None)
        found = find_sites(model, facts)
        skipped = [Refusal(s.name, "listed in skip_sites") for s in found.sites if s.name in self.skip_sites]
        kept = tuple(site for site in found.sites if site.name not in self.skip_sites)
        return Sites(kept, (*found.refusals, *skipped), found.mask)

    def _offers(self, site: Site, text: str) -> bool:
        setting = Setting.parse(text)
        if setting.rule is Rule.BYPASS and site.bypass is None:
            return False
        if setting.is_learned and not site.teachable:
            return False
        needed = Score.SIMILARITY if setting.rule is Rule.MERGE else Score(self._score(site, text))
        return scorable(site.core, needed, site.core_nodes) is None

    def _detail(self, site: Site, text: str) -> Mapping[str, object]:
        all_back = site.way.end is not None
        return MappingProxyType({"score": str(self._score(site, text)), "all_tokens_come_back": all_back})

    def _score(self, site: Site, text: str) -> Score:
        if Setting.parse(text).is_learned:
            return Score.LEARNED
        if self.score is not Score.AUTO:
            return self.score
        return Score.CLASS_TOKEN if site.first_token else Score.RECEIVED

    def _matched(self, found: Sites, choices: Sequence[Choice]) -> list[Wanted]:
        """What to do, in execution order; refuses before anything is changed."""
        sites = {site.name: site for site in found.sites}
        wanted: dict[str, Wanted] = {}
        for choice in choices:
            site = sites.get(choice.site)
            known = site is not None and choice.setting in self.settings
            if site is None or not known or not self._offers(site, choice.setting):
                raise UsageError(f"this model has no choice {choice.key}; propose() lists sites and settings")
            if choice.site in wanted:
                raise UsageError(f"{self.name}: site '{choice.site}' is chosen twice; choose one setting")
            setting = Setting.parse(choice.setting)
            wanted[choice.site] = Wanted(site, setting, self._score(site, choice.setting))
        return sorted(wanted.values(), key=lambda each: each.site.position)


def _hidden(site: Site, setting: Setting, facts: FactCache) -> frozenset[tuple[str, str]]:
    """Exits that cannot sit where tokens go around: what they are crosses beside those that go on."""
    end = site.way_of(setting).end
    if end is None:
        return frozenset()
    last = facts.get(Dataflow).producer[end]
    cuts = facts.get(CutSites).sites
    return frozenset((EXITS_FAMILY, cut.value) for cut in cuts if site.position <= cut.position < last)
