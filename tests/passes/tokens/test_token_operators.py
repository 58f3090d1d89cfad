"""SelectTokens, GatherTokens, ScatterTokens, MergeTokens: each sample as if it were alone."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.tokens.reference import best_tokens, merged, run_node

OPSETS = [13, 18, 20]


def scores(batch: int, tokens: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Few different values, so that there are ties; the first token is never dropped."""
    found = np.random.default_rng(3).integers(0, 5, (batch, tokens)).astype(np.float32)
    found[:, 0] = np.inf
    return found


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(
    ("tokens", "counts"),
    [(7, [3, 7, 1]), (7, [2]), (1, [1, 1]), (5, [9, 2]), (4, [0, 0]), (6, [6, 6])],
    ids=["mixed", "one-count", "one-token", "more-than-there-are", "nothing", "everything"],
)
def test_the_best_are_selected_in_order(tokens: int, counts: list[int], opset: int) -> None:
    batch = max(2, len(counts))
    score = scores(batch, tokens)

    found = run_node(
        "SelectTokens", {"score": score, "count": np.array(counts)}, ["kept", "valid"], opset=opset
    )

    places = min(tokens, max(1, *counts, 1))
    assert found["kept"].shape == (batch, places)
    for row, kept in enumerate(found["kept"]):
        assert kept.tolist() == best_tokens(score[row], places)
    np.testing.assert_array_equal(found["valid"], np.arange(places) < np.array(counts)[:, None])


def test_no_samples_are_no_trouble() -> None:
    found = run_node(
        "SelectTokens", {"score": scores(0, 4), "count": np.zeros(0, np.int64)}, ["kept", "valid"]
    )
    assert found["kept"].shape == found["valid"].shape == (0, 1)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("trailing", [(), (3,), (2, 3)], ids=["numbers", "rows", "blocks"])
def test_gathering_and_scattering_turn_each_other_round(trailing: tuple[int, ...], opset: int) -> None:
    random = np.random.default_rng(1)
    rest = random.standard_normal((3, 6, *trailing)).astype(np.float32)
    kept = np.array([[5, 0, 2], [0, 1, 2], [4, 3, 0]])
    valid = np.array([[True, True, True], [True, False, False], [True, True, False]])
    y = random.standard_normal((3, 3, *trailing)).astype(np.float32)

    gathered = run_node("GatherTokens", {"x": rest, "kept": kept}, ["y"], opset=opset)["y"]
    found = run_node(
        "ScatterTokens", {"rest": rest, "kept": kept, "valid": valid, "y": y}, ["z"], opset=opset
    )["z"]

    expected = rest.copy()
    for row in range(3):
        np.testing.assert_array_equal(gathered[row], rest[row][kept[row]])
        for place in range(3):
            if valid[row, place]:
                expected[row, kept[row, place]] = y[row, place]
    np.testing.assert_array_equal(found, expected)


def test_one_row_of_validity_stands_for_all_samples() -> None:
    rest = np.arange(12, dtype=np.float32).reshape(2, 6)
    kept = np.array([[5, 1], [0, 3]])
    y = -np.ones((2, 2), np.float32)

    found = run_node(
        "ScatterTokens", {"rest": rest, "kept": kept, "valid": np.array([[True, False]]), "y": y}, ["z"]
    )["z"]

    assert (found == -1).sum() == 2
    assert found[0, 5] == found[1, 0] == -1


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("nobody_takes", [False, True])
def test_what_is_dropped_merges_into_the_most_similar(nobody_takes: bool, opset: int) -> None:
    random = np.random.default_rng(2)
    x = random.standard_normal((3, 8, 4)).astype(np.float32)
    key = random.standard_normal((3, 8, 5)).astype(np.float32)
    key[0, 6] = 0  # a direction of nowhere
    size = random.integers(1, 4, (3, 8)).astype(np.float32)
    size[1, 5:] = 0  # padding
    kept = np.array([[0, 3, 6, 1], [0, 2, 4, 1], [0, 7, 1, 2]])
    count = np.array([4, 3, 1])
    valid = np.arange(4) < count[:, None]
    takes = valid & (kept != 0) & (not nobody_takes)

    found = run_node(
        "MergeTokens",
        {"x": x, "key": key, "size": size, "kept": kept, "valid": valid, "takes": takes},
        ["y", "total"],
        opset=opset,
    )

    means, totals = found["y"].astype(np.float32), found["total"].astype(np.float32)
    for row in range(3):
        places = kept[row, : count[row]].tolist()
        y, total = merged(x[row], key[row], size[row], places, takes[row].tolist())
        np.testing.assert_allclose(means[row, : len(places)], y, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(totals[row, : len(places)], total)
        assert not means[row, len(places) :].any()
        assert not totals[row, len(places) :].any()


def test_merging_nothing_keeps_the_bits() -> None:
    random = np.random.default_rng(4)
    x = random.standard_normal((2, 5, 4)).astype(np.float32)
    kept = np.array([[0, 4, 2, 1, 3], [0, 1, 2, 3, 4]])
    every = np.ones((2, 5), np.bool_)
    size = np.ones((2, 5), np.float32)

    found = run_node(
        "MergeTokens",
        {"x": x, "key": x, "size": size, "kept": kept, "valid": every, "takes": every},
        ["y", "total"],
    )

    np.testing.assert_array_equal(
        found["y"], np.stack([row[places] for row, places in zip(x, kept, strict=True)])
    )
    np.testing.assert_array_equal(found["total"], size)
