"""What is told of sites that a plan leaves as they were."""

from __future__ import annotations

from typing import cast

from adapass.budgeted import BudgetedPass, Choice, Damage
from adapass.facts import FactCache
from adapass.graph.text import parse
from adapass.search.left_out import left_out
from adapass.search.plan import Part, Plan
from adapass.search.statics import StaticOption
from adapass.text_form import parse_pass
from tests.search.test_statics import MODEL, STEP


def _choices() -> dict[str, Choice]:
    model = parse(MODEL)
    found: dict[str, Choice] = {}
    for choice in STEP.propose(model, FactCache(model)).choices:
        found.setdefault(choice.site, choice)
    return found


def _options(**savings: float) -> list[StaticOption]:
    damages = {"d": 1.0}
    return [
        StaticOption(
            STEP,
            choice,
            savings.get(site, 1e-6),
            Damage(damages.get(site, 0.0), damages.get(site, 0.0)),
            depth=0.0,
            saved_bytes=0,
        )
        for site, choice in _choices().items()
    ]


def _told(plan: Plan, **savings: float) -> list[str]:
    return left_out(parse(MODEL), [STEP], _options(**savings), plan, classes=True)


def _plan(*left: str) -> Plan:
    return Plan((Part(STEP, tuple(c for site, c in _choices().items() if site not in left)),))


def test_nothing_is_said_where_everything_changed() -> None:
    assert _told(_plan()) == []


def test_slower_sites_are_named_with_their_cost() -> None:
    (said,) = _told(_plan("a", "b"), a=-2e-6, b=-2e-6)

    assert said == (
        "quantize-8bit changed 4 of 6 sites; "
        "as it was stays 'a', 'b' (measured: it would cost up to 2.0 us a call)"
    )


def test_damaging_sites_are_named_with_saving_and_share_of_the_damage() -> None:
    (said,) = _told(_plan("d", "a"), d=4e-6)

    assert "as it was stays 'd', 'a' (together it would save 5.0 us a call, for 100 % of the damage" in said


def test_many_sites_are_counted() -> None:
    (said,) = _told(Plan())

    assert "changed 0 of 6 sites" in said
    assert " and 3 more (" in said


def test_refused_sites_come_in_the_words_of_the_family() -> None:
    picky = cast("BudgetedPass", parse_pass("quantize-8bit{min-matmul-elements=50}"))
    options = [
        StaticOption(picky, o.choice, o.saving, o.damage, 0.0, 0) for o in _options() if o.choice.site != "y"
    ]
    plan = Plan((Part(picky, tuple(option.choice for option in options)),))

    (said,) = left_out(parse(MODEL), [picky], options, plan, classes=True)

    assert said.endswith("as it was stays 'y' (the weight is too small to pay for the conversions)")


def test_what_was_cut_is_not_blamed_on_its_numbers() -> None:
    cut = cast("BudgetedPass", parse_pass("remove-blocks"))
    gone = Choice(family=cut.name, site="c", setting="remove")
    plan = Plan((Part(cut, (gone,)), *_plan("c").parts))

    (said,) = left_out(parse(MODEL), [cut, STEP], _options(), plan, classes=True)

    assert said.endswith("'c' (cut out or replaced by another family)")


def test_what_was_chosen_for_size_alone_is_named() -> None:
    small = Choice("quantize-weights", "a", "float16", detail={"faster_on": []})
    quick = Choice("quantize-weights", "b", "int4-g32", detail={"faster_on": ["onnxruntime"]})
    weights = cast("BudgetedPass", parse_pass("quantize-weights"))

    said = left_out(parse(MODEL), [], [], Plan((Part(weights, (small, quick)),)), classes=True)

    assert said == ["'a': chosen for size, nothing runs these formats faster"]
