"""The recipe advisor: what counts as similar, what is remembered, what is advised, and the plan of it."""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from adapass.budgeted import BudgetedPass, Choice, Damage
from adapass.cache import Cache, Json
from adapass.errors import UsageError
from adapass.facts import FactCache
from adapass.graph.load import load_model
from adapass.graph.text import parse
from adapass.search import history
from adapass.search.advisor import (
    Advice,
    ModelFeatures,
    Outcome,
    WorkShares,
    advise,
    advised_plan,
    distance,
    features_of,
    outcome_of,
    remember,
)
from adapass.search.history import past_runs
from adapass.search.plan import Part, Plan
from adapass.search.statics import StaticOption
from adapass.text_form import parse_pass

SHARED = Path(os.environ.get("ADAPASS_SHARED", Path(__file__).parents[2].parent / "shared"))

EIGHT = "quantize-8bit"
EXITS = "insert-exits{max-exits=14}"
FAMILIES = (EIGHT, EXITS)
QUANTIZE = cast("BudgetedPass", parse_pass(EIGHT))
KNOBS = cast("BudgetedPass", parse_pass(EXITS))
HERE = "machine a"

CNN = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[N, 3, 8, 8] image) => (float[N, 4] y)
<float[4, 3, 3, 3] c = {CONV}, float[4, 1, 3, 3] d = {DEPTHWISE}, float[4, 4] w = {FULL}>
{
    a = Conv <pads = [1, 1, 1, 1]> (image, c)
    r = Relu (a)
    b = Conv <group = 4, pads = [1, 1, 1, 1]> (r, d)
    p = GlobalAveragePool (b)
    f = Flatten (p)
    y = MatMul (f, w)
}
"""

TRANSFORMER = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[N, T, 4] x) => (float[N, T, 4] y) <float[4, 4] w = {FULL}, float s = {0.5}>
{
    q = MatMul (x, w)
    k = MatMul (x, w)
    v = MatMul (x, w)
    kt = Transpose <perm = [0, 2, 1]> (k)
    scores = MatMul (q, kt)
    scaled = Mul (scores, s)
    p = Softmax <axis = -1> (scaled)
    m = MatMul (p, v)
    y = MatMul (m, w)
}
"""

MLP = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[N, 4] x) => (float[N, 4] y) <float[4, 4] w = {FULL}> { h = MatMul (x, w) y = Relu (h) }
"""


def described(text: str, *, scale: float = 1.0, **circumstances: object) -> ModelFeatures:
    counts = {"CONV": 108, "DEPTHWISE": 36, "FULL": 16}
    for name, count in counts.items():
        text = text.replace(name, ", ".join(str(scale * 0.01 * (i + 1)) for i in range(count)))
    given = {"target": "cpu", "generator": "onnxruntime", "threads": 2, "batch": 1, "max_drop": 0.01}
    return features_of(parse(text), **{**given, "metric": "accuracy", **circumstances})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


BASE = ModelFeatures(
    work=WorkShares(matmul=0.9, attention=0.1),
    log_weights=7.0,
    log_flops=9.0,
    cut_points=15,
    has_token_axis=True,
    has_image_input=False,
    has_vector_input=False,
    target="cpu",
    generator="onnxruntime",
    threads=2,
    batch=1,
    max_drop=0.01,
    metric="accuracy",
)


def away(size: float) -> ModelFeatures:
    """Features at this distance from ``BASE``."""
    return replace(BASE, log_flops=BASE.log_flops + 4.0 * size)


def won(
    knobs: str | None = None,
    shares: Mapping[str, float] | None = None,
    *,
    ratio: float = 0.5,
    lost: tuple[str, ...] = (),
    loss: float = 0.002,
) -> Outcome:
    return Outcome(knobs=knobs, shares=shares or {}, lost=lost, ratio=ratio, search_loss=loss)


def remembering(folder: Path, *runs: tuple[ModelFeatures, Outcome]) -> Cache:
    cache = Cache(folder)
    for index, (features, outcome) in enumerate(runs):
        remember(cache, features, outcome, model=f"model {index}", machine=HERE)
    return cache


def advised(cache: Cache, features: ModelFeatures = BASE, families: tuple[str, ...] = FAMILIES) -> Advice:
    advice = advise(cache, features, families=families, machine=HERE)
    assert advice is not None
    return advice


class TestFeatures:
    def test_operators_tell_a_cnn_from_a_transformer(self) -> None:
        cnn, transformer = described(CNN), described(TRANSFORMER)

        # 2 * 4*8*8 * 27 of the convolution, 2 * 4*8*8 * 9 of the one by channel.
        assert cnn.work.conv == pytest.approx(3 * cnn.work.depthwise)
        assert cnn.work.conv > 0.6
        assert cnn.work.attention == 0.0
        assert (cnn.has_image_input, cnn.has_token_axis) == (True, False)
        assert transformer.work.attention > transformer.work.matmul > 0.05
        assert transformer.work.conv == 0.0
        assert (transformer.has_image_input, transformer.has_token_axis) == (False, True)
        assert distance(cnn, transformer) > 2.0

    @pytest.mark.parametrize("text", [CNN, TRANSFORMER, MLP])
    def test_shares_are_shares_and_weights_are_counted(self, text: str) -> None:
        features = described(text)
        work = features.work

        assert work.conv + work.depthwise + work.matmul + work.attention + work.other == pytest.approx(1.0)
        assert 10**features.log_weights == pytest.approx({CNN: 160, TRANSFORMER: 17, MLP: 16}[text])

    def test_values_of_weights_do_not_count(self) -> None:
        for text in (CNN, TRANSFORMER, MLP):
            assert described(text) == described(text, scale=-3.0)

    def test_a_vector_is_neither_an_image_nor_tokens(self) -> None:
        features = described(MLP)

        assert (features.has_vector_input, features.has_image_input, features.has_token_axis) == (
            True,
            False,
            False,
        )

    def test_token_ids_of_fixed_length_count_as_tokens(self) -> None:
        text = """
        <ir_version: 10, opset_import: ["" : 20]>
        g (int64[1, 6] ids) => (float[1, 6, 2] y) <float[3, 2] e = {1, 2, 3, 4, 5, 6}> { y = Gather (e, ids) }
        """

        assert described(text).has_token_axis
        assert described(text).work == WorkShares(other=1.0)

    def test_a_number_for_each_token_is_no_vector(self) -> None:
        text = """
        <ir_version: 10, opset_import: ["" : 20]>
        g (float[N, T] x) => (float[N, T] y) { y = Softmax <axis = -1> (x) }
        """

        assert (described(text).has_token_axis, described(text).has_vector_input) == (True, False)

    def test_a_grey_image_makes_no_depthwise_convolution(self) -> None:
        text = """
        <ir_version: 10, opset_import: ["" : 20]>
        g (float[N, 1, 8, 8] x) => (float[N, 4, 6, 6] y) <float[4, 1, 3, 3] c = {DEPTHWISE}>
        { y = Conv (x, c) }
        """

        assert described(text).work == WorkShares(conv=1.0)

    def test_known_facts_are_used(self) -> None:
        model = parse(MLP.replace("FULL", ", ".join(["1"] * 16)))
        facts = FactCache(model)
        features = features_of(
            model,
            target="cpu",
            generator="tvm",
            threads=1,
            batch=8,
            max_drop=0.0,
            metric="mse",
            facts=facts,
        )

        assert facts.known()
        assert features.circumstances == ("cpu", "tvm", 1, 8, 0.0, "mse")

    @pytest.mark.real_models
    def test_real_models_of_one_kind_are_near_and_others_are_not(self) -> None:
        folder = SHARED / "models"
        if not folder.is_dir():
            pytest.skip(f"{folder} is absent: set ADAPASS_SHARED to the folder with the trained models")
        small, large, words = (
            features_of(
                load_model(folder / f"{name}.onnx"),
                target="cpu",
                generator="onnxruntime",
                threads=2,
                batch=1,
                max_drop=0.01,
                metric="accuracy",
            )
            for name in ("resnet20-cifar10", "resnet56-cifar10", "minilm-sst2")
        )

        assert distance(small, large) < 0.5
        assert min(distance(small, words), distance(large, words)) > 2.0


class TestDistance:
    def test_is_zero_for_the_same_and_symmetric(self) -> None:
        other = replace(BASE, batch=8, cut_points=3, work=WorkShares(conv=1.0), log_weights=5.0)

        assert distance(BASE, BASE) == 0.0
        assert distance(BASE, other) == distance(other, BASE) > 0.0

    @pytest.mark.parametrize(
        ("other", "expected"),
        [
            pytest.param(replace(BASE, work=WorkShares(matmul=0.4, attention=0.6)), 1.0, id="half-the-work"),
            pytest.param(replace(BASE, log_weights=8.0), 0.25, id="ten-times-the-weights"),
            pytest.param(replace(BASE, log_flops=8.0), 0.25, id="a-tenth-of-the-flops"),
            pytest.param(replace(BASE, cut_points=31), 0.1, id="twice-the-cuts"),
            pytest.param(replace(BASE, has_image_input=True), 0.25, id="an-image"),
            pytest.param(replace(BASE, has_vector_input=True), 0.25, id="a-vector"),
            pytest.param(replace(BASE, has_token_axis=False), 0.25, id="no-tokens"),
            pytest.param(replace(BASE, metric="mse"), 0.25, id="another-metric"),
            pytest.param(replace(BASE, threads=4), 0.15, id="twice-the-threads"),
            pytest.param(replace(BASE, batch=32), 0.75, id="batch-32"),
            pytest.param(replace(BASE, max_drop=0.1), 0.5, id="ten-times-the-budget"),
            pytest.param(replace(BASE, max_drop=0.0), 1.0, id="no-budget"),
        ],
    )
    def test_each_term_counts_as_documented(self, other: ModelFeatures, expected: float) -> None:
        assert distance(BASE, other) == pytest.approx(expected)


class TestRemembering:
    def test_what_is_remembered_comes_back(self, tmp_path: Path) -> None:
        outcome = won(EXITS, {EIGHT: 0.25}, lost=("prune-blocks",), loss=-0.001)
        remember(Cache(tmp_path), BASE, outcome, model="m", machine=HERE)

        (run,) = past_runs(Cache(tmp_path))

        assert (run.model, run.machine, run.features, run.outcome) == ("m", HERE, BASE, outcome)

    def test_a_repeated_run_replaces_its_own_line_only(self, tmp_path: Path) -> None:
        cache = Cache(tmp_path)
        others = [replace(BASE, batch=8), replace(BASE, max_drop=0.02), replace(BASE, target="gpu")]
        for features in (BASE, *others):
            remember(cache, features, won(ratio=0.9), model="m", machine=HERE)
        remember(cache, BASE, won(ratio=0.8), model="other", machine=HERE)
        remember(cache, BASE, won(ratio=0.7), model="m", machine="machine b")
        remember(cache, replace(BASE, cut_points=1), won(ratio=0.4), model="m", machine=HERE)

        runs = past_runs(cache)

        assert [run.outcome.ratio for run in runs] == [0.9, 0.9, 0.9, 0.8, 0.7, 0.4]
        assert runs[-1].features.cut_points == 1

    def test_only_the_newest_are_kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(history, "MOST_RUNS", 3)
        cache = remembering(tmp_path, *[(BASE, won(ratio=0.1 * (i + 1))) for i in range(5)])

        assert [run.model for run in past_runs(cache)] == ["model 2", "model 3", "model 4"]

    @pytest.mark.parametrize(
        ("outcome", "where"),
        [
            pytest.param(won(ratio=math.nan), "ratio", id="not-a-number"),
            pytest.param(won(ratio=0.0), "ratio", id="no-time-at-all"),
            pytest.param(won(shares={EIGHT: 1.5}), "shares", id="more-than-all-sites"),
            pytest.param(won(loss=math.inf), "search_loss", id="infinite-loss"),
            pytest.param(won(""), "knobs", id="a-family-without-a-name"),
        ],
    )
    def test_what_could_not_be_read_again_is_refused(
        self, tmp_path: Path, outcome: Outcome, where: str
    ) -> None:
        with pytest.raises(UsageError, match=rf"cannot be remembered.*{where}"):
            remember(Cache(tmp_path), BASE, outcome, model="m", machine=HERE)
        assert past_runs(Cache(tmp_path)) == ()

    @pytest.mark.parametrize(
        "damage",
        [
            pytest.param({"ratio": -1}, id="a-number-out-of-range"),
            pytest.param({"ratio": "fast"}, id="a-word-for-a-number"),
            pytest.param({"shares": [1]}, id="a-list-for-a-table"),
            pytest.param({"shares": {str(i): 1.0 for i in range(101)}}, id="too-many-families"),
            pytest.param({"code": "rm"}, id="an-unknown-field"),
        ],
    )
    def test_a_damaged_history_counts_as_none_and_is_written_anew(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: dict[str, Json]
    ) -> None:
        cache = remembering(tmp_path, (BASE, won(EXITS)))
        lines = cast("list[dict[str, dict[str, Json]]]", cache.get(history.KIND, history.KEY))
        lines[0]["outcome"].update(damage)
        cache.put(history.KIND, history.KEY, cast("Json", lines))

        with caplog.at_level(logging.WARNING):
            assert advise(cache, BASE, families=FAMILIES, machine=HERE) is None
        assert "is damaged" in caplog.text
        remember(cache, BASE, won(ratio=0.9), model="new", machine=HERE)
        assert [run.model for run in past_runs(cache)] == ["new"]

    @pytest.mark.parametrize("value", [{}, "text", [None], [[]], [{"model": "m"}], 7])
    def test_anything_else_in_its_place_counts_as_none(self, tmp_path: Path, value: Json) -> None:
        cache = Cache(tmp_path)
        cache.put(history.KIND, history.KEY, value)

        assert past_runs(cache) == ()

    def test_too_long_a_history_counts_as_none(self, tmp_path: Path) -> None:
        cache = remembering(tmp_path, (BASE, won()))
        (line,) = cast("list[Json]", cache.get(history.KIND, history.KEY))
        cache.put(history.KIND, history.KEY, [line] * (history.MOST_RUNS + 1))

        assert past_runs(cache) == ()

    def test_flipped_bytes_count_as_none(self, tmp_path: Path) -> None:
        cache = remembering(tmp_path, (BASE, won(ratio=0.5)))
        (file,) = (tmp_path / history.KIND).rglob("*.json")
        document = json.loads(file.read_text("utf-8"))
        document["value"][0]["outcome"]["ratio"] = 0.01
        file.write_text(json.dumps(document), "utf-8")

        assert past_runs(cache) == ()

    def test_processes_at_once_lose_nothing(self, tmp_path: Path) -> None:
        script = """
import sys
from pathlib import Path
from adapass.cache import Cache
from adapass.search.advisor import ModelFeatures, Outcome, WorkShares, remember

folder, name = Path(sys.argv[1]), sys.argv[2]
features = ModelFeatures(
    work=WorkShares(conv=1.0), log_weights=6.0, log_flops=8.0, cut_points=1, has_token_axis=False,
    has_image_input=True, has_vector_input=False, target="cpu", generator="onnxruntime", threads=1,
    batch=1, max_drop=0.01, metric="accuracy",
)
print("ready", flush=True)
sys.stdin.readline()
for index in range(40):
    outcome = Outcome(knobs=None, shares={}, ratio=1.0, search_loss=0.0)
    remember(Cache(folder), features, outcome, model=f"{name} {index}", machine="here")
"""
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", script, str(tmp_path), name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name in ("one", "two")
        ]
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        for worker in workers:
            worker.communicate(timeout=60)

        assert [worker.returncode for worker in workers] == [0, 0]
        expected = {f"{name} {index}" for name in ("one", "two") for index in range(40)}
        assert {run.model for run in past_runs(Cache(tmp_path))} == expected


class TestOutcome:
    def test_it_tells_shares_of_sites_and_losers(self) -> None:
        statics = [option("a", 1.0, 0.1), option("b", 1.0, 0.1), option("b", 2.0, 0.2, setting="dynamic")]
        other = cast("BudgetedPass", parse_pass("insert-exits"))
        plan = Plan((Part(KNOBS, (Choice("insert-exits", "x", "s"),)), Part(QUANTIZE, (statics[1].choice,))))

        outcome = outcome_of(plan, statics, [QUANTIZE, KNOBS, other], ratio=0.4, search_loss=0.001)

        assert outcome == won(EXITS, {EIGHT: 0.5}, ratio=0.4, lost=("insert-exits",), loss=0.001)
        assert outcome.used == {EIGHT, EXITS}

    def test_when_the_original_came_back_everything_tried_lost(self) -> None:
        outcome = outcome_of(Plan(), [option("a", 1.0, 0.1)], [KNOBS], ratio=1.0, search_loss=0.0)

        assert outcome == won(None, {EIGHT: 0.0}, ratio=1.0, lost=(EXITS, EIGHT), loss=0.0)
        assert outcome.used == frozenset()


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


def option(
    site: str, saving: float, damage: float, *, setting: str = "static", **more: object
) -> StaticOption:
    choice = replace(Choice(EIGHT, site, setting), **more)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return StaticOption(QUANTIZE, choice, saving, Damage(damage, damage), 0.5, saved_bytes=100)


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
