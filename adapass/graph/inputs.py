"""Plausible inputs for a model nobody gave data for: shapes, types and roles are right, the content is noise.

Roles are read from structure: an integer input that indexes a table holds ids below its rows, one of
the same shape that indexes nothing is a 0/1 mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.errors import ModelError

Array = npt.NDArray[np.generic]

LENGTHS = (8, 5, 12, 16, 3)
"""Sizes of a dynamic axis that is neither a batch nor the side of an image, one per case."""
SIDES = (64, 96, 128)
"""Sizes of a dynamic image side: networks that halve it five times need multiples of 32."""
PASSED_THROUGH = frozenset(
    {
        "Cast",
        "Identity",
        "Reshape",
        "Unsqueeze",
        "Squeeze",
        "Transpose",
        "Flatten",
        "Slice",
        "Split",
        "Expand",
        "Clip",
    }
)
SMALL_RANGE = 128
"""Ids without a known table stay below this."""


@dataclass(frozen=True, slots=True)
class _Roles:
    rows: Mapping[str, int]
    """Inputs that index tables, with the rows of the smallest of them."""
    masks: frozenset[str]


def generate_feeds(model: ir.Model, *, seed: int, cases: int = 3) -> list[dict[str, Array]]:
    """``cases`` feeds: batch sizes 1, 2, 3, ... and changing lengths where the model leaves them open.

    Inputs with a default (initializers of the same name) are left out. Symbolic dimensions of one
    name get one size. The same seed gives the same numbers.

    Raises:
        ModelError: an input is not a tensor, or its rank is unknown.

    """
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    for value in inputs:
        _require_tensor(value)
    roles = _find_roles(inputs)
    return [_one_case(inputs, roles, seed, case) for case in range(cases)]


def _require_tensor(value: ir.Value) -> None:
    if not isinstance(value.type, ir.TensorType):
        raise ModelError(
            f"input '{value.name}' is not a tensor ({value.type}); give data, none can be generated for it"
        )
    if value.shape is None:
        raise ModelError(f"input '{value.name}' has no declared rank; give data, or export it with a shape")


def _one_case(inputs: list[ir.Value], roles: _Roles, seed: int, case: int) -> dict[str, Array]:
    sizes = _symbol_sizes(inputs, case)
    random = np.random.default_rng([seed, case])
    feeds: dict[str, Array] = {}
    for value in inputs:
        shape = tuple(_size(value, axis, sizes) for axis in range(_rank(value)))
        feeds[value.name or ""] = _fill(value, shape, roles, random)
    return feeds


def _rank(value: ir.Value) -> int:
    return 0 if value.shape is None else value.shape.rank()


def _symbol_sizes(inputs: list[ir.Value], case: int) -> dict[str, int]:
    sizes: dict[str, int] = {}
    lengths = 0
    for value in inputs:
        for axis in range(_rank(value)):
            symbol = _symbol(value, axis)
            if symbol is None or symbol in sizes:
                continue
            if axis == 0:
                sizes[symbol] = case + 1
            elif _is_image_side(value, axis):
                sizes[symbol] = SIDES[case % len(SIDES)]
            else:
                sizes[symbol] = LENGTHS[(case + lengths) % len(LENGTHS)]
                lengths += 1
    return sizes


def _is_image_side(value: ir.Value, axis: int) -> bool:
    return _rank(value) >= 4 and axis >= 2 and value.dtype is not None and value.dtype.is_floating_point()


def _symbol(value: ir.Value, axis: int) -> str | None:
    """A name for a dynamic dimension; ``None`` for a static one. Nameless leading axes are one batch."""
    dim = value.shape[axis] if value.shape is not None else None
    if isinstance(dim, int):
        return None
    if dim is not None and dim.value is not None:
        return str(dim.value)
    return "" if axis == 0 else f"{value.name}/{axis}"


def _size(value: ir.Value, axis: int, sizes: Mapping[str, int]) -> int:
    symbol = _symbol(value, axis)
    if symbol is not None:
        return sizes[symbol]
    dim = value.shape[axis] if value.shape is not None else 1
    return dim if isinstance(dim, int) else 1


def _fill(value: ir.Value, shape: tuple[int, ...], roles: _Roles, random: np.random.Generator) -> Array:
    dtype = value.dtype or ir.DataType.FLOAT
    name = value.name or ""
    if dtype == ir.DataType.STRING:
        return np.full(shape, "a", dtype=object)
    if name in roles.masks:
        return _prefix_mask(shape, random).astype(dtype.numpy())
    if name in roles.rows:
        return random.integers(0, roles.rows[name], shape).astype(dtype.numpy())
    if dtype == ir.DataType.BOOL:
        return random.integers(0, 2, shape).astype(np.bool_)
    if dtype.is_floating_point():
        return random.standard_normal(shape).astype(dtype.numpy())
    if dtype in {ir.DataType.INT8, ir.DataType.UINT8}:
        bounds = np.iinfo(dtype.numpy())
        return random.integers(bounds.min, int(bounds.max) + 1, shape).astype(dtype.numpy())
    return np.ones(shape, dtype.numpy())


def _prefix_mask(shape: tuple[int, ...], random: np.random.Generator) -> Array:
    """Rows of ones followed by zeros, along the last axis; the first row has no zeros."""
    if not shape:
        return np.ones(shape, np.int64)
    lengths = random.integers(1, shape[-1] + 1, shape[:-1])
    lengths.reshape(-1)[:1] = shape[-1]
    return (np.arange(shape[-1]) < lengths[..., None]).astype(np.int64)


def _find_roles(inputs: list[ir.Value]) -> _Roles:
    rows: dict[str, int] = {}
    for value in inputs:
        bound = _smallest_table(value)
        if bound is not None:
            rows[value.name or ""] = bound
    id_shapes = {str(value.shape) for value in inputs if value.name in rows and _rank(value) >= 2}
    masks = [
        value.name or ""
        for value in inputs
        if value.name not in rows and (str(value.shape) in id_shapes or _looks_like_mask(value))
    ]
    return _Roles(rows=rows, masks=frozenset(masks))


def _looks_like_mask(value: ir.Value) -> bool:
    """Integer or boolean with a batch and a length, and not an image."""
    wide = {ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL}
    return value.dtype in wide and _rank(value) == 2


def _smallest_table(value: ir.Value) -> int | None:
    """Rows of the smallest table ``value`` indexes; ``SMALL_RANGE`` when it indexes one of unknown size."""
    if value.dtype is None or not value.dtype.is_integer():
        return None
    found: list[int] = []
    pending, seen = [value], {value}
    while pending:
        for node, index in pending.pop().uses():
            if node.domain == "" and node.op_type == "Gather" and index == 1:
                found.append(_rows(node))
            elif node.domain == "" and node.op_type in PASSED_THROUGH and index == 0:
                pending.extend(output for output in node.outputs if output not in seen)
                seen.update(node.outputs)
    return min(found, default=None)


def _rows(gather: ir.Node) -> int:
    table = gather.inputs[0]
    axis = gather.attributes.get_int("axis", 0)
    if table is None or table.shape is None:
        return SMALL_RANGE
    rows = table.shape[axis]
    return rows if isinstance(rows, int) else SMALL_RANGE
