"""A compact form of weights with zeros, bit for bit: what is not zero, and where that is.

    bitmask    one bit a block (of one weight, or of h x w of a matrix), then all values of blocks with any
    gaps       8-bit distances between values; a distance of 255 is a stored zero to go on from

``pack`` takes the smaller of the two, or the array itself where neither is. Zero means the bit pattern of +0:
a negative zero is a value. ``write_packed`` and ``read_packed`` put many weights in one ``.npz``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, ValidationError

from adapass.budgeted import Array
from adapass.data.archive import read_npz
from adapass.errors import DataError

Bytes = npt.NDArray[np.uint8]
TYPES = ("float16", "float32", "float64", "int8", "uint8")
FORMS = ("bitmask", "gaps", "dense")
LONGEST_GAP = 255
MAX_BYTES = 1 << 33


@dataclass(frozen=True, slots=True)
class Packed:
    """One weight in compact form."""

    shape: tuple[int, ...]
    dtype: str
    form: str
    block: tuple[int, int]
    """Rows and columns of a block, the array seen as [first axis, the rest]."""
    places: Bytes
    """Bits of the mask, or gaps."""
    values: Array
    """[kept], in the order of the array (block by block where there are blocks)."""

    @property
    def stored_bytes(self) -> int:
        return self.places.nbytes + self.values.nbytes


def pack(array: Array, block: tuple[int, int] = (1, 1)) -> Packed:
    """The smallest form of ``array``; ``block`` is what its zeros come in.

    Raises:
        DataError: its type is not one of ``TYPES``.

    """
    if array.dtype.name not in TYPES:
        raise DataError(
            f"a weight of type {array.dtype} cannot be packed; one of {', '.join(TYPES)} expected"
        )
    forms = [_bitmask(array, block), _gaps(array), _dense(array)]
    return min(forms, key=lambda packed: packed.stored_bytes)


def unpack(packed: Packed, *, max_bytes: int = MAX_BYTES) -> Array:
    """The array that was packed.

    Raises:
        DataError: the parts do not belong together, or it is larger than ``max_bytes``.

    """
    if (
        packed.dtype not in TYPES
        or packed.form not in FORMS
        or min((*packed.shape, *packed.block), default=1) < 0
    ):
        raise DataError(f"a packed weight of type '{packed.dtype}' in form '{packed.form}' is not known")
    size = math.prod(packed.shape)
    if size * np.dtype(packed.dtype).itemsize > max_bytes:
        raise DataError(
            f"a packed weight has shape {list(packed.shape)}; at most {max_bytes:,} bytes expected"
        )
    if packed.values.dtype.name != packed.dtype:
        raise DataError(f"a packed weight has values of {packed.values.dtype}; {packed.dtype} expected")
    if packed.form == "bitmask":
        return _from_bitmask(packed)
    if packed.form == "gaps":
        return _from_gaps(packed)
    if packed.values.size != size:
        raise _damaged("values", packed.values.size, size)
    return packed.values.reshape(packed.shape)


def write_packed(path: Path, weights: Mapping[str, Packed]) -> None:
    """Write weights by name to an ``.npz`` archive."""
    entries = [
        {
            "name": name,
            "shape": list(packed.shape),
            "dtype": packed.dtype,
            "form": packed.form,
            "block": list(packed.block),
            "places": packed.places.nbytes,
            "values": packed.values.nbytes,
        }
        for name, packed in weights.items()
    ]
    header = np.frombuffer(json.dumps(entries).encode(), np.uint8)
    places = [packed.places for packed in weights.values()]
    values = [np.frombuffer(packed.values.tobytes(), np.uint8) for packed in weights.values()]
    nothing = np.zeros(0, np.uint8)
    np.savez(
        path,
        header=header,
        places=np.concatenate([nothing, *places]),
        values=np.concatenate([nothing, *values]),
    )


def read_packed(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Packed]:
    """Weights by name, still packed.

    Raises:
        DataError: not such an archive, damaged, or larger than ``max_bytes``.

    """
    arrays = read_npz(path, max_bytes=max_bytes)
    if set(arrays) != {"header", "places", "values"} or any(a.dtype != np.uint8 for a in arrays.values()):
        raise DataError(f"{path}: arrays {sorted(arrays)} found; header, places and values of bytes expected")
    found: dict[str, Packed] = {}
    at = {"places": 0, "values": 0}
    for entry in _entries(arrays["header"].tobytes(), path):
        parts: dict[str, Bytes] = {}
        for kind, length in (("places", entry.places), ("values", entry.values)):
            part = arrays[kind][at[kind] : at[kind] + length]
            if part.size != length:
                raise DataError(f"{path}: {kind} of '{entry.name}' are cut off; the file is damaged")
            parts[kind] = part.astype(np.uint8)
            at[kind] += length
        dtype = np.dtype(entry.dtype)
        if entry.values % dtype.itemsize:
            raise DataError(f"{path}: values of '{entry.name}' are not whole; the file is damaged")
        values = np.frombuffer(parts["values"].tobytes(), dtype)
        high, wide = entry.block
        found[entry.name] = Packed(
            tuple(entry.shape), entry.dtype, entry.form, (high, wide), parts["places"], values
        )
    return found


class _Entry(BaseModel):
    name: str = Field(max_length=4096)
    shape: list[int] = Field(max_length=16)
    dtype: str = Field(pattern="|".join(f"^{name}$" for name in TYPES))
    form: str
    block: list[int] = Field(min_length=2, max_length=2)
    places: int = Field(ge=0)
    values: int = Field(ge=0)


def _entries(text: bytes, path: Path) -> Sequence[_Entry]:
    try:
        found = json.loads(text)
        if not isinstance(found, list):
            raise DataError(f"{path}: the header is no list; the file is damaged")
        return [_Entry.model_validate(entry) for entry in cast("list[object]", found)]
    except (ValidationError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: the header cannot be read ({type(error).__name__}); damaged") from error


def _bits(array: Array) -> npt.NDArray[np.bool_]:
    """Where an array is anything but +0, flat."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return np.asarray(flat.view(f"u{array.dtype.itemsize}") != 0)


def _blocks(rows: int, columns: int, block: tuple[int, int]) -> bool:
    return block != (1, 1) and min(block) > 0 and rows % block[0] == 0 and columns % block[1] == 0


def _sizes(shape: Sequence[int]) -> tuple[int, int]:
    rows = shape[0] if shape else 1
    return rows, math.prod(shape[1:])


def _in_blocks(flat: Array, rows: int, columns: int, block: tuple[int, int]) -> Array:
    """[blocks, elements of one]"""
    high, wide = block
    cut = flat.reshape(rows // high, high, columns // wide, wide).transpose(0, 2, 1, 3)
    return cut.reshape(-1, high * wide)


def _bitmask(array: Array, block: tuple[int, int]) -> Packed:
    rows, columns = _sizes(array.shape)
    block = block if array.size and _blocks(rows, columns, block) else (1, 1)
    cells = _in_blocks(array.reshape(-1), rows, columns, block) if array.size else array.reshape(0, 1)
    kept = _bits(cells).reshape(cells.shape).any(axis=1)
    values = np.ascontiguousarray(cells[kept]).reshape(-1)
    return Packed(array.shape, array.dtype.name, "bitmask", block, np.packbits(kept), values)


def _from_bitmask(packed: Packed) -> Array:
    size = math.prod(packed.shape)
    rows, columns = _sizes(packed.shape)
    if packed.block != (1, 1) and not _blocks(rows, columns, packed.block):
        raise DataError(
            f"blocks of {list(packed.block)} do not fit into a weight of shape {list(packed.shape)}"
        )
    each = packed.block[0] * packed.block[1]
    count = size // each
    if packed.places.size != -(-count // 8):
        raise _damaged("bytes of mask", packed.places.size, -(-count // 8))
    kept = np.unpackbits(packed.places, count=count).astype(np.bool_)
    if packed.values.size != int(kept.sum()) * each:
        raise _damaged("values", packed.values.size, int(kept.sum()) * each)
    cells = np.zeros((count, each), packed.dtype)
    cells[kept] = packed.values.reshape(-1, each)
    high, wide = packed.block
    if size == 0:
        return cells.reshape(packed.shape)
    cut = cells.reshape(rows // high, columns // wide, high, wide).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(cut).reshape(packed.shape)


def _gaps(array: Array) -> Packed:
    flat = array.reshape(-1)
    places = np.flatnonzero(_bits(array))
    steps = np.diff(places, prepend=-1) - 1
    fillers = steps // LONGEST_GAP
    ends = np.cumsum(fillers + 1) - 1
    gaps = np.full(int(ends[-1]) + 1 if len(ends) else 0, LONGEST_GAP - 1, np.uint8)
    values = np.zeros(len(gaps), array.dtype)
    gaps[ends] = (steps - fillers * LONGEST_GAP).astype(np.uint8)
    values[ends] = flat[places]
    return Packed(array.shape, array.dtype.name, "gaps", (1, 1), gaps, values)


def _from_gaps(packed: Packed) -> Array:
    size = math.prod(packed.shape)
    if packed.places.size != packed.values.size:
        raise _damaged("values", packed.values.size, packed.places.size)
    at = np.cumsum(packed.places.astype(np.int64) + 1) - 1
    if len(at) and int(at[-1]) >= size:
        raise _damaged("elements", int(at[-1]) + 1, size)
    flat = np.zeros(size, packed.dtype)
    flat[at] = packed.values
    return flat.reshape(packed.shape)


def _dense(array: Array) -> Packed:
    flat = np.ascontiguousarray(array).reshape(-1)
    return Packed(array.shape, array.dtype.name, "dense", (1, 1), np.zeros(0, np.uint8), flat)


def _damaged(what: str, found: int, expected: int) -> DataError:
    return DataError(f"a packed weight has {found:,} {what}, {expected:,} expected; it is damaged")
