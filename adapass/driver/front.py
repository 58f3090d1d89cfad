"""``pareto.json``: everything that was measured on the way, each with the recipe that makes it again.

    kind       further entries
    original   name, seconds, trust
    candidate  name, seconds, trust, search_loss, certified, chosen, recipe
    step       name, position, passed, loss, p_value, expected_seconds      one step of the certification

``recipe`` is a whole ``recipe.yaml`` as plain data: written to a file it goes into
``adapass optimize MODEL --recipe FILE``, which skips the search, and certifies and measures anew.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import cast

from adapass.artifact.recipe_file import recipe_to_text
from adapass.driver.finals import ORIGINAL
from adapass.driver.report import FrontPoint
from adapass.errors import UsageError

Entry = Mapping[str, object]


def front_entries(
    front: Sequence[FrontPoint], *, chosen: str | None = None, certified: Collection[str] = ()
) -> tuple[Entry, ...]:
    """Candidates and the original, fastest first; ``chosen`` and ``certified`` are names of builds."""
    return tuple(
        _entry(point, chosen, certified) for point in sorted(front, key=lambda p: (p.seconds, p.name))
    )


def race_entries(race: Mapping[str, float], chosen: str, certified: Collection[str]) -> tuple[Entry, ...]:
    """The same from mean seconds by name, where no more is known."""
    rows = sorted(race.items(), key=lambda item: (item[1], item[0]))
    return tuple(
        {"kind": ORIGINAL, "name": name, "seconds": seconds}
        if name == ORIGINAL
        else {
            "kind": "candidate",
            "name": name,
            "seconds": seconds,
            "certified": name in certified,
            "chosen": name == chosen,
        }
        for name, seconds in rows
    )


def step_entries(tested: Sequence[Entry]) -> tuple[Entry, ...]:
    """Every step of the certification, in the order of the test."""
    return tuple({"kind": "step", **step} for step in tested)


def recipe_text(plans: Sequence[Entry], number: int) -> str:
    """The recipe of the plan of that number, as the text of a ``recipe.yaml``.

    Raises:
        UsageError: no such plan, or one without a recipe.

    """
    if not 0 <= number < len(plans):
        raise UsageError(f"there is no plan {number}; expected 0 to {len(plans) - 1}")
    recipe = plans[number].get("recipe")
    if not isinstance(recipe, Mapping) or not recipe:
        raise UsageError(f"plan {number} ({plans[number].get('name', '')}) has no recipe")
    return recipe_to_text(cast("Mapping[str, object]", recipe))


def without_recipes(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """For showing: the recipes are in the file."""
    return tuple({key: value for key, value in entry.items() if key != "recipe"} for entry in entries)


def _entry(point: FrontPoint, chosen: str | None, certified: Collection[str]) -> Entry:
    known: dict[str, object] = {"name": point.name, "seconds": point.seconds, "trust": str(point.trust)}
    if point.name == ORIGINAL:
        return {"kind": ORIGINAL, **known}
    return {
        "kind": "candidate",
        **known,
        "search_loss": point.search_loss,
        "certified": point.name in certified,
        "chosen": point.name == chosen,
        "recipe": dict(point.recipe),
    }
