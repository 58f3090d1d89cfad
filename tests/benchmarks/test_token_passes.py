"""The table of token passes: what is told of a plan, and when time does not follow work."""

from __future__ import annotations

import pytest

from benchmarks.token_passes import Row, line_of, note_of, table


@pytest.mark.parametrize(
    ("work", "took", "clean", "noted"),
    [(0.5, 0.6, 1.0, False), (0.5, 0.65, 1.0, True), (0.5, 0.6, 0.9, True), (0.5, 0.3, 1.0, False)],
    ids=["within", "beyond", "clean-model-is-faster", "faster-than-its-work"],
)
def test_a_note_is_due_where_time_is_a_quarter_above_work(
    work: float, took: float, clean: float, noted: bool
) -> None:
    note = note_of(work, took, clean)
    assert bool(note) == noted
    assert not noted or f"is {100 * (took / (work * clean) - 1):.0f} % above" in note


def test_the_part_of_the_time_that_does_not_shrink() -> None:
    """0.2 + 0.7 x work, the clean model among the points; equal plans count once."""
    works = (0.8, 0.5, 0.5, 0.3)
    rows = [Row("top-k", "a", 0.01, f"{w}", 1, 0.0, 0.0, w, w, 0.2 + 0.7 * w, "") for w in works]

    assert line_of(rows, 0.9) == pytest.approx((0.2, 0.7))


def test_the_table_has_work_beside_time_and_what_optimize_made() -> None:
    row = Row("top-k", "g-search", 0.005, "m1=keep-0.5", 31, 0.4, 0.6, 0.61, 0.63, 0.7, "")

    text = table("vit", [row], 0.95, {"tokens": {"time": 0.71, "points_on_certify": 0.4}, "all": {"job": {}}})

    (line,) = [line for line in text.splitlines() if "g-search" in line]
    assert line.split() == [
        "top-k",
        "g-search",
        "0.50",
        "31",
        "+0.40",
        "+0.60",
        "0.61",
        "0.63",
        "0.70",
        "m1=keep-0.5",
    ]
    assert "0.71x of the original's time, +0.40 points" in text
    assert text.splitlines()[-1].split() == ["all", "the", "original", "was", "kept"]
