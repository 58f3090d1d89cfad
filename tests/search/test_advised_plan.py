"""The plan that comes of advice."""

from __future__ import annotations

from dataclasses import replace

from adapass.budgeted import Damage
from adapass.search.advisor import (
    Advice,
    advised_plan,
)
from adapass.search.statics import StaticOption
from tests.search.past import (
    EIGHT,
    EXITS,
    KNOBS,
    QUANTIZE,
    option,
)


def advice_of(share: float, knobs: str | None = None) -> Advice:
    return Advice(
        knobs=knobs, shares={EIGHT: share}, runs=1, nearest_ratio=0.5, skip=frozenset(), words="words"
    )


def planned(statics: list[StaticOption], share: float) -> list[str]:
    chosen, _ = advised_plan(advice_of(share), statics, [QUANTIZE, KNOBS], classes=True)
    return [f"{o.choice.site} {o.choice.setting}" for o in chosen]


class TestPlan:
    STATICS = (option("a", 1.0, 0.1), option("b", 4.0, 0.1), option("c", 3.0, 0.0), option("d", 2.0, 0.4))

    def test_sites_that_save_most_for_their_damage_are_taken_in_the_order_given(self) -> None:
        assert planned(list(self.STATICS), 0.25) == ["c static"]
        assert planned(list(self.STATICS), 0.5) == ["b static", "c static"]
        assert planned(list(self.STATICS), 0.75) == ["a static", "b static", "c static"]
        assert planned(list(self.STATICS), 1.0) == [f"{site} static" for site in "abcd"]

    def test_shares_are_rounded_and_some_is_at_least_one(self) -> None:
        assert len(planned(list(self.STATICS), 0.4)) == 2
        assert len(planned(list(self.STATICS), 0.01)) == 1
        assert planned(list(self.STATICS), 0.0) == []

    def test_the_metric_decides_which_damage_counts(self) -> None:
        one = replace(option("a", 1.0, 0.0), damage=Damage(0.1, 0.9))
        other = replace(option("b", 1.0, 0.0), damage=Damage(0.9, 0.1))

        for classes, site in ((True, "b"), (False, "a")):
            chosen, _ = advised_plan(advice_of(0.5), [one, other], [QUANTIZE], classes=classes)
            assert [o.choice.site for o in chosen] == [site]

    def test_a_site_gets_one_setting_and_counts_once(self) -> None:
        statics = [
            option("a", 1.0, 0.1),
            option("a", 3.0, 0.1, setting="dynamic"),
            option("b", 1.0, 0.1),
        ]

        assert planned(statics, 0.5) == ["a dynamic"]
        assert planned(statics, 1.0) == ["a dynamic", "b static"]

    def test_what_costs_time_is_left_out(self) -> None:
        assert planned([option("a", -1.0, 0.0), option("b", 0.0, 0.0), option("c", 1.0, 9.0)], 1.0) == [
            "c static"
        ]

    def test_what_excludes_each_other_is_not_taken_together(self) -> None:
        best = option("a", 5.0, 0.1)
        second = option("b", 4.0, 0.1, excludes=frozenset({(EIGHT, "a")}))
        third = option("c", 1.0, 0.1)

        assert planned([best, second, third], 0.67) == ["a static", "c static"]
        swapped = replace(best, choice=replace(best.choice, excludes=frozenset({(EIGHT, "b")})))
        free = replace(second, choice=replace(second.choice, excludes=frozenset[tuple[str, str]]()))
        assert planned([swapped, free, third], 1.0) == ["a static", "c static"]

    def test_what_needs_something_comes_with_it_or_not_at_all(self) -> None:
        needy = option("a", 5.0, 0.1, needs=frozenset({(EIGHT, "c"), (EIGHT, "nowhere")}))
        chained = option("d", 9.0, 0.1, needs=frozenset({(EIGHT, "a")}))
        statics = [needy, option("b", 4.0, 0.1), option("c", 1.0, 0.1), chained]

        assert planned(statics, 1.0) == ["a static", "b static", "c static", "d static"]
        assert planned(statics, 0.5) == ["b static", "c static"]

    def test_knobs_come_along_where_the_family_is_at_hand(self) -> None:
        for families, expected in (([QUANTIZE, KNOBS], KNOBS), ([QUANTIZE], None)):
            _, knobs = advised_plan(advice_of(1.0, EXITS), [], families, classes=True)
            assert knobs == expected
        assert advised_plan(advice_of(1.0, EIGHT), [], [QUANTIZE], classes=True)[1] is None

    def test_static_families_not_at_hand_are_left_out(self) -> None:
        assert advised_plan(advice_of(1.0), self.STATICS, [KNOBS], classes=True) == ((), None)

    def test_the_order_of_options_does_not_decide(self) -> None:
        equal = [option(site, 1.0, 0.1) for site in "abc"]

        assert planned(equal, 0.34) == planned(equal[::-1], 0.34) == ["a static"]
