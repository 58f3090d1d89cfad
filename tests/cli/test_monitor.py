from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import typer
from typer.testing import CliRunner, Result

from adapass.artifact import Contents, Description, Kind, Original, Port, write_artifact
from adapass.artifact.files import file_info
from adapass.artifact.manifest import Exits, Quality
from adapass.cli.guard import guarded
from adapass.cli.monitor import monitor

SHARES = (0.7, 0.2, 0.1)
SAMPLES = 1000
# The exit follows from the input: 1 where x is above 0, else 0.
TEXT = """
<ir_version: 10, opset_import: ["" : 18]>
adaptive (float[N] x) => (float[N] y, int64[N] adapass_exit)
<float zero = {0.0}>
{
  y = Identity(x)
  late = Greater(x, zero)
  adapass_exit = Cast<to = 7>(late)
}
"""


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return make(tmp_path, Exits(rule="max-probability", shares=SHARES))


def make(folder: Path, exits: Exits | None, samples: int = SAMPLES) -> Path:
    model = folder / "adaptive.onnx"
    model.write_bytes(onnx.parser.parse_model(TEXT).SerializeToString())
    info = file_info(model)
    about = Description(
        kind=Kind.ORIGINAL,
        target="cpu",
        task="accuracy",
        inputs=(Port(name="x", dtype="float32", shape=("N",)),),
        outputs=(
            Port(name="y", dtype="float32", shape=("N",)),
            Port(name="adapass_exit", dtype="int64", shape=("N",)),
        ),
        original=Original(name=model.name, sha256=info.sha256, size_bytes=info.size_bytes),
        quality=Quality(metric="accuracy", before=0.9, after=0.9, samples=samples),
        exits=exits,
    )
    recipe = {"schema": 1, "passes": ["clean"], "options": {"seed": 0}}
    return write_artifact(
        folder / "a.adapass", Contents(description=about, model=model, recipe=recipe, pareto=())
    )


def call(*arguments: object, text: str | bytes | None = None) -> Result:
    app = typer.Typer()
    app.command()(guarded(monitor))
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=text)


def lines(shares: tuple[float, ...], count: int, seed: int = 0) -> str:
    drawn = np.random.default_rng(seed).choice(3, count, p=shares)
    return "".join(f"{taken}\n" for taken in drawn)


def test_calm_traffic_ends_with_code_0(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "exits.txt").write_text(lines(SHARES, 600))

    result = call(artifact, "--exits", tmp_path / "exits.txt")

    assert result.exit_code == 0, result.stderr
    assert "no alarm: 600 samples" in result.stdout
    assert "of 200 (false alarms, ever: at most 0.01)" in result.stdout


def test_harder_traffic_ends_with_code_4_and_says_what_to_do(artifact: Path) -> None:
    result = call(artifact, "--exits", "-", "--json", text=lines((0.3, 0.3, 0.4), 600))

    assert result.exit_code == 4
    report = json.loads(result.stdout)
    assert report["samples"] == report["alarm"]["sample"] < 200
    assert report["expected"] == list(SHARES)
    assert report["reference_samples"] == SAMPLES
    assert "adapass: drift: after" in result.stderr
    assert "Exit" in result.stderr


def test_reads_json_lines(artifact: Path) -> None:
    text = '{"exit": 2, "when": "now"}\n\n1\n  {"exit": 0}  \n'

    report = json.loads(call(artifact, "--exits", "-", "--json", text=text).stdout)

    assert report["counts"] == [1, 1, 1]
    assert report["alarm"] is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("3", "'3' found; a whole number from 0 to 2"),
        ("-1", "'-1' found"),
        ("1.0", "'1.0' found"),
        ("9" * 5000, "found; a whole number"),
        ('{"exit": true}', "found; a whole number"),
        ('{"exist": 1}', "'exit'"),
        ('{"exit": 1', "not valid JSON"),
        ('{"exit":' + "[" * 20_000, "not valid JSON"),
        ("1" * 70_000, "longer than 65,536 bytes"),
        ("\udc80".encode("utf-8", "surrogateescape").decode("latin-1"), "found; a whole number"),
    ],
)
def test_names_the_bad_line_and_saves_nothing(
    artifact: Path, tmp_path: Path, line: str, message: str
) -> None:
    result = call(
        artifact, "--exits", "-", "--state", tmp_path / "state.json", text=f"0\n1\n{line}\n".encode("latin-1")
    )

    assert result.exit_code == 2
    assert "standard input, line 3" in result.stderr
    assert message in result.stderr
    assert not (tmp_path / "state.json").exists()


def test_goes_on_from_the_state_as_if_there_had_been_no_break(artifact: Path, tmp_path: Path) -> None:
    text, state = lines((0.55, 0.3, 0.15), 301), tmp_path / "state.json"
    whole = json.loads(call(artifact, "--exits", "-", "--json", text=text).stdout)

    parts = [
        call(artifact, "--exits", "-", "--state", state, "--json", text=text[start : start + 100])
        for start in range(0, len(text), 100)
    ]

    assert json.loads(parts[-1].stdout) == whole
    assert whole["evidence"] > 1
    assert json.loads(call(artifact, "--state", state, "--json").stdout) == whole
    assert not list(tmp_path.glob("*.partial"))


def test_an_alarm_stays_in_the_state(artifact: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    first = call(artifact, "--exits", "-", "--state", state, "--json", text="2\n" * 100)

    again = call(artifact, "--state", state, "--json", "-q")

    assert first.exit_code == again.exit_code == 4
    assert again.stdout == first.stdout
    assert again.stderr == ""


def test_refuses_a_state_of_something_else(artifact: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    call(artifact, "--exits", "-", "--state", state, text="0\n")
    (tmp_path / "other").mkdir()
    other = make(tmp_path / "other", Exits(rule="margin", shares=(0.5, 0.5, 0.0)))

    assert "watched another artifact" in call(other, "--state", state).stderr
    assert (
        "begun with --false-alarm-rate 0.01"
        in call(artifact, "--state", state, "--false-alarm-rate", 0.1).stderr
    )
    state.write_text("{}")
    damaged = call(artifact, "--state", state)
    assert damaged.exit_code == 2
    assert "state.json: monitor state" in damaged.stderr


def test_runs_the_artifact_on_data(artifact: Path, tmp_path: Path) -> None:
    x = np.where(np.random.default_rng(0).random(70) < 0.25, 1, -1).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, labels=np.zeros(70, np.int64))

    result = call(artifact, "--data", tmp_path / "data.npz", "--json", "--batch", 32)

    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["counts"] == [int((x < 0).sum()), int((x > 0).sum()), 0]


def test_data_without_the_inputs_is_refused(artifact: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", labels=np.zeros(70, np.int64))

    result = call(artifact, "--data", tmp_path / "data.npz")

    assert result.exit_code == 2
    assert "input 'x' is missing" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "nothing to watch"),
        (("--state", "missing.json"), "nothing to watch"),
        (("--exits", "-", "--data", "x.npz"), "give one of them"),
        (("--exits", "missing.txt"), "cannot be read"),
        (("--exits", "."), "cannot be read"),
        (("--exits", "-", "--false-alarm-rate", "0"), "false alarm rate is 0"),
        (("--exits", "-", "--state", "missing/state.json"), "cannot be written"),
    ],
)
def test_says_what_is_wrong_with_the_options(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)

    result = call(artifact, *options, text="0\n")

    assert result.exit_code == 2
    assert message in result.stderr


def test_an_artifact_without_exits_cannot_be_watched(tmp_path: Path) -> None:
    result = call(make(tmp_path, None), "--exits", "-", text="0\n")

    assert result.exit_code == 2
    assert "no early exits" in result.stderr


def test_shares_of_other_samples_are_refused(tmp_path: Path) -> None:
    result = call(make(tmp_path, Exits(rule="margin", shares=SHARES), 999), "--exits", "-", text="0\n")

    assert result.exit_code == 2
    assert "not the shares of 999 samples" in result.stderr


def test_what_came_through_a_pipe_is_saved_when_interrupted(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state.json"

    def interrupted(stream: object, categories: int, where: str) -> object:
        yield from (0, 1, 0)
        raise KeyboardInterrupt

    monkeypatch.setattr("adapass.drift.lines.read_categories", interrupted)
    result = call(artifact, "--exits", "-", "--state", state, text="")

    assert result.exit_code == 130
    assert json.loads(state.read_text())["counts"] == [2, 1, 0]
