"""Remove channels, attention heads and neurons, really: smaller tensors, then fit what is left.

    h = Relu (Conv (x, w1 [64, ...], b1))  ->  h = Relu (Conv (x, w1' [48, ...], b1'))
    y = Conv (h, w2 [64, 64, ...], b2)     ->  y = Conv (h, w2' [64, 48, ...], b2')

Faster because the products are smaller; nothing is masked. Right because ``adapass.coupling`` says what must
shrink together, because the units that go are those whose loss the others can make up for best, and because
the weights that read them, and all behind, are solved for anew so that each product says what the
original's said. That needs inputs and no labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar

import onnx_ir as ir

from adapass.budgeted import BudgetedPass, Choice, Damage, Feeds, Proposal, Refusal, Samples
from adapass.coupling.groups import Coupling, Group
from adapass.coupling.remove import remove
from adapass.errors import DataError, ModelError, UsageError, VerificationError
from adapass.executor.threads import one_thread
from adapass.facts import FactCache
from adapass.graph.digest import digest
from adapass.graph.text import clone
from adapass.moments.batches import Batches
from adapass.passes.prune.curves import (
    Some,
    change,
    has_tokens,
    is_read_by_products_alone,
    measured,
    parted,
)
from adapass.passes.prune.generated import Generated
from adapass.passes.prune.importance import Importance, removals
from adapass.passes.prune.linear_ops import linear_ops, store, stored
from adapass.passes.prune.pending import Note, digest_of, note_removal, pending, read_note, settle
from adapass.passes.prune.refit import Refit, refit
from adapass.passes.prune.widths import Kind, setting_of, width_of, widths
from adapass.rewrite import PassResult
from adapass.search.damage import one_by_one

SKETCH_SAMPLES = 384


@dataclass(frozen=True, kw_only=True)
class PruneStructures(BudgetedPass):
    """Structured pruning with closed-form reconstruction; one site a group of coupled dimensions.

    ``apply`` cuts by the size of the weights, which is what the model will be like to run; ``fit`` chooses
    again from data what goes, and refits the rest.
    """

    name: ClassVar[str] = "prune-structures"
    max_distortion: ClassVar[float] = 0.6
    structural: ClassVar[bool] = True
    damage_samples: ClassVar[int] = 1024
    source: ClassVar[str] = (
        "ZipLM (Kurtic et al. 2023, arXiv:2302.04089), optimal brain surgeon (Hassibi and Stork 1993), "
        "channel pruning by reconstruction (He et al. 2017, arXiv:1707.06168)"
    )

    kinds: tuple[Kind, ...] = (Kind.CHANNELS, Kind.NEURONS, Kind.HEADS)
    """What may go: channels, neurons, heads, head-width, stream (what residual sums run over), embedding,
    experts, states."""
    ratios: tuple[float, ...] = (0.75, 0.5, 0.25, 0.125)
    """Shares of the units that may stay; each group is offered all of them."""
    multiple: int = 64
    """Channels and neurons are left in multiples of this where a group is at least four times as large.

    Narrower groups are left in multiples of a half or a quarter of it, down to 16."""
    importance: Importance = Importance.SECOND_ORDER
    """What goes first: second-order, activation, or magnitude (which needs no data)."""
    refit: Refit = Refit.FOLLOWING
    """Which products are fitted again: readers of what was pruned, or following (all behind as well)."""
    samples: int = 768
    """Samples, evenly spaced, to choose and to fit a plan on; single choices are fitted on fewer."""
    measured: int = 256
    """Samples, others than those, that damage is measured on."""
    rows: int = 24
    """Positions (pixels, tokens) of each sample that count."""
    ridge: float = 1e-4
    """Least pull of fitted weights towards what they were, relative to the size of what they read.

    Stronger ones are tried, fitted on one half of the samples for the other."""
    generated: int = 0
    """Without data, fit on so many generated inputs; 0 refuses to. The model notes that it was so."""
    skip_sites: tuple[str, ...] = ()
    """Groups that stay whole."""

    def __post_init__(self) -> None:
        if not self.ratios or not all(0.0 < ratio < 1.0 for ratio in self.ratios):
            raise ValueError(f"ratios must be shares between 0 and 1, found {list(self.ratios)}")
        if not self.kinds or len(set(self.kinds)) != len(self.kinds):
            raise ValueError(f"kinds must name each kind once, found {[str(kind) for kind in self.kinds]}")
        for name, least in (("multiple", 1), ("samples", 1), ("measured", 1), ("rows", 1), ("generated", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, found {getattr(self, name)}")
        if not self.ridge > 0.0:
            raise ValueError(f"ridge must be above 0, found {self.ridge}")

    @property
    def sketch(self) -> PruneStructures:
        """Fewer samples: one group alone is fitted well with less than a plan of many."""
        return replace(self, samples=min(self.samples, SKETCH_SAMPLES))

    def propose(self, model: ir.Model, facts: FactCache) -> Proposal:
        found = self._find(model, facts)
        products = {op.weight: op.node for op in linear_ops(model)}
        choices = [
            Choice(
                family=self.name,
                site=group.key,
                setting=setting_of(width),
                excludes=_excluded(group, products),
                detail=MappingProxyType(
                    {
                        "kind": str(group.kind),
                        "units": group.units,
                        "kept": width,
                        "value": _first_value(group),
                        "removed_elements": group.removed_elements * (group.units - width),
                    }
                ),
            )
            for group, offered in found.offers
            for width in offered
        ]
        return Proposal(tuple(choices), found.refusals)

    def apply(self, model: ir.Model, facts: FactCache, choices: Sequence[Choice]) -> PassResult:
        """Cut the chosen groups to their widths, keeping the largest weights until ``fit``.

        Raises:
            UsageError: a choice names an unknown site or setting, or a site twice.
            ModelError: the model is pruned already, and not fitted.

        """
        found = self._find(model, facts)
        chosen = _matched(choices, found.offers)
        if pending(model) is not None:
            raise ModelError("the model is pruned and not fitted yet; fit it before it is pruned again")
        if chosen:
            original = clone(model)
            kept = _kept(original, chosen, None, self)
            remove(model, kept, facts)
            note_removal(model, original, [group for group, _ in chosen], kept)
            facts.keep_only(())
        reasons = Counter(refusal.reason for refusal in found.refusals)
        return PassResult(
            len(chosen), MappingProxyType(dict(reasons)), tuple(group.key for group, _ in chosen)
        )

    def fit(self, model: ir.Model, data: Samples | None) -> None:
        """Choose from data which units go, and refit the rest.

        Raises:
            DataError: something is pruned and not fitted, and there is no data.

        """
        waiting = pending(model)
        if waiting is None:
            return
        original = waiting.original
        if data is None and not self.generated:
            raise DataError(
                f"{self.name}: what remains of {len(waiting.kept)} groups must be fitted and no data was "
                f"given; give data, or fit on noise: {self.name}{{generated=64}}"
            )
        samples = data if data is not None else Generated.of(original, self.generated, seed=0)
        chosen = [(group, len(waiting.kept[group.key])) for group in waiting.groups]
        batches = self._batches(original, samples, FactCache(original))
        with one_thread():
            kept = _kept(original, chosen, batches, self)
            fitted = clone(original)
            remove(fitted, kept)
            names = refit(original, fitted, waiting.groups, kept, batches, which=self.refit, ridge=self.ridge)
        note = Note(
            kept=dict(kept),
            fitted=True,
            generated=data is None,
            weights=names,
            digest=digest_of(fitted, names),
        )
        settle(model, fitted, note)

    def damages(
        self, model: ir.Model, facts: FactCache, choices: Sequence[Choice], samples: Samples
    ) -> Mapping[str, Damage]:
        """Damage of each choice alone, by its key; one walk serves all groups that products alone read.

        Where there are enough samples, it is measured on others than it is fitted on.
        """
        offers = self._find(model, facts).offers
        chosen = [(choice, *_matched([choice], offers)[0]) for choice in choices]
        quick = [each for each in chosen if is_read_by_products_alone(model, each[1])]
        found = dict(self._at_once(model, facts, quick, samples)) if quick else {}
        slow = [choice for choice, *_ in chosen if choice.key not in found]
        if slow:
            shown, held = (Some(samples, tuple(part)) for part in self._parted(samples))
            found |= one_by_one(model, self, slow, fit=shown, samples=held)
        return {choice.key: found[choice.key] for choice in choices}

    def _at_once(
        self,
        model: ir.Model,
        facts: FactCache,
        quick: Sequence[tuple[Choice, Group, int]],
        samples: Samples,
    ) -> Mapping[str, Damage]:
        stops: dict[str, set[int]] = {}
        for _, group, width in quick:
            stops.setdefault(group.key, set()).add(width)
        groups = {group.key: group for _, group, _ in quick}
        shown, held = self._parted(samples)
        with one_thread():
            orders = removals(
                model, groups, stops, self._batches(model, samples, facts, shown), self.importance
            )
            changes = [
                change(model, choice.key, group, orders[group.key], width) for choice, group, width in quick
            ]
            seen = Batches.of(
                model, samples, rows_each=None, facts=facts, indices=held, padded=not has_tokens(model, facts)
            )
            return measured(model, changes, seen)

    def check(self, before: ir.Model, after: ir.Model, feeds: Sequence[Feeds]) -> None:
        """``after`` is exactly ``before`` without the units noted, but for the weights fitted last.

        Raises:
            VerificationError: something else changed, or fitted weights changed after they were fitted.

        """
        del feeds
        note = read_note(after)
        if note is None or not note.fitted:
            raise VerificationError("the note on what was pruned is missing, or says that nothing was fitted")
        if digest_of(after, note.weights) != note.digest:
            raise VerificationError("fitted weights are not those that were fitted")
        expected = clone(before)
        try:
            remove(expected, note.kept)
        except UsageError as error:
            raise VerificationError(f"what is noted cannot have been removed: {error}") from error
        for name in note.weights:
            if name not in expected.graph.initializers or name not in after.graph.initializers:
                raise VerificationError(f"fitted weight '{name}' is missing")
            store(expected, name, stored(after, name))
        if digest(expected) != digest(after):
            raise VerificationError("the model differs from the one before by more than what was removed")

    def _find(self, model: ir.Model, facts: FactCache) -> _Found:
        coupling = facts.get(Coupling)
        offers: list[tuple[Group, tuple[int, ...]]] = []
        refusals = list(coupling.refusals)
        for group in coupling.groups:
            if group.kind not in self.kinds or group.key in self.skip_sites:
                continue
            offered = widths(Kind(group.kind), group.units, self.ratios, self.multiple)
            if offered:
                offers.append((group, offered))
            else:
                refusals.append(Refusal(group.key, "the group is too small for any of the ratios"))
        return _Found(tuple(offers), tuple(refusals))

    def _parted(self, samples: Samples) -> tuple[list[int], list[int]]:
        return parted(len(samples), self.sketch.samples, self.measured)

    def _batches(
        self, model: ir.Model, samples: Samples, facts: FactCache, indices: Sequence[int] | None = None
    ) -> Batches:
        return Batches.of(
            model,
            samples,
            count=self.samples,
            rows_each=self.rows,
            facts=facts,
            indices=indices,
            padded=True,
        )


@dataclass(frozen=True, slots=True)
class _Found:
    """What can be pruned, and what cannot."""

    offers: tuple[tuple[Group, tuple[int, ...]], ...]
    refusals: tuple[Refusal, ...]


def _excluded(group: Group, products: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    """Low rank is offered for the size a product has: what is narrower may have other ranks."""
    return frozenset(
        ("factorize", products[place.value]) for place in group.stored if place.value in products
    )


def _first_value(group: Group) -> str:
    """The first computed value that carries the units: where in the model the group begins."""
    return next((place.value for place in group.places if not place.is_stored), "")


def _matched(
    choices: Sequence[Choice], offers: Sequence[tuple[Group, tuple[int, ...]]]
) -> list[tuple[Group, int]]:
    """Groups with their widths, in execution order; refuses before anything is changed."""
    offered = {group.key: widths_ for group, widths_ in offers}
    wanted: dict[str, int] = {}
    for choice in choices:
        width = width_of(choice.setting)
        if choice.site not in offered or width is None or width not in offered[choice.site]:
            raise UsageError(f"this model has no choice {choice.key}; propose() lists sites and settings")
        if choice.site in wanted:
            raise UsageError(
                f"{choice.family}: site '{choice.site}' is chosen twice; choose one setting a site"
            )
        wanted[choice.site] = width
    return [(group, wanted[group.key]) for group, _ in offers if group.key in wanted]


def _kept(
    model: ir.Model, chosen: Sequence[tuple[Group, int]], batches: Batches | None, options: PruneStructures
) -> dict[str, tuple[int, ...]]:
    """The units that stay, by key."""
    groups = {group.key: group for group, _ in chosen}
    stops = {group.key: {width} for group, width in chosen}
    orders = removals(model, groups, stops, batches, options.importance)
    return {group.key: orders[group.key].removal.kept(width, group.units) for group, width in chosen}
