"""`adapass pick`, and `--point` of the commands that run artifacts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from adapass.artifact import load_artifact, read_artifact
from adapass.cli.contestants import portable_model
from adapass.cli.guard import guarded
from adapass.cli.pick import pick
from adapass.driver.recipe import read_plan
from adapass.ops import EXIT_THRESHOLDS
from tests.driver.served import Served, serve

Invoke = Callable[..., Result]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """An adaptive artifact with the points p0 = safe, p1, p2 = balanced, p3 = fast."""
    return serve(tmp_path_factory.mktemp("served"))


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(guarded(pick))

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return call


def test_lists_points_and_what_was_measured(command: Invoke, served: Served, tmp_path: Path) -> None:
    result = command(served.folder, "--list")

    assert result.exit_code == 0
    for words in (
        "p0 = safe",
        "p2 = balanced",
        "default",
        "(modelled)",
        "chosen, certified",
        "0.150 ms (modelled)",
    ):
        assert words in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_list_as_json(command: Invoke, served: Served) -> None:
    found = json.loads(command(served.folder, "--list", "--json").stdout)

    assert [point["name"] for point in found["points"]] == ["p0", "p1", "p2", "p3"]
    assert [point["default"] for point in found["points"]] == [False, False, False, True]
    assert [entry["kind"] for entry in found["front"]] == ["candidate", "candidate", "original"]
    assert found["front"][0]["recipe"]["schema"] == 1


def test_picks_by_name(command: Invoke, served: Served, tmp_path: Path) -> None:
    result = command(served.folder, "--point", "safe", "-o", "mine")

    assert result.exit_code == 0
    assert "artifact: mine.adapass" in result.stdout
    assert read_artifact(tmp_path / "mine.adapass").manifest.default_point == "p0"
    assert result.stderr == ""


def test_picks_by_budget_and_says_when_that_counts(command: Invoke, served: Served, tmp_path: Path) -> None:
    result = command(served.folder, "--max-drop", 0.3, "--json")

    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert found["certificate"]["max_drop"] == 0.3
    assert "settled beforehand" in result.stderr
    assert (tmp_path / found["artifact"] / "manifest.json").is_file()
    assert "settled" not in command(served.folder, "--max-drop", 0.3, "--quiet").stderr


def test_picks_by_latency(command: Invoke, served: Served) -> None:
    found = json.loads(command(served.folder, "--latency", "10s", "--json").stdout)

    assert found["point"]["name"] == "p0"


@pytest.mark.parametrize(
    "words", [("--latency", "1us"), ("--max-drop", "0.0001")], ids=["too-fast", "too-careful"]
)
def test_what_no_point_gives_is_exit_code_3(
    command: Invoke, served: Served, tmp_path: Path, words: tuple[str, str]
) -> None:
    result = command(served.folder, *words)

    assert result.exit_code == 3
    assert "p3 = fast: drop" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give one of"),
        (("--point", "safe", "--max-drop", "0.1"), "give one of"),
        (("--list", "--point", "safe"), "give one of"),
        (("--point", "best"), "no operating point 'best'"),
        (("--latency", "soon"), "--latency is 'soon'"),
        (("--plan", "1"), "needs --output"),
        (("--plan", "7", "-o", "r.yaml"), "there is no plan 7"),
    ],
)
def test_senseless_words_are_exit_code_2(
    command: Invoke, served: Served, words: tuple[str, ...], message: str
) -> None:
    result = command(served.folder, *words)

    assert result.exit_code == 2
    assert message in result.stderr


def test_writes_the_recipe_of_a_plan(command: Invoke, served: Served, tmp_path: Path) -> None:
    result = command(served.folder, "--plan", 0, "-o", "plan.yaml")

    assert result.exit_code == 0
    assert read_plan(tmp_path / "plan.yaml").knobs == {}
    assert command(served.folder, "--plan", 0, "-o", "plan.yaml").exit_code == 2


class TestPointOfOtherCommands:
    @pytest.fixture
    def inputs(self, served: Served, tmp_path: Path) -> Path:
        np.savez(tmp_path / "inputs.npz", allow_pickle=False, **dict(served.feeds))
        return tmp_path / "inputs.npz"

    def test_run(self, invoke: Invoke, served: Served, inputs: Path, tmp_path: Path) -> None:
        result = invoke("run", served.folder, inputs, "--point", "p1", "-o", "out.npz", "--threads", 1)

        assert result.exit_code == 0
        with load_artifact(served.folder, threads=1, point="p1") as loaded:
            expected = loaded.run(served.feeds)["logits"]
        with np.load(tmp_path / "out.npz", allow_pickle=False) as outputs:
            np.testing.assert_array_equal(outputs["logits"], expected)

    def test_verify(self, invoke: Invoke, command: Invoke, served: Served, tmp_path: Path) -> None:
        command(served.folder, "--point", "p1", "-o", "one.adapass")
        picked, fast = tmp_path / "one.adapass", served.folder

        assert invoke("verify", picked, fast, "--point", "p1").exit_code == 0
        assert invoke("verify", picked, fast, "--point", "p7").exit_code == 2
        built_in = portable_model(fast, "p1").graph.initializers[EXIT_THRESHOLDS].const_value
        assert built_in is not None
        np.testing.assert_array_equal(built_in.numpy(), np.full(2, 0.98, np.float32))

    def test_bench(self, invoke: Invoke, served: Served, tmp_path: Path) -> None:
        original = served.folder.parent / "original.onnx"
        few = {name: array[:4] for name, array in served.feeds.items()}
        np.savez(tmp_path / "few.npz", allow_pickle=False, **few)

        result = invoke(
            "bench", original, served.folder, "--point", "safe", "--data", "few.npz", "--threads", 1,
            "--samples", 4, "--rounds", 1, "--json",
        )  # fmt: skip

        assert result.exit_code == 0
        assert len(json.loads(result.stdout)["rows"]) == 2

    @pytest.mark.parametrize("words", [("run", "{m}", "{i}"), ("verify", "{m}", "{m}"), ("bench", "{m}")])
    def test_a_plain_file_has_no_points(
        self, invoke: Invoke, model: Path, inputs: Path, words: tuple[str, ...]
    ) -> None:
        filled = [word.format(m=model, i=inputs) for word in words]

        result = invoke(*filled, "--point", "safe")

        assert result.exit_code == 2
        assert "point" in result.stderr
