"""The recipe advisor: what won for the most similar models before is the first plan tried for a new one.

Runs count when they were made on the same machine for the same target and generator, when every family of
their winner is at hand now, and when they are near (``features.distance`` below ``NEAR``). Of these the
``NEAREST`` vote: each with 1 - distance for what it shipped, and as much against every plan whose families
it had all tried without shipping them. What is expected of a plan is the mean of log(latency ratio), votes
against counting as no gain, and ``PRIOR`` votes for no gain added; the least wins.

Advice is a place to start, never a result: the plan is applied, fitted and measured like any other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from adapass.budgeted import BudgetedPass
from adapass.cache import Cache
from adapass.search.features import ModelFeatures, WorkShares, distance, features_of
from adapass.search.history import Outcome, Run, outcome_of, past_runs, remember
from adapass.search.plan import tunes
from adapass.search.statics import StaticOption

__all__ = [
    "Advice",
    "ModelFeatures",
    "Outcome",
    "WorkShares",
    "advise",
    "advised_plan",
    "distance",
    "features_of",
    "outcome_of",
    "remember",
]

NEAR = 1.0
NEAREST = 5
PRIOR = 0.5
"""Votes for no gain: a single run that is hardly near promises little."""
OTHER_OPTIONS = 0.1
"""Added to the distance of a run whose winner has a family with other options than it has now."""
ENOUGH_LOSSES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """A first plan. Without knobs and shares: nothing beat the exact rewrites."""

    knobs: str | None
    """Text of the family."""
    shares: Mapping[str, float]
    """By the text of a static family, the share of its sites."""
    runs: int
    """Past runs that shipped this."""
    nearest_ratio: float
    """Measured latency ratio of the nearest of them."""
    skip: frozenset[str]
    """Families that lost in every near run that tried them, at least ``ENOUGH_LOSSES`` of these with a
    budget no smaller than the one now."""
    words: str
    """For the report."""


@dataclass(frozen=True, slots=True)
class _Near:
    run: Run
    outcome: Outcome
    """In the families at hand now."""
    distance: float

    @property
    def vote(self) -> float:
        return 1.0 - self.distance / NEAR


def advise(cache: Cache, features: ModelFeatures, *, families: Sequence[str], machine: str) -> Advice | None:
    """What to start with, of the ``families`` (texts of passes); ``None`` when no past run is near.

    ``machine`` is ``Fingerprint.key``: runs of other machines say nothing about the speed of this one.
    """
    near = _near_runs(past_runs(cache), features, families, machine)
    groups: dict[frozenset[str], list[_Near]] = {}
    for found in near:
        if found.outcome.search_loss <= features.max_drop:  # else it spent more than there is now
            groups.setdefault(found.outcome.used, []).append(found)
    if not groups:
        return None
    # Among equals: fewer families, then the nearer run, then by text.
    best = min(
        groups, key=lambda used: (_expected(used, near), len(used), groups[used][0].distance, sorted(used))
    )
    agreeing = groups[best]
    knobs, shares = agreeing[0].outcome.knobs, _mean_shares(agreeing)
    return Advice(
        knobs=knobs,
        shares=shares,
        runs=len(agreeing),
        nearest_ratio=agreeing[0].outcome.ratio,
        skip=_losers(near, features, families),
        words=_words(knobs, shares, agreeing, len(near)),
    )


def advised_plan(
    advice: Advice, statics: Sequence[StaticOption], families: Sequence[BudgetedPass], *, classes: bool
) -> tuple[tuple[StaticOption, ...], BudgetedPass | None]:
    """The advice as a plan for this model: options in the order of ``statics``, and the knob family.

    Of each advised static family the advised share of sites (one at least), those that save most for
    their damage; an option that costs time is never taken. What excludes each other is not taken together,
    and what needs something else only with it.
    """
    knobs = next((step for step in families if str(step) == advice.knobs and tunes(step)), None)
    at_hand = {str(step) for step in families}
    advised = [option for option in statics if str(option.step) in at_hand and option.saving > 0.0]
    ranked = sorted(advised, key=lambda option: (*_rank(option, classes=classes), option.key))
    quotas = _quotas(advice.shares, statics)
    chosen = _greedy(ranked, quotas)
    while unmet := {option.key for option in chosen if not _needs_met(option, chosen)}:
        ranked = [option for option in ranked if option.key not in unmet]
        chosen = _greedy(ranked, quotas)
    keys = {option.key for option in chosen}
    return tuple(option for option in statics if option.key in keys), knobs


def _near_runs(
    runs: Sequence[Run], features: ModelFeatures, families: Sequence[str], machine: str
) -> list[_Near]:
    """At most ``NEAREST``, nearest first, independent of the order they were remembered in."""
    found: list[_Near] = []
    for run in runs:
        comparable = (run.machine, run.features.target, run.features.generator)
        if comparable != (machine, features.target, features.generator):
            continue
        outcome = _in_families(run.outcome, families)
        if outcome is None:
            continue
        away = distance(features, run.features)
        away += OTHER_OPTIONS if outcome.used != run.outcome.used else 0.0
        if away < NEAR:
            found.append(_Near(run, outcome, away))
    return sorted(found, key=lambda near: (near.distance, near.run.key))[:NEAREST]


def _in_families(outcome: Outcome, families: Sequence[str]) -> Outcome | None:
    """The outcome with its winner told in ``families``: the same text, else the first of the same name.

    ``None`` when one is missing: what lost against it may have lost only for that reason. Losers keep
    their text, since a family that lost with some options may win with others.
    """
    texts = {used: _same_family(used, families) for used in outcome.used}
    found = {used: text for used, text in texts.items() if text is not None}
    if len(found) < len(texts):
        return None
    shares: dict[str, float] = {}
    for family in sorted(found.keys() - {outcome.knobs}):
        shares[found[family]] = max(outcome.shares[family], shares.get(found[family], 0.0))
    knobs = None if outcome.knobs is None else found[outcome.knobs]
    return replace(outcome, knobs=knobs, shares=shares)


def _same_family(text: str, families: Sequence[str]) -> str | None:
    if text in families:
        return text
    return next((family for family in families if _name(family) == _name(text)), None)


def _name(text: str) -> str:
    return text.partition("{")[0]


def _expected(used: frozenset[str], near: Sequence[_Near]) -> float:
    """Logarithm of the latency ratio to expect of a plan of these families; below 0 it is faster."""
    gain, votes = 0.0, PRIOR
    for found in near:
        tried = found.outcome.used | frozenset(found.outcome.lost)
        if used <= tried:
            votes += found.vote
            gain += found.vote * math.log(found.outcome.ratio) if found.outcome.used == used else 0.0
    return gain / votes


def _mean_shares(agreeing: Sequence[_Near]) -> dict[str, float]:
    votes = math.fsum(found.vote for found in agreeing)
    return {
        family: min(
            1.0, math.fsum(found.vote * found.outcome.shares.get(family, 0.0) for found in agreeing) / votes
        )
        for family in sorted(agreeing[0].outcome.shares)
    }


def _losers(near: Sequence[_Near], features: ModelFeatures, families: Sequence[str]) -> frozenset[str]:
    return frozenset(family for family in families if _always_lost(family, near, features))


def _always_lost(family: str, near: Sequence[_Near], features: ModelFeatures) -> bool:
    if any(family in found.outcome.used for found in near):
        return False
    # Too lossy for a smaller budget says little about this one.
    losses = [f for f in near if family in f.outcome.lost and f.run.features.max_drop >= features.max_drop]
    return len(losses) >= ENOUGH_LOSSES


def _words(knobs: str | None, shares: Mapping[str, float], agreeing: Sequence[_Near], near: int) -> str:
    parts = [] if knobs is None else [knobs]
    parts += [f"{family} at {100 * share:.0f} % of its sites" for family, share in shares.items()]
    what = f"start with {' and '.join(parts)}" if parts else "expect no more than exact rewrites give"
    runs = f"{len(agreeing)} of {near} similar past runs" if near > 1 else "one similar past run"
    ratio = f"{agreeing[0].outcome.ratio:.2f}x the original's latency"
    source = f"advice from {runs} on this machine (the nearest came to {ratio})"
    return f"{source}: {what}; --no-advise turns this off"


def _rank(option: StaticOption, *, classes: bool) -> tuple[float, float]:
    damage = option.damage.additive(classes=classes)
    return (-option.saving / damage if damage > 0.0 else -math.inf), -option.saving


def _quotas(shares: Mapping[str, float], statics: Sequence[StaticOption]) -> dict[str, int]:
    """How many sites of each family."""
    sites: dict[str, set[str]] = {}
    for option in statics:
        sites.setdefault(str(option.step), set()).add(option.choice.site)
    return {
        family: max(1, math.floor(share * len(sites[family]) + 0.5))
        for family, share in shares.items()
        if share > 0.0 and family in sites
    }


def _greedy(ranked: Sequence[StaticOption], quotas: Mapping[str, int]) -> list[StaticOption]:
    left, chosen = dict(quotas), list[StaticOption]()
    for option in ranked:
        family = str(option.step)
        if left.get(family, 0) > 0 and not any(_clash(option, taken) for taken in chosen):
            left[family] -= 1
            chosen.append(option)
    return chosen


def _clash(one: StaticOption, other: StaticOption) -> bool:
    if one.slot == other.slot:
        return True
    return _place(one) in other.choice.excludes or _place(other) in one.choice.excludes


def _needs_met(option: StaticOption, chosen: Sequence[StaticOption]) -> bool:
    return not option.choice.needs or any(_place(other) in option.choice.needs for other in chosen)


def _place(option: StaticOption) -> tuple[str, str]:
    return option.choice.family, option.choice.site
