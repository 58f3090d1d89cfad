from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

Invoke = Callable[..., Result]


def test_times_every_model_at_every_setting(invoke: Invoke, model: Path, other_model: Path) -> None:
    result = invoke(
        "bench",
        model,
        other_model,
        "--batch",
        "1,4",
        "--threads",
        "1,2",
        "--rounds",
        2,
        "--samples",
        2,
        "--json",
        "-q",
    )

    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert found["inputs"] == "generated"
    assert [(r["threads"], r["batch"]) for r in found["results"]] == [(1, 1), (2, 1), (1, 4), (2, 4)]
    for timed in found["results"]:
        baseline, other = timed["models"]
        assert (baseline["model"], other["model"]) == ("tiny.onnx", "other.onnx")
        assert baseline["ratio"] is None
        assert other["ratio"]["low"] <= other["ratio"]["value"] <= other["ratio"]["high"]
        assert 0 < other["median_seconds"] <= other["p99_seconds"]
    assert result.stderr == ""


def test_a_larger_batch_counts_as_more_samples(invoke: Invoke, model: Path) -> None:
    result = invoke(
        "bench", model, "--batch", "64", "--rounds", 2, "--samples", 2, "--threads", 1, "--json", "-q"
    )

    timed = json.loads(result.stdout)["results"][0]["models"][0]
    # Samples a second are 64 times calls a second; the mean is over the same calls.
    assert timed["throughput_per_second"] * timed["mean_seconds"] > 63


def test_real_inputs_make_a_table(invoke: Invoke, model: Path, inputs: Path) -> None:
    result = invoke("bench", model, model, "--data", inputs, "--rounds", 2, "--threads", 1, "--batch", 2)

    assert result.exit_code == 0
    assert "samples/s" in result.stdout
    assert "generated" not in result.stdout
    assert result.stdout.count("tiny.onnx") == 2
    assert "1/1 batch 2, 1 threads" in result.stderr


def test_too_little_data_for_a_batch_is_said(invoke: Invoke, model: Path, inputs: Path) -> None:
    result = invoke("bench", model, "--data", inputs, "--batch", 6)

    assert result.exit_code == 2
    assert "5 samples, fewer than one batch of 6" in result.stderr
