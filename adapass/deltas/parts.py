"""How the change of one stored tensor is written.

    same      nothing: the base has it already
    ternary   positions, signs and a scale: a float tensor, approximately
    exclusive the bits that differ (exclusive or, byte by byte, bytes of equal rank together, deflated): exact
    whole     the tensor itself, deflated: another shape or type than the base's, or not a float

Everything that is read back is bounded by what the base or the declared shape explains.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array
from adapass.deltas.rice import Places, decode, encode, pack_signs, unpack_signs
from adapass.deltas.ternary import Ternary, applied
from adapass.errors import ArtifactError
from adapass.graph.tensors import reopened

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
"""Types whose differences are taken; narrower floats are stored exactly."""
MAX_TENSOR_BYTES = 1 << 36
DEFLATE_RATIO = 1040
"""Deflate never makes anything smaller than by this factor, so nothing real unpacks to more."""
LEVEL = 9
MAX_RANK = 64


class Kind(StrEnum):
    SAME = "same"
    TERNARY = "ternary"
    EXCLUSIVE = "exclusive"
    WHOLE = "whole"


@dataclass(frozen=True, slots=True)
class Part:
    """The change of one tensor: what the header says, and the bytes."""

    kind: Kind
    head: Mapping[str, object]
    blobs: tuple[bytes, ...] = ()


def same() -> Part:
    return Part(Kind.SAME, {})


def ternary_part(kept: Ternary, size: int) -> Part:
    places = encode(kept.positions, size)
    head = {"count": places.count, "low_bits": places.low_bits, "scale": kept.scale.hex()}
    return Part(Kind.TERNARY, head, (places.high, places.low, pack_signs(kept.negative)))


def exclusive_part(base: ir.TensorProtocol, fine: ir.TensorProtocol) -> Part:
    differ = np.bitwise_xor(_bytes(base), _bytes(fine))
    return Part(Kind.EXCLUSIVE, {}, (zlib.compress(_shuffled(differ, fine.dtype).tobytes(), LEVEL),))


def whole_part(fine: ir.TensorProtocol) -> Part:
    head = {"dtype": fine.dtype.name, "shape": [int(dim) for dim in fine.shape.numpy()]}
    return Part(Kind.WHOLE, head, (zlib.compress(_bytes(fine).tobytes(), LEVEL),))


def restored(part: Part, base: ir.TensorProtocol) -> ir.TensorProtocol:
    """The tensor that ``part`` makes of ``base``.

    Raises:
        ArtifactError: the part is damaged or does not belong to this tensor.

    """
    match part.kind:
        case Kind.SAME:
            return base
        case Kind.TERNARY:
            return _restored_ternary(part, base)
        case Kind.EXCLUSIVE:
            data = inflated(part.blobs[0], base.nbytes)
            differ = _unshuffled(np.frombuffer(data, np.uint8), base.dtype)
            return _tensor(np.bitwise_xor(_bytes(base), differ), base.dtype, base.shape.numpy(), base.name)
        case Kind.WHOLE:
            return _restored_whole(part, base.name)


def inflated(blob: bytes, size: int) -> bytes:
    """Exactly ``size`` bytes out of ``blob``; never more memory than that.

    Raises:
        ArtifactError: it holds more, fewer, or no deflated bytes.

    """
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(blob, size + 1)
    except zlib.error as error:
        raise ArtifactError(f"a part of the delta cannot be unpacked ({error}); it is damaged") from error
    if len(data) != size or not unpacker.eof or unpacker.unused_data:
        raise ArtifactError(f"a part of the delta does not hold the {size} bytes it has to; it is damaged")
    return data


def _restored_ternary(part: Part, base: ir.TensorProtocol) -> ir.TensorProtocol:
    if base.dtype not in FLOATS:
        raise ArtifactError(f"tensor '{base.name}' is {base.dtype.name}; ternary changes are of floats only")
    count, low_bits = _number(part.head, "count"), _number(part.head, "low_bits")
    positions = decode(Places(count, low_bits, part.blobs[0], part.blobs[1]), base.size)
    kept = Ternary(positions, unpack_signs(part.blobs[2], count), _scale(part.head))
    array: Array = reopened(base).numpy()
    return ir.tensor(applied(array, kept), dtype=base.dtype, name=base.name)


def _restored_whole(part: Part, name: str | None) -> ir.TensorProtocol:
    dtype, shape = _dtype(part.head), _shape(part.head)
    size_bytes = -(-math.prod(shape) * dtype.bitwidth // 8)
    if size_bytes > min(MAX_TENSOR_BYTES, DEFLATE_RATIO * len(part.blobs[0]) + 64):
        raise ArtifactError(
            f"tensor '{name}' claims shape {list(shape)}, {size_bytes:,} bytes, from "
            f"{len(part.blobs[0]):,}; the delta is damaged"
        )
    data = np.frombuffer(inflated(part.blobs[0], size_bytes), np.uint8)
    return _tensor(data, dtype, shape, name)


def _tensor(data: Array, dtype: ir.DataType, shape: Sequence[int], name: str | None) -> ir.TensorProtocol:
    if dtype.bitwidth < 8:
        packed: Any = ir.PackedTensor  # its annotations ask for arrays of a narrower type than it takes
        made: ir.TensorProtocol = packed(data, dtype, shape=ir.Shape(shape), name=name)
        return made
    return ir.tensor(np.frombuffer(data.tobytes(), dtype.numpy()).reshape(shape), dtype=dtype, name=name)


def _bytes(tensor: ir.TensorProtocol) -> Array:
    return np.frombuffer(reopened(tensor).tobytes(), np.uint8)


def _shuffled(data: Array, dtype: ir.DataType) -> Array:
    width = max(1, dtype.bitwidth // 8)
    return np.ascontiguousarray(data.reshape(-1, width).T)


def _unshuffled(data: Array, dtype: ir.DataType) -> Array:
    width = max(1, dtype.bitwidth // 8)
    return np.ascontiguousarray(data.reshape(width, -1).T).ravel()


def _number(head: Mapping[str, object], key: str) -> int:
    value = head.get(key)
    if type(value) is not int or value < 0:
        raise ArtifactError(f"the delta says {key}={value!r}, a whole number of at least 0 expected")
    return value


def _scale(head: Mapping[str, object]) -> float:
    text = head.get("scale")
    try:
        scale = float.fromhex(text) if isinstance(text, str) else math.nan
    except (ValueError, OverflowError):
        scale = math.nan
    if not 0.0 <= scale < math.inf:
        raise ArtifactError(f"the delta says scale={text!r}, a number of at least 0 in hexadecimal expected")
    return scale


def _dtype(head: Mapping[str, object]) -> ir.DataType:
    name = head.get("dtype")
    found = ir.DataType.__members__.get(name) if isinstance(name, str) else None
    if found is None or found in {ir.DataType.UNDEFINED, ir.DataType.STRING}:
        raise ArtifactError(f"the delta says dtype={name!r}, an element type of numbers expected")
    return found


def _shape(head: Mapping[str, object]) -> tuple[int, ...]:
    found = head.get("shape")
    dims = cast("list[object]", found) if isinstance(found, list) else [None]
    shape = tuple(dim for dim in dims if type(dim) is int and dim >= 0)
    if len(shape) != len(dims) or len(dims) > MAX_RANK:
        raise ArtifactError(f"the delta says shape={found!r}, a list of whole numbers expected")
    return shape
