from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from adapass.budgeted import Array
from adapass.cli.feeds import GeneratedSamples

Invoke = Callable[..., Result]


def test_times_every_model_at_every_setting(invoke: Invoke, model: Path, other_model: Path) -> None:
    options = ("--batch", "1,4", "--threads", "1,2", "--rounds", 2, "--samples", 8)
    result = invoke("bench", model, other_model, *options, "--json", "-q")

    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert found["inputs"] == "generated"
    assert [(r["model"], r["threads"], r["batch"]) for r in found["rows"]] == [
        (name, threads, batch)
        for threads in (1, 2)
        for batch in (1, 4)
        for name in ("tiny.onnx", "other.onnx")
    ]
    assert [row["ratio"] is None for row in found["rows"]] == [True, False] * 4
    assert result.stderr == ""


def test_generated_inputs_fill_any_batch(invoke: Invoke, model: Path) -> None:
    result = invoke("bench", model, "--batch", "64", "--rounds", 2, "--threads", 1, "--json", "-q")

    timing = json.loads(result.stdout)["rows"][0]["timing"]
    # Samples a second are 64 times calls a second.
    assert timing["throughput_per_second"] * timing["mean_seconds"] == pytest.approx(64, rel=0.01)


def test_real_inputs_make_a_table(invoke: Invoke, model: Path, other_model: Path, inputs: Path) -> None:
    options = ("--data", inputs, "--rounds", 2, "--threads", 1, "--batch", 2, "--time-limit", "5s")
    result = invoke("bench", model, other_model, *options)

    assert result.exit_code == 0
    assert "samples/s" in result.stdout
    assert "generated" not in result.stdout
    assert "1/1 1 threads, batch 2" in result.stderr


def test_too_little_data_for_a_batch_is_said(invoke: Invoke, model: Path, inputs: Path) -> None:
    result = invoke("bench", model, "--data", inputs, "--batch", 6)

    assert result.exit_code == 2
    assert "5 samples, expected at least 6" in result.stderr


def test_generated_batches_repeat_samples_but_not_shared_inputs() -> None:
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    case: dict[str, Array] = {"x": rows, "scale": np.ones(1, np.float32), "step": np.array(1.0)}
    batch = GeneratedSamples((case,), 5).batch([0, 1, 2, 3, 4])

    assert {name: array.shape for name, array in batch.items()} == {"x": (5, 3), "scale": (1,), "step": ()}
    np.testing.assert_array_equal(batch["x"], rows[[0, 1, 0, 1, 0]])
