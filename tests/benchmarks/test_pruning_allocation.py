"""benchmarks.pruning_allocation: what is noted of a row, and how it is told."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.pruning_allocation import JOINT, Row, known_rows, paired_error, table


def test_noise_is_that_of_the_difference_sample_by_sample() -> None:
    one, other = np.array([True, True, False, False]), np.array([True, False, True, False])

    assert paired_error(one, other) == pytest.approx(np.sqrt(0.5 / 4))
    assert paired_error(one, one) == 0.0


def test_a_row_judged_again_replaces_the_one_before(tmp_path: Path) -> None:
    first = Row("m", refit=False, share=0.5, method=JOINT, accuracy=0.5)
    again = replace(first, accuracy=0.6, held=100)
    other = replace(first, share=0.6)
    state = tmp_path / "state.jsonl"
    state.write_text("\n".join(json.dumps(asdict(row)) for row in (first, other, again)), encoding="utf-8")

    assert sorted(known_rows(state), key=lambda row: row.share) == [again, other]


def test_the_table_stars_the_least_divergence_and_tells_noise() -> None:
    ours = Row("m", refit=False, share=0.5, method=JOINT, divergence=0.1, accuracy=0.9)
    rule = replace(ours, method="uniform", divergence=0.2, noise=0.0123)

    line = next(line for line in table([ours, rule]).splitlines() if line.startswith("0.5"))

    assert "0.1000*" in line
    assert "0.2000 " in line
    assert line.endswith("(1.23)")
