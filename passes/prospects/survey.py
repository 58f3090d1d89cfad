"""All adaptive mechanisms on one model and its data, and which of them to try."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import onnx_ir as ir

from adapass.data import Dataset
from adapass.defaults import CLEAN
from adapass.passes.prospects.exits import look_at_exits
from adapass.passes.prospects.feed_forward import look_at_feed_forward
from adapass.passes.prospects.plans import Mechanism, look_at_plans, without_branches
from adapass.passes.prospects.prospect import WORTH, Material, Prospect
from adapass.passes.prune.remove_blocks import RemoveBlocks
from adapass.passes.prune.remove_blocks_fit import Refit
from adapass.passes.prune.remove_blocks_rewrite import Setting
from adapass.passes.tokens.prune_tokens import PruneTokens
from adapass.progress import Progress, Silent

TOLERANCE = 0.01
FIT_SAMPLES = 256
CHECK_SAMPLES = 128
DROPPING = Mechanism(
    "token pruning",
    "the same share of each sample's tokens, by attention",
    PruneTokens(settings=("keep-0.7", "keep-0.4"), refit_samples=0),
)
MERGING = Mechanism(
    "token merging",
    "the same share of each sample's tokens, by likeness",
    PruneTokens(settings=("merge-0.7", "merge-0.5"), refit_samples=0),
)
BLOCKS = Mechanism(
    "block skipping",
    "the same blocks for all samples, nothing fitted",
    RemoveBlocks(settings=(Setting.REMOVE,), layers=False, refit=Refit.NONE),
    share_of=lambda choice: 0.0,
    remaining=without_branches,
    fits=False,
)
RECIPES: Mapping[str, str] = MappingProxyType(
    {
        BLOCKS.name: 'remove-blocks{settings=["remove", "convolve"]}',
        DROPPING.name: "prune-tokens",
        MERGING.name: 'prune-tokens{settings=["merge-0.85", "merge-0.7", "merge-0.5"]}',
    }
)
"""What to search over, where that is more than what was looked at here."""
EITHER = (DROPPING.name, MERGING.name)
"""Two ways of one family: the better one is tried."""


@dataclass(frozen=True, slots=True)
class Survey:
    """All mechanisms on one model and its data."""

    prospects: tuple[Prospect, ...]
    tolerance: float
    """Mean paired loss at which savings are told."""
    fitted_on: int
    """Samples."""
    checked_on: int


def survey(
    model: ir.Model,
    data: Dataset,
    *,
    tolerance: float = TOLERANCE,
    fit_samples: int = FIT_SAMPLES,
    check_samples: int = CHECK_SAMPLES,
    progress: Progress | None = None,
) -> Survey:
    """What each mechanism could do for a clean ``model``, which is left as it is.

    Raises:
        DataError: there are too few samples.
        UsageError: no measure of quality fits the output.

    """
    watch = progress or Silent()
    material = Material.of(
        model,
        data,
        fit_samples=fit_samples,
        check_samples=check_samples,
        tolerance=tolerance,
        progress=watch,
    )
    looks: tuple[tuple[str, Callable[[Material], Prospect]], ...] = (
        ("early exits", look_at_exits),
        (DROPPING.name, lambda given: look_at_plans(DROPPING, given)),
        (MERGING.name, lambda given: look_at_plans(MERGING, given)),
        ("feed-forward skipping", look_at_feed_forward),
        (BLOCKS.name, lambda given: look_at_plans(BLOCKS, given)),
    )
    found: list[Prospect] = []
    for number, (name, look) in enumerate(looks, 1):
        watch.phase(name, number, len(looks))
        found.append(look(material))
    return Survey(tuple(found), material.tolerance, len(material.fit), len(material.check))


def to_try(prospects: Sequence[Prospect]) -> tuple[Prospect, ...]:
    """Those worth trying, the largest saving first; of two ways of one family the better one."""
    promising = [p for p in prospects if not p.unavailable and (p.achievable or 0.0) >= WORTH]
    ordered = sorted(promising, key=lambda p: -(p.achievable or 0.0))
    rivals = [p for p in ordered if p.mechanism in EITHER]
    return tuple(p for p in ordered if p not in rivals[1:])


def recipe_of(prospects: Sequence[Prospect]) -> str:
    """Pipeline text for ``adapass optimize --passes``: what to search over, in the order it is applied."""
    chosen = to_try(prospects)
    order = (BLOCKS.name, *EITHER, "feed-forward skipping", "early exits")
    ranked = sorted(chosen, key=lambda prospect: order.index(prospect.mechanism))
    texts = [RECIPES.get(prospect.mechanism, prospect.recipe) for prospect in ranked]
    at = next((i for i, text in enumerate(texts) if text.startswith("insert-exits")), len(texts))
    return ", ".join((*CLEAN, *texts[:at], "quantize-8bit", *texts[at:]))


def advice(prospects: Sequence[Prospect]) -> str:
    """One line: what to do."""
    chosen = to_try(prospects)
    if not chosen:
        learn = [p.mechanism for p in prospects if not p.unavailable and (p.oracle or 0.0) >= WORTH]
        if learn:
            return (
                f"nothing saves {WORTH:.0%} of the work as it is; {', '.join(learn)} would if something "
                "told the samples apart: fit on more data"
            )
        return f"no mechanism saves {WORTH:.0%} of the work on this data; try 8 bits and pruning instead"
    named = ", ".join(f"{p.mechanism} ({p.achievable or 0.0:.0%} of the work)" for p in chosen)
    return f"worth trying, best first: {named}"
