"""The exact part of a run: the clean pipeline, chosen from the request."""

from __future__ import annotations

from adapass.budgeted import BudgetedPass
from adapass.defaults import CLEAN, EXTENSIVE_FAMILIES, FAMILIES, QUICK_FAMILIES
from adapass.driver.request import Mode, Request
from adapass.errors import RecipeError
from adapass.pipeline import Pipeline
from adapass.registry import pass_names
from adapass.rewrite import Exactness, Pass
from adapass.text_form import parse_pass, parse_passes

HEAL = "heal"
FAMILIES_OF = {Mode.QUICK: QUICK_FAMILIES, Mode.DEFAULT: FAMILIES, Mode.EXTENSIVE: EXTENSIVE_FAMILIES}


def split_passes(request: Request) -> tuple[Pipeline, tuple[BudgetedPass, ...]]:
    """The exact passes to run first, and the budgeted families to search over.

    Raises:
        RecipeError: an unknown pass is named, or a lossy one that no budget can bound.

    """
    if request.passes is None:
        families = FAMILIES_OF[request.mode]
        listed: tuple[Pass, ...] = tuple(parse_pass(text) for text in (*CLEAN, *families))
    else:
        listed = parse_passes(request.passes)
    unknown = set(request.skip_passes) - set(pass_names())
    if unknown:
        raise RecipeError(
            f"cannot skip unknown passes {', '.join(sorted(unknown))}; see `adapass passes list`"
        )
    kept = [step for step in listed if step.name not in request.skip_passes]
    budgeted = tuple(step for step in kept if isinstance(step, BudgetedPass))
    exact = [step for step in kept if not isinstance(step, BudgetedPass)]
    if any(step.name == HEAL for step in budgeted):
        raise RecipeError("heal is no family to choose from; ask for it with --heal TIME")
    lossy = [step.name for step in exact if step.exactness is Exactness.LOSSY]
    if lossy:
        raise RecipeError(
            f"{', '.join(lossy)} change the numbers without a budget; run them with a Pipeline in Python"
        )
    return Pipeline(exact), budgeted
