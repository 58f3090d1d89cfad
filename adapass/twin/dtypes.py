"""Element types of ONNX and of torch, and arrays that cross between NumPy and torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import ml_dtypes
import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array
from adapass.twin.torch_import import Tensor, torch

TORCH_TYPES: Final[Mapping[ir.DataType, Tensor]] = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.BOOL: torch.bool,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.UINT16: torch.uint16,
    ir.DataType.UINT32: torch.uint32,
    ir.DataType.UINT64: torch.uint64,
}
REDUCED: Final = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
"""Stored in half the bits: trained in single precision and rounded where they are read."""
FLOATS: Final = REDUCED | {ir.DataType.FLOAT, ir.DataType.DOUBLE}
_UNPACKED: Final = {ir.DataType.INT4: np.int8, ir.DataType.UINT4: np.uint8}
"""4-bit weights are read by DequantizeLinear only, which does not care how wide they are."""
_NARROW: Final = frozenset({torch.uint16, torch.uint32, torch.uint64})


def torch_type(code: int) -> Tensor:
    """The torch type of an ONNX type code, as attributes hold it."""
    return TORCH_TYPES[ir.DataType(code)]


def is_known(dtype: ir.DataType | None, *, stored: bool = False) -> bool:
    """Whether torch can hold such values; ``None`` (unknown) is given the benefit of the doubt."""
    return dtype is None or dtype in TORCH_TYPES or (stored and dtype in _UNPACKED)


def to_tensor(array: Array) -> Tensor:
    """A copy, so that training never writes into the arrays of a model or of a data set."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(np.array(array.view(np.int16))).view(torch.bfloat16)
    return torch.from_numpy(np.array(array, order="C"))


def stored_tensor(tensor: ir.TensorProtocol) -> Tensor:
    """What an initializer or attribute holds."""
    array = tensor.numpy()
    if (unpacked := _UNPACKED.get(tensor.dtype)) is not None:
        array = array.astype(unpacked)
    return to_tensor(array)


def to_array(tensor: Tensor) -> Array:
    """The numbers of a tensor, detached."""
    plain = tensor.detach().cpu().contiguous()
    if plain.dtype == torch.bfloat16:
        bits: Array = plain.view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    array: Array = plain.numpy()
    return array


def integers(tensor: Tensor) -> list[int]:
    """Sizes, axes or positions that arrive as a tensor; a scalar is a list of one."""
    found: list[int] = tensor.reshape(-1).tolist()
    return found


def lacks_arithmetic(dtype: Tensor) -> bool:
    """Whether torch stores such integers but does not compute with them."""
    return dtype in _NARROW


def rounded(weight: Tensor, *, dtype: Tensor) -> Tensor:
    """``weight`` in the precision it is stored in, kept in its own: gradients pass straight through."""
    return weight + (weight.to(dtype).to(weight.dtype) - weight).detach()
