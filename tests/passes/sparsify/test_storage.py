"""The compact form gives every bit back, and refuses what does not belong together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapass.errors import DataError
from adapass.passes.sparsify.storage import TYPES, Packed, pack, read_packed, unpack, write_packed

Floats = npt.NDArray[np.float32]


def sparse(seed: int, share: float, shape: tuple[int, ...] = (32, 64)) -> Floats:
    rng = np.random.default_rng(seed)
    array = rng.normal(size=shape).astype(np.float32)
    array[rng.random(shape) < share] = 0.0
    return array


def same(a: npt.NDArray[np.generic], b: npt.NDArray[np.generic]) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9, 0.99, 0.999, 1.0])
@pytest.mark.parametrize("shape", [(32, 64), (7, 3, 3, 5), (1000,), (0, 4), ()])
def test_every_bit_comes_back(share: float, shape: tuple[int, ...]) -> None:
    array = sparse(1, share, shape) if shape else np.asarray(sparse(1, share, (1,))[0])

    assert same(unpack(pack(array)), array)


@pytest.mark.parametrize("dtype", TYPES)
def test_all_types(dtype: str) -> None:
    array = (sparse(2, 0.8) * 20).clip(0, 100).astype(dtype)

    assert same(unpack(pack(array)), array)


def test_negative_zeros_and_nan_are_values() -> None:
    array = np.array([0.0, -0.0, np.nan, np.inf, 0.0] * 3, np.float32)

    assert same(unpack(pack(array)), array)


@given(st.lists(st.sampled_from([0.0, -0.0, 1.5]), max_size=64), st.integers(0, 2000))
def test_any_row_comes_back(numbers: list[float], gap: int) -> None:
    array = np.concatenate([np.array(numbers, np.float32), np.zeros(gap), [2.0]]).astype(np.float32)

    assert same(unpack(pack(array)), array)


def test_sizes_are_what_they_should_be() -> None:
    half = pack(sparse(3, 0.5))
    few = pack(sparse(3, 0.99))
    blocks = sparse(4, 0.0)
    blocks.reshape(32, 4, 16)[::2] = 0.0
    packed_blocks = pack(blocks, (1, 16))

    assert half.form == "bitmask"
    assert half.stored_bytes == 32 * 64 // 8 + half.values.nbytes
    assert few.form == "gaps"
    assert few.stored_bytes <= 5 * (np.count_nonzero(sparse(3, 0.99)) + 32 * 64 / 255)
    assert packed_blocks.stored_bytes == 32 * 4 // 8 + 32 * 64 * 4 // 2
    assert same(unpack(packed_blocks), blocks)
    assert pack(sparse(3, 0.0)).form == "dense"


def test_archives_hold_many(tmp_path: Path) -> None:
    arrays = {"a": sparse(5, 0.5), "Größe": sparse(6, 0.99, (3, 5, 7)), "empty": sparse(7, 0.5, (0,))}
    file = tmp_path / "weights.npz"

    write_packed(file, {name: pack(array) for name, array in arrays.items()})
    found = read_packed(file)

    assert list(found) == list(arrays)
    assert all(same(unpack(found[name]), array) for name, array in arrays.items())


HALF = pack(sparse(8, 0.5))
FEW = pack(sparse(8, 0.99))


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(replace(HALF, shape=(1 << 20, 1 << 20)), id="far-too-large"),
        pytest.param(replace(HALF, shape=(32, 65)), id="another-size"),
        pytest.param(replace(HALF, places=HALF.places[:-1]), id="mask-cut-off"),
        pytest.param(replace(HALF, values=HALF.values[:-1]), id="values-cut-off"),
        pytest.param(replace(HALF, block=(5, 3)), id="blocks-that-do-not-fit"),
        pytest.param(replace(HALF, block=(-1, -1)), id="negative-blocks"),
        pytest.param(replace(HALF, shape=(-32, -64)), id="negative-shape"),
        pytest.param(replace(HALF, dtype="object"), id="unknown-type"),
        pytest.param(replace(HALF, form="other"), id="unknown-form"),
        pytest.param(replace(HALF, form="dense"), id="not-dense"),
        pytest.param(replace(HALF, dtype="float64"), id="values-of-another-type"),
        pytest.param(replace(FEW, shape=(4, 4)), id="gaps-beyond-the-end"),
        pytest.param(replace(FEW, values=FEW.values[:-1]), id="gaps-without-values"),
    ],
)
def test_refuses_what_does_not_belong_together(packed: Packed) -> None:
    with pytest.raises(DataError):
        unpack(packed)


def test_refuses_types_it_does_not_know() -> None:
    with pytest.raises(DataError, match="complex64"):
        pack(np.zeros(3, np.complex64))


def test_refuses_damaged_archives(tmp_path: Path) -> None:
    file = tmp_path / "weights.npz"
    write_packed(file, {"a": HALF})
    with np.load(file, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    damaged = [
        {**arrays, "values": arrays["values"][:-1]},
        {**arrays, "header": arrays["header"][:-1]},
        {**arrays, "header": np.frombuffer(b'{"a": 1}', np.uint8)},
        {**arrays, "header": np.frombuffer(b"[1]", np.uint8)},
        {**arrays, "places": arrays["places"].astype(np.int64)},
        {"header": arrays["header"]},
    ]

    for parts in damaged:
        np.savez(file, allow_pickle=False, **parts)
        with pytest.raises(DataError):
            read_packed(file)
