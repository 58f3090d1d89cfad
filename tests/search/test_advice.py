"""What the recipe advisor advises, and what it would skip."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from adapass.cache import Cache
from adapass.search.advisor import (
    ModelFeatures,
    Outcome,
    advise,
    advised_plan,
    remember,
)
from tests.search.past import (
    BASE,
    EIGHT,
    EXITS,
    FAMILIES,
    HERE,
    KNOBS,
    QUANTIZE,
    advised,
    away,
    option,
    remembering,
    won,
)


class TestAdvice:
    def test_there_is_none_without_a_past(self, tmp_path: Path) -> None:
        assert advise(Cache(tmp_path), BASE, families=FAMILIES, machine=HERE) is None

    def test_what_won_before_is_advised_in_plain_words(self, tmp_path: Path) -> None:
        advice = advised(remembering(tmp_path, (BASE, won(EXITS, {EIGHT: 0.85}, ratio=0.42))))

        assert (advice.knobs, advice.shares) == (EXITS, {EIGHT: 0.85})
        assert (advice.runs, advice.nearest_ratio, advice.skip) == (1, 0.42, frozenset())
        assert advice.words == (
            "advice from one similar past run on this machine (the nearest came to 0.42x the original's "
            "latency): start with insert-exits{max-exits=14} and quantize-8bit at 85 % of its sites; "
            "--no-advise turns this off"
        )

    def test_the_nearest_wins_over_a_far_one_that_gained_more(self, tmp_path: Path) -> None:
        near, far = (away(0.1), won(EXITS, ratio=0.5)), (away(0.8), won(None, {EIGHT: 1.0}, ratio=0.4))

        assert advised(remembering(tmp_path / "1", near, far)).knobs == EXITS
        assert advised(remembering(tmp_path / "2", far, near)).knobs == EXITS

    def test_as_near_the_larger_gain_wins(self, tmp_path: Path) -> None:
        runs = (away(0.1), won(EXITS, ratio=0.5)), (away(-0.1), won(None, {EIGHT: 1.0}, ratio=0.4))
        advice = advised(remembering(tmp_path, *runs))

        assert (advice.knobs, advice.shares) == (None, {EIGHT: 1.0})

    def test_runs_that_agree_strengthen_each_other_and_are_averaged(self, tmp_path: Path) -> None:
        advice = advised(
            remembering(
                tmp_path,
                (BASE, won(EXITS, ratio=0.45)),
                (away(0.5), won(None, {EIGHT: 0.4}, ratio=0.4)),
                (away(0.5), won(None, {EIGHT: 0.7}, ratio=0.4)),
                (away(0.25), won(None, {EIGHT: 1.0}, ratio=0.4)),
            )
        )

        assert advice.shares == pytest.approx({EIGHT: (0.5 * 0.4 + 0.5 * 0.7 + 0.75 * 1.0) / 1.75})
        assert (advice.runs, advice.knobs) == (3, None)
        assert "from 3 of 4 similar" in advice.words

    def test_runs_that_tried_it_and_chose_otherwise_speak_against_a_plan(self, tmp_path: Path) -> None:
        for_it = (away(0.1), won(EXITS, ratio=0.6))
        also = (BASE, won(None, {EIGHT: 1.0}, ratio=0.7))
        against = [(away(0.1), won(ratio=1.0, lost=(EXITS,))) for _ in range(3)]

        assert advised(remembering(tmp_path / "1", for_it, also)).knobs == EXITS
        assert advised(remembering(tmp_path / "2", for_it, also, *against)).shares == {EIGHT: 1.0}

    def test_where_nothing_won_nothing_is_advised(self, tmp_path: Path) -> None:
        runs = [(away(0.1 * i), won(ratio=1.0, lost=FAMILIES)) for i in range(3)]
        advice = advised(remembering(tmp_path, *runs))

        assert (advice.knobs, advice.shares, advice.runs) == (None, {}, 3)
        assert "expect no more than exact rewrites give" in advice.words
        assert advised_plan(advice, [option("a", 1.0, 0.1)], [QUANTIZE, KNOBS], classes=True) == ((), None)

    @pytest.mark.parametrize(
        ("features", "machine"),
        [
            pytest.param(replace(BASE, target="h200"), HERE, id="another-target"),
            pytest.param(replace(BASE, generator="tvm"), HERE, id="another-generator"),
            pytest.param(BASE, "machine b", id="another-machine"),
            pytest.param(away(1.0), HERE, id="too-far"),
        ],
    )
    def test_what_cannot_be_compared_is_ignored(
        self, tmp_path: Path, features: ModelFeatures, machine: str
    ) -> None:
        cache = Cache(tmp_path)
        remember(cache, features, won(EXITS), model="m", machine=machine)

        assert advise(cache, BASE, families=FAMILIES, machine=HERE) is None

    def test_only_the_five_nearest_count(self, tmp_path: Path) -> None:
        far = (away(0.6), won(EXITS, ratio=0.01))
        near = [(away(0.5), won(None, {EIGHT: 1.0}, ratio=0.9)) for _ in range(5)]

        assert advised(remembering(tmp_path / "4", far, *near[:4])).knobs == EXITS
        assert advised(remembering(tmp_path / "5", far, *near)).knobs is None

    def test_a_winner_with_a_family_not_at_hand_says_nothing(self, tmp_path: Path) -> None:
        cache = remembering(tmp_path, (BASE, won(EXITS, {EIGHT: 1.0})))

        assert advise(cache, BASE, families=(EIGHT,), machine=HERE) is None
        assert advise(cache, BASE, families=(EXITS,), machine=HERE) is None

    def test_a_family_with_other_options_stands_in_but_counts_less(self, tmp_path: Path) -> None:
        quick = "insert-exits{head=linear max-exits=6}"
        cache = remembering(
            tmp_path, (BASE, won(EXITS, ratio=0.5)), (away(0.05), won(None, {EIGHT: 1.0}, ratio=0.5))
        )

        assert advised(cache).knobs == EXITS
        assert advised(cache, families=(EIGHT, quick)).shares == {EIGHT: 1.0}
        assert advised(remembering(tmp_path / "2", (BASE, won(EXITS))), families=(quick,)).knobs == quick
        assert advised(cache, families=(EXITS, quick, EIGHT)).knobs == EXITS

    def test_what_lost_more_than_may_be_lost_now_is_not_advised(self, tmp_path: Path) -> None:
        cache = remembering(tmp_path, (BASE, won(EXITS, loss=0.004)))

        assert advised(cache, replace(BASE, max_drop=0.004)).knobs == EXITS
        assert advise(cache, replace(BASE, max_drop=0.003), families=FAMILIES, machine=HERE) is None

    def test_the_order_of_the_past_does_not_count(self, tmp_path: Path) -> None:
        runs = [
            ("m1", won(EXITS, ratio=0.5, lost=(EIGHT,))),
            ("m2", won(None, {EIGHT: 0.5}, ratio=0.5, lost=(EXITS,))),
            ("m3", won(EXITS, {EIGHT: 0.3}, ratio=0.5)),
        ]
        found: set[str] = set()
        for index, order in enumerate(itertools.permutations(runs)):
            cache = Cache(tmp_path / str(index))
            for model, outcome in order:
                remember(cache, BASE, outcome, model=model, machine=HERE)
            found.add(repr(advised(cache)))

        assert len(found) == 1
        assert "knobs='insert-exits{max-exits=14}', shares={}" in found.pop()

    def test_among_equals_fewer_families_win(self, tmp_path: Path) -> None:
        many = (BASE, won(None, {"aaa": 1.0, "bbb": 1.0}, lost=(EXITS,)))
        one = (BASE, won(EXITS, lost=("aaa", "bbb")))

        assert advised(remembering(tmp_path, many, one), families=("aaa", "bbb", EXITS)).knobs == EXITS


class TestSkipping:
    def losses(self, count: int) -> list[tuple[ModelFeatures, Outcome]]:
        return [(away(0.1 * i), won(EXITS, lost=(EIGHT,))) for i in range(count)]

    def test_a_family_that_lost_in_three_near_runs_may_be_skipped(self, tmp_path: Path) -> None:
        assert advised(remembering(tmp_path / "3", *self.losses(3))).skip == {EIGHT}
        assert advised(remembering(tmp_path / "2", *self.losses(2))).skip == frozenset()

    def test_not_when_it_won_in_one(self, tmp_path: Path) -> None:
        cache = remembering(tmp_path, *self.losses(3), (away(0.4), won(EXITS, {EIGHT: 0.1})))

        assert advised(cache).skip == frozenset()

    def test_losing_within_a_smaller_budget_says_nothing(self, tmp_path: Path) -> None:
        cache = remembering(tmp_path, *self.losses(3))

        assert advised(cache, replace(BASE, max_drop=0.009)).skip == {EIGHT}
        assert advised(cache, replace(BASE, max_drop=0.011)).skip == frozenset()

    def test_losing_with_other_options_says_nothing(self, tmp_path: Path) -> None:
        cache = remembering(tmp_path, *self.losses(3))

        assert advised(cache, families=("quantize-8bit{per-channel=false}", EXITS)).skip == frozenset()

    def test_far_runs_do_not_count(self, tmp_path: Path) -> None:
        far = [(away(1.5 + i), won(EXITS, lost=(EIGHT,))) for i in range(3)]

        assert advised(remembering(tmp_path, (BASE, won(EXITS)), *far)).skip == frozenset()
