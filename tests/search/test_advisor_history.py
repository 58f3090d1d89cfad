"""What the recipe advisor remembers."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from adapass.budgeted import BudgetedPass, Choice
from adapass.cache import Cache, Json
from adapass.errors import UsageError
from adapass.search import history
from adapass.search.advisor import (
    Outcome,
    advise,
    outcome_of,
    remember,
)
from adapass.search.history import past_runs
from adapass.search.plan import Part, Plan
from adapass.text_form import parse_pass
from tests.search.past import (
    BASE,
    EIGHT,
    EXITS,
    FAMILIES,
    HERE,
    KNOBS,
    QUANTIZE,
    option,
    remembering,
    won,
)


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
