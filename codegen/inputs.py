"""The inputs of a built model as the user sees them; part of every generator's plan."""

from __future__ import annotations

import onnx_ir as ir
from pydantic import BaseModel, ConfigDict, Field


class Input(BaseModel):
    """An input of the model as the user sees it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    dtype: str | None
    """Name of a numpy type; ``None`` for what is not a tensor."""
    shape: tuple[int | str | None, ...] | None = Field(default=None, strict=False)
    optional: bool = False


def inputs_of(model: ir.Model) -> tuple[Input, ...]:
    return tuple(_input(value) for value in model.graph.inputs)


def _input(value: ir.Value) -> Input:
    dtype = value.dtype if isinstance(value.type, ir.TensorType) else None
    dims = None if value.shape is None else tuple(_dim(dim) for dim in value.shape)
    return Input(
        name=value.name or "",
        dtype=None if dtype is None else _dtype_name(dtype),
        shape=dims,
        optional=value.is_initializer(),
    )


def _dtype_name(dtype: ir.DataType) -> str:
    return "str" if dtype is ir.DataType.STRING else dtype.numpy().name


def _dim(dim: int | ir.SymbolicDim) -> int | str | None:
    return dim if isinstance(dim, int) else dim.value
