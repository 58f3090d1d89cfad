from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from adapass.budgeted import Array, Feeds
from adapass.data import load_data
from adapass.errors import DataError
from adapass.execution import Session


def padded(lengths: tuple[int, ...] = (2, 4, 1, 3), width: int = 5) -> dict[str, Array]:
    """Arrays for ``text_model``: ids count up from 10 a sample, padding is 9."""
    rows = len(lengths)
    positions = np.arange(width)
    mask = (positions < np.array(lengths)[:, None]).astype(np.int64)
    return {
        "ids": np.where(mask == 1, 10 * (1 + np.arange(rows))[:, None] + positions, 9),
        "attention_mask": mask,
        "bias": np.ones((rows, 1, width, width), np.float32),
        "image": np.arange(rows * 4, dtype=np.float32).reshape(rows, 4),
    }


def save(path: Path, arrays: dict[str, Array]) -> None:
    np.savez(path, allow_pickle=False, **arrays)


def shapes(feeds: Feeds) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in feeds.items()}


def test_trims_every_input_that_has_the_axis(text_model: ir.Model) -> None:
    data = load_data(padded(), text_model)

    assert data.lengths is not None
    assert data.lengths.tolist() == [2, 4, 1, 3]
    assert shapes(data.feeds(3)) == {
        "ids": (1, 3),
        "attention_mask": (1, 3),
        "bias": (1, 1, 3, 3),
        "image": (1, 4),
    }
    assert data.feeds(3)["ids"].tolist() == [[40, 41, 42]]
    assert data.feeds(3)["ids"].flags.c_contiguous


def test_pads_a_batch_to_its_longest_sample(text_model: ir.Model) -> None:
    batch = load_data(padded(), text_model).batch([2, 0])

    assert batch["ids"].tolist() == [[30, 9], [10, 11]]
    assert batch["attention_mask"].tolist() == [[1, 0], [1, 1]]


def test_trimmed_feeds_run(text_model: ir.Model) -> None:
    data = load_data(padded(), text_model)
    session = Session(text_model)

    logits = [session.run(data.feeds(index))["logits"] for index in range(len(data))]

    assert [row.shape for row in logits] == [(1, 3)] * 4
    assert logits[2][0].tolist() == [30 + 1 + (8 + 9 + 10 + 11)] * 3


def test_trimming_can_be_refused(text_model: ir.Model) -> None:
    data = load_data(padded(), text_model, trim=False)

    assert data.lengths is None
    assert data.feeds(2)["ids"].shape == (1, 5)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        pytest.param([[1, 1, 1], [1, 1, 1]], "nothing is padded", id="full"),
        pytest.param([[1, 0, 1], [1, 1, 0]], "ones after zeros", id="holes"),
        pytest.param([[0, 1, 1], [0, 0, 1]], "starts with a zero", id="left-padded"),
        pytest.param([[2, 2, 0], [2, 0, 0]], "not ones", id="twos"),
        pytest.param([[1, 1, 0], [0, 0, 0]], "a sample without a single token", id="empty-row"),
    ],
)
def test_leaves_alone_what_is_no_mask(text_model: ir.Model, rows: list[list[int]], why: str) -> None:
    arrays = padded((1, 1), 3) | {"attention_mask": np.array(rows), "ids": np.array([[5, 6, 7], [8, 9, 5]])}

    assert load_data(arrays, text_model).padding is None, why


def test_a_fixed_length_is_not_trimmed() -> None:
    model = ir.from_onnx_text(
        """
        <ir_version: 10, opset_import: ["" : 20]>
        net (int64[batch,3] mask) => (float[batch,3] logits) { logits = Cast<to = 1>(mask) }
        """
    )
    assert load_data({"mask": np.array([[1, 0, 0], [1, 1, 0]])}, model).feeds(0)["mask"].shape == (1, 3)


TWO_MASKS = """
<ir_version: 10, opset_import: ["" : 20]>
net (int64[batch,seq] {first}, int64[batch,seq] {second}) => (float[batch,seq] logits)
{{
    sum = Add({first}, {second})
    logits = Cast<to = 1>(sum)
}}
"""
SHORT, LONG = np.array([[1, 0, 0], [1, 1, 0]]), np.array([[1, 1, 0], [1, 1, 0]])


def test_prefers_the_input_called_a_mask() -> None:
    model = ir.from_onnx_text(TWO_MASKS.format(first="segments", second="padding_mask"))

    data = load_data({"segments": SHORT, "padding_mask": LONG}, model)

    assert data.padding is not None
    assert data.padding.mask == "padding_mask"
    assert data.feeds(0)["segments"].tolist() == [[1, 0]]


def test_asks_when_two_disagree() -> None:
    model = ir.from_onnx_text(TWO_MASKS.format(first="a", second="b"))

    with pytest.raises(DataError, match=r"inputs 'a', 'b' all look like the mask.*mask=NAME"):
        load_data({"a": SHORT, "b": LONG}, model)
    chosen = load_data({"a": SHORT, "b": LONG}, model, mask="a")
    assert chosen.feeds(0)["b"].tolist() == [[1]]
    same = load_data({"a": LONG, "b": LONG}, model)
    assert same.feeds(0)["b"].tolist() == [[1, 1]]


def test_a_named_mask_must_be_one(text_model: ir.Model) -> None:
    with pytest.raises(DataError, match="'ids' is no mask"):
        load_data(padded(), text_model, mask="ids")
    with pytest.raises(DataError, match="mask 'absent' is not among the arrays"):
        load_data(padded(), text_model, mask="absent")


def test_nameless_axes_are_trimmed_only_on_request() -> None:
    model = ir.from_onnx_text(TWO_MASKS.format(first="ids", second="mask").replace("seq", "?"))
    arrays = {"ids": np.array([[7, 8, 9], [7, 8, 9]]), "mask": SHORT}

    assert load_data(arrays, model).padding is None
    assert load_data(arrays, model, mask="mask").feeds(0)["ids"].tolist() == [[7]]


def test_joins_files_of_different_padding(tmp_path: Path, text_model: ir.Model) -> None:
    save(tmp_path / "a.npz", padded((2, 1), 2))
    save(tmp_path / "b.npz", padded((4, 4), 6))

    data = load_data(tmp_path, text_model)

    assert data.lengths is not None
    assert data.lengths.tolist() == [2, 1, 4, 4]
    assert data.batch([1, 2])["ids"].tolist() == [[20, 9, 9, 9], [10, 11, 12, 13]]
    assert data.feeds(0)["bias"].shape == (1, 1, 2, 2)


def test_files_without_padding_become_padded_together(tmp_path: Path, text_model: ir.Model) -> None:
    save(tmp_path / "a.npz", padded((2, 2), 2))
    save(tmp_path / "b.npz", padded((3,), 3))

    assert [
        data.shape[1] for data in (load_data(tmp_path, text_model).feeds(k)["ids"] for k in range(3))
    ] == [2, 2, 3]


def test_different_lengths_without_a_mask_are_refused(tmp_path: Path) -> None:
    model = ir.from_onnx_text(TWO_MASKS.format(first="a", second="b"))
    np.savez(tmp_path / "a.npz", a=np.full((1, 2), 7), b=np.full((1, 2), 7))
    np.savez(tmp_path / "b.npz", a=np.full((1, 3), 7), b=np.full((1, 3), 7))

    with pytest.raises(
        DataError, match=r"array 'a' has shape \(1, 2\), other parts go up to \(3,\).*give a mask"
    ):
        load_data(tmp_path, model)
