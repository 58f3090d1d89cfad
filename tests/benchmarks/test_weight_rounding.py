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
    NAME,
    Row,
    best_nearest,
    changed_share,
    earlier,
    interval,
    known_rows,
    merged,
    step_of,
    table,
)

ROW = Row("m", "int4-g32", "nearest", 3, 0.02, 0.010, 0.1, 0.9, 1_000_000)
ROWS = (
    ROW,
    replace(ROW, method="nearest-mse", divergence=0.008),
    replace(ROW, method="second-order", changed=0.01, divergence=0.002),
    replace(ROW, format="int4-g128", divergence=0.001),
)


def test_compares_with_the_better_of_the_two_nearest() -> None:
    assert best_nearest(ROWS, ROWS[2]) == 0.008
    assert table(ROWS).splitlines()[3].split()[-2:] == ["4.00", "2.00"]
    assert table([replace(ROW, method="learned")]).splitlines()[1].split()[-2:] == ["-", "-"]


def test_compares_rows_of_equal_activations_only() -> None:
    exact = replace(ROW, activations="float", divergence=0.001)

    assert best_nearest([*ROWS, exact], ROWS[2]) == 0.008
    assert best_nearest([*ROWS, exact], replace(exact, method="second-order")) == 0.001


def test_says_how_sure_a_share_is() -> None:
    low, high = interval(replace(ROW, changed=0.02, held=1000)) or (0.0, 0.0)

    assert low == pytest.approx(0.01226, abs=1e-4)
    assert high == pytest.approx(0.03073, abs=1e-4)
    assert interval(ROW) is None


def test_rows_that_are_not_measured_again_stay(tmp_path: Path) -> None:
    before = [ROW, replace(ROW, model="other")]
    document = {"samples": 256, "rows": [asdict(row) for row in before]}
    (tmp_path / f"{NAME}.json").write_text(json.dumps(document), encoding="utf-8")
    fresh = replace(ROW, divergence=0.005)

    assert merged([fresh], earlier(256, tmp_path)) == [fresh, before[1]]
    assert earlier(64, tmp_path) == []
    assert earlier(256, tmp_path / "nowhere") == []


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
