"""`adapass analyze --adaptive`: what each adaptive mechanism could save on this data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from adapass.cli.output import print_json, print_line, print_table
from adapass.errors import UsageError

if TYPE_CHECKING:
    from adapass.passes.prospects.prospect import Place, Prospect
    from adapass.passes.prospects.survey import Survey

SHOWN = 16
"""Sites of a mechanism in the table; JSON has all of them."""
WIDE = 72
"""Characters of a setting in the table."""


def show_adaptive(path: Path, *, data: str | None, allow_code: bool, as_json: bool, quiet: int) -> None:
    """Print a table of mechanisms, one of sites for each, and what to try.

    Raises:
        UsageError: no data was given.

    """
    if data is None:
        raise UsageError("--adaptive asks what this data allows; give --data")
    from adapass.cli.progress import shown_progress
    from adapass.data import load_data
    from adapass.defaults import CLEAN
    from adapass.graph.load import load_model
    from adapass.passes.prospects.survey import advice, recipe_of, survey
    from adapass.pipeline import Pipeline
    from adapass.text_form import parse_pass

    model = load_model(path)
    samples = load_data(data, model, allow_code=allow_code)
    with shown_progress(quiet) as progress:
        clean = Pipeline([parse_pass(name) for name in CLEAN]).run(model, data=samples).model
        found = survey(clean, samples, progress=progress)
    recipe = recipe_of(found.prospects)
    if as_json:
        print_json(
            {
                "data": samples.source,
                "tolerance_points": 100 * found.tolerance,
                "fitted_on": found.fitted_on,
                "checked_on": found.checked_on,
                "mechanisms": [_as_json(prospect) for prospect in found.prospects],
                "advice": advice(found.prospects),
                "recipe": recipe,
            }
        )
        return
    _print(found, samples.source)
    print_line(advice(found.prospects))
    print_line(f"adapass optimize {path} --data {data} --passes '{recipe}'")


def _print(found: Survey, source: str) -> None:
    rows = [
        (
            prospect.mechanism,
            _share(prospect.oracle),
            _share(prospect.achievable),
            _points(prospect.lost),
            _small(prospect.divergence),
            prospect.verdict,
        )
        for prospect in found.prospects
    ]
    columns = ("mechanism", "at best (oracle)", "achievable", "points lost", "divergence", "verdict")
    lost = f"at most {100 * found.tolerance:.1f} points are lost on {found.checked_on} samples"
    print_table(columns, rows, title=f"work saved while {lost}; data: {source}")
    for prospect in found.prospects:
        if prospect.places:
            _print_places(prospect)


def _print_places(prospect: Prospect) -> None:
    shown = sorted(prospect.places, key=lambda place: -(place.achievable or 0.0))[:SHOWN]
    rows = [
        (
            place.site,
            _short(place.setting),
            _share(place.oracle),
            _share(place.achievable),
            _points(place.lost),
            _small(place.divergence),
        )
        for place in prospect.places
        if place in shown
    ]
    columns = ("site", "setting", "at best (oracle)", "achievable", "points lost", "divergence")
    print_table(columns, rows, title=f"{prospect.mechanism}: {prospect.how}")


def _short(text: str) -> str:
    return text if len(text) <= WIDE else f"{text[: WIDE - 4]} ..."


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _small(value: float | None) -> str:
    return "-" if value is None else f"{value:.2e}"


def _as_json(prospect: Prospect) -> dict[str, object]:
    return {
        "mechanism": prospect.mechanism,
        "how": prospect.how,
        "oracle_saving": prospect.oracle,
        "achievable_saving": prospect.achievable,
        "points_lost": None if prospect.lost is None else 100 * prospect.lost,
        "divergence": prospect.divergence,
        "verdict": prospect.verdict,
        "recipe": prospect.recipe,
        "sites": [_place_json(place) for place in prospect.places],
    }


def _place_json(place: Place) -> dict[str, object]:
    return {
        "site": place.site,
        "setting": place.setting,
        "oracle_saving": place.oracle,
        "achievable_saving": place.achievable,
        "points_lost": None if place.lost is None else 100 * place.lost,
        "divergence": place.divergence,
    }
