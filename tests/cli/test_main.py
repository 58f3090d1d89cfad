from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import Result

from adapass.cli.main import app

Invoke = Callable[..., Result]

COMMANDS = (
    "optimize",
    "analyze",
    "bench",
    "verify",
    "bisect",
    "passes",
    "targets",
    "run",
    "cache",
    "doctor",
    "demo",
)
HEAVY = frozenset(
    {"numpy", "onnx", "onnx_ir", "onnxruntime", "scipy", "networkx", "torch", "pydantic", "yaml", "psutil"}
)


def test_help_names_every_command(invoke: Invoke) -> None:
    result = invoke("--help")

    assert result.exit_code == 0
    for command in COMMANDS:
        assert command in result.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, atexit; sys.argv = ['adapass', '--help']; "
        "atexit.register(lambda: sys.stderr.write(' '.join(sys.modules))); "
        "from adapass.cli.main import main; main()"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    imported = set(run.stderr.split())
    assert "adapass.cli.optimize" in imported
    assert imported.isdisjoint(HEAVY)


@pytest.mark.parametrize("command", [*COMMANDS, "passes show", "targets show", "cache clear"])
def test_every_option_has_help(invoke: Invoke, command: str) -> None:
    group: Any = typer.main.get_command(app)
    for word in command.split():
        group = group.commands[word]
    shown = {str(parameter.name): str(getattr(parameter, "help", None) or "") for parameter in group.params}

    assert group.help
    assert [name for name, text in shown.items() if not text] == []


def test_says_its_version(invoke: Invoke) -> None:
    assert invoke("--version").stdout.strip() == version("adapass")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        pytest.param(["run", "missing.onnx", "x.npz"], 2, "x.npz", id="missing-input"),
        pytest.param(["analyze", "missing.onnx"], 2, "give the path of an .onnx file", id="missing-model"),
        pytest.param(["verify", "a.onnx", "b.onnx"], 2, "give the path of an .onnx file", id="missing-pair"),
        pytest.param(["bench", "missing.onnx"], 2, "give the path of an .onnx file", id="missing-contestant"),
        pytest.param(
            ["passes", "show", "nope"], 2, "`adapass passes list` shows them all", id="unknown-pass"
        ),
        pytest.param(
            ["targets", "show", "nope"], 5, "`adapass targets list` shows them all", id="unknown-target"
        ),
        pytest.param(["optimize", "m.onnx", "--mode", "silly"], 2, "quick", id="unknown-mode"),
        pytest.param(["optimize", "m.onnx", "--latency-target", "fast"], 2, "such as 3ms", id="no-duration"),
        pytest.param(
            ["optimize", "m.onnx", "--time-limit", "0s"], 2, "--time-limit is '0s'", id="zero-duration"
        ),
        pytest.param(["bench", "m.onnx", "--batch", "1,zero"], 2, "--batch is '1,zero'", id="no-number"),
        pytest.param(["nonsense"], 2, "nonsense", id="unknown-command"),
        pytest.param(["optimize", "m.onnx", "--nonsense"], 2, "nonsense", id="unknown-option"),
    ],
)
def test_bad_input_ends_with_a_code_and_what_to_do(
    invoke: Invoke, arguments: list[str], code: int, message: str
) -> None:
    result = invoke(*arguments)

    assert result.exit_code == code
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_very_verbose_shows_the_traceback(invoke: Invoke) -> None:
    result = invoke("analyze", "missing.onnx", "-vv")

    assert result.exit_code == 2
    assert "Traceback" in result.stderr


def test_interrupting_the_process_ends_with_130(tmp_path: Path) -> None:
    # Where tests run in the background of a shell, SIGINT is ignored and children inherit that.
    code = (
        "import signal, sys, time, adapass.cli.doctor as d; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); "
        "d._versions = lambda: (print('ready', flush=True), time.sleep(30)); "
        "sys.argv = ['adapass', 'doctor']; from adapass.cli.main import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "ADAPASS_CACHE": str(tmp_path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)

    assert process.returncode == 130
    assert stderr == "adapass: interrupted\n"
