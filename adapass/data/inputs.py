"""What a model expects: its inputs as names, dtypes and shapes, and whether it takes batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from adapass.errors import DataError

Dim = int | str | None


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One graph input that data can fill. ``shape``: numbers, symbols, ``None`` for nameless dynamic axes."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[Dim, ...]
    has_default: bool
    """An initializer of the same name: the data may leave it out."""


def input_specs(model: ir.Model) -> tuple[InputSpec, ...]:
    """The inputs of a model, in order.

    Raises:
        DataError: an input that arrays with a leading sample axis cannot fill.

    """
    return tuple(_spec(value, model) for value in model.graph.inputs)


def output_shapes(model: ir.Model) -> tuple[tuple[Dim, ...] | None, ...]:
    """Shapes of the outputs; ``None`` where the model does not say."""
    return tuple(None if value.shape is None else _dims(value.shape) for value in model.graph.outputs)


def max_batch(specs: tuple[InputSpec, ...]) -> int | None:
    """1 for a model whose batch axis is fixed to 1, ``None`` for one that takes any batch.

    Inputs with a default (run-time knobs) have no batch axis and do not count.

    Raises:
        DataError: the batch is fixed to something else, so that no single sample can be run.

    """
    samples = [spec for spec in specs if not spec.has_default]
    fixed = {spec.shape[0]: spec.name for spec in samples if spec.shape and isinstance(spec.shape[0], int)}
    for size, name in fixed.items():
        if size != 1:
            raise DataError(
                f"input '{name}' has a fixed first axis of {size}; a dynamic batch axis or 1 expected: "
                "export the model again with a dynamic batch axis"
            )
    return 1 if fixed else None


def _spec(value: ir.Value, model: ir.Model) -> InputSpec:
    name = value.name or ""
    has_default = name in model.graph.initializers
    if not isinstance(value.type, ir.TensorType) or value.shape is None:
        raise DataError(
            f"input '{name}' is {value.type}, shape {value.shape}; a tensor of known rank expected"
        )
    if value.type.dtype == ir.DataType.STRING:
        raise DataError(f"input '{name}' takes strings; only numbers and booleans can be given as data")
    shape = _dims(value.shape)
    if not shape and not has_default:
        raise DataError(
            f"input '{name}' is a scalar; a leading sample axis expected, or give it a default in the model"
        )
    return InputSpec(name, np.dtype(value.type.dtype.numpy()), shape, has_default)


def _dims(shape: ir.Shape) -> tuple[Dim, ...]:
    return tuple(dim if isinstance(dim, int) else dim.value for dim in shape)
