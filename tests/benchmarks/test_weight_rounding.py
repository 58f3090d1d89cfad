"""The table of rounding methods: what it compares with, and that stopped runs go on."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from adapass.passes.quantize.weight_only.rounding import Rounding
from benchmarks.weight_rounding import (
    METHODS,
    Row,
    best_nearest,
    changed_share,
    known_rows,
    step_of,
    table,
)

ROW = Row("m", "int4-g32", "nearest", 3, 0.02, 0.010, 0.1, 0.9, 1_000_000)
ROWS = (
    ROW,
    replace(ROW, method="nearest-mse", divergence=0.008),
    replace(ROW, method="second-order", divergence=0.002),
    replace(ROW, format="int4-g128", divergence=0.001),
)


def test_compares_with_the_better_of_the_two_nearest() -> None:
    assert best_nearest(ROWS, ROWS[2]) == 0.008
    assert table(ROWS).splitlines()[3].split()[-1] == "4.00"
    assert table([replace(ROW, method="learned")]).splitlines()[1].split()[-1] == "-"


def test_goes_on_where_it_was(tmp_path: Path) -> None:
    state = tmp_path / "state.jsonl"
    state.write_text(
        "".join(json.dumps({"samples": n, "row": asdict(ROW)}) + "\n" for n in (64, 256)), encoding="utf-8"
    )

    assert known_rows(state, 64) == [ROW]
    assert known_rows(tmp_path / "none", 64) == []


def test_counts_changed_classes() -> None:
    before = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0], [0.0, 3.0]])

    assert changed_share(before, before[::-1]) == 1.0
    assert changed_share(before, before * [1.0, 0.1]) == 0.0
    assert changed_share(before, before * [0.1, 1.0]) == 0.25


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_is_a_pass(method: str) -> None:
    step = step_of("int4-g32", method, 17)

    assert step.settings == ("int4-g32",)
    assert step.calibration_samples == 17
    assert step.rounding == Rounding(method.removesuffix("-mse"))
