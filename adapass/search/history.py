"""What past runs came to, in the on-disk cache: the newest ``MOST_RUNS``, one a model and circumstances.

What is read is checked in full: a history that is damaged, or of another form, counts as none.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Final, cast

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from adapass.budgeted import BudgetedPass
from adapass.cache import Cache, Json
from adapass.errors import UsageError
from adapass.search.features import ModelFeatures, Share, Word
from adapass.search.plan import Plan
from adapass.search.statics import StaticOption

KIND: Final = "recipe-history"
KEY: Final[Json] = {"form": 1}
MOST_RUNS = 200
MOST_FAMILIES = 100

logger = logging.getLogger(__name__)

FamilyText = Annotated[str, Field(min_length=1, max_length=100_000)]
"""``str`` of a pass, options included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What won in a run, and what was tried and did not."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    knobs: FamilyText | None
    """The family whose run-time knobs the winner has."""
    shares: Annotated[Mapping[FamilyText, Share], Field(max_length=MOST_FAMILIES)]
    """Of each static family, the share of its sites that the winner uses."""
    lost: Annotated[tuple[FamilyText, ...], Field(max_length=MOST_FAMILIES)] = ()
    """Families that were tried and are no part of the winner."""
    ratio: Annotated[float, Field(gt=0.0, lt=1e6)]
    """Measured latency over that of the original; 1.0 when the original came back."""
    search_loss: float
    """Mean paired loss on the search samples."""

    @property
    def used(self) -> frozenset[str]:
        """The families of the winner."""
        static = frozenset(family for family, share in self.shares.items() if share > 0.0)
        return static if self.knobs is None else static | {self.knobs}


@dataclass(frozen=True, slots=True)
class Run:
    """A line of the history."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    model: Word
    """Digest of the original."""
    machine: Word
    """``Fingerprint.key`` of where it was measured."""
    features: ModelFeatures
    outcome: Outcome

    @property
    def key(self) -> tuple[object, ...]:
        """A run with an equal key takes the place of this one. Sortable."""
        return self.model, self.machine, *self.features.circumstances


_HISTORY: Final = TypeAdapter(Annotated[tuple[Run, ...], Field(max_length=MOST_RUNS)])


def outcome_of(
    plan: Plan,
    statics: Sequence[StaticOption],
    tried: Sequence[BudgetedPass],
    *,
    ratio: float,
    search_loss: float,
) -> Outcome:
    """The outcome of a run that shipped ``plan`` (the empty one: exact rewrites, or the original).

    ``statics`` are all that were priced, ``tried`` all families that had a site and were given a chance.
    """
    knobs = None if plan.knobs is None else str(plan.knobs.step)
    chosen = {(str(part.step), choice.site) for part in plan.parts for choice in part.choices}
    sites: dict[str, set[str]] = {}
    for option in statics:
        sites.setdefault(str(option.step), set()).add(option.choice.site)
    shares = {
        family: sum((family, site) in chosen for site in found) / len(found)
        for family, found in sites.items()
    }
    outcome = Outcome(knobs=knobs, shares=shares, ratio=ratio, search_loss=search_loss)
    everything = {*sites, *(str(step) for step in tried)}
    return replace(outcome, lost=tuple(sorted(everything - outcome.used)))


def remember(cache: Cache, features: ModelFeatures, outcome: Outcome, *, model: str, machine: str) -> None:
    """Add a run, or put it in the place of an older one of the same ``model`` (a digest) and circumstances.

    Raises:
        UsageError: a number or text is out of its range.

    """
    run = Run(model, machine, features, replace(outcome, shares=dict(sorted(outcome.shares.items()))))
    _check(run)
    with cache.locked(KIND):  # between reading and writing nobody else may write
        others = [past for past in past_runs(cache) if past.key != run.key]
        kept = (*others, run)[-MOST_RUNS:]
        cache.put(KIND, KEY, cast("Json", _HISTORY.dump_python(kept, mode="json")))


def past_runs(cache: Cache) -> tuple[Run, ...]:
    """All that is remembered, oldest first."""
    value = cache.get(KIND, KEY)
    if value is None:
        return ()
    try:
        return _HISTORY.validate_python(value)
    except ValidationError as error:
        logger.warning(
            "the history of recipes in %s is damaged (%s); it is ignored", cache.folder, _first(error)
        )
        return ()


def _check(run: Run) -> None:
    # Types say nothing about ranges: what could not be read again must not be written.
    try:
        _HISTORY.validate_python(_HISTORY.dump_python((run,), mode="json"))
    except ValidationError as error:
        raise UsageError(f"the outcome of a run cannot be remembered: {_first(error)}") from error


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    where = ".".join(str(place) for place in found["loc"])
    return f"'{where}': {found['msg']}, found {str(found['input'])[:80]!r}"
