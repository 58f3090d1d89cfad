"""What the model's output means, read from its shape and from the operators it ends in.

An exit returns a whole sample's result from pooled features, so the result must be one row of scores
a sample. Where the graph cannot tell (``[B, C]`` without a Softmax may be scores or numbers to
regress), a linear layer at the end counts as class scores; the option ``task`` overrides it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import onnx_ir as ir

from adapass.rewrite import Reject

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE})
RESHAPING = frozenset(
    {"Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Dropout"}
)
"""Operators that change neither the meaning nor the order of one sample's scores."""
SCORING = frozenset(
    {"Gemm", "MatMul", "Add", "Conv", "GlobalAveragePool", "ReduceMean", "AveragePool", "Einsum"}
)
"""What class scores come out of: a linear layer with or without bias, or a pooled convolution."""
NORMALISING = frozenset({"LpNormalization", "ReduceL2", "LayerNormalization", "Div", "Tanh"})


class Task(StrEnum):
    """What the scores of one sample mean."""

    AUTO = "auto"
    """Read it from the graph."""
    CLASSIFICATION = "classification"
    """Exactly one class is right."""
    MULTI_LABEL = "multi-label"
    """Every label is right or wrong by itself."""


class Activation(StrEnum):
    """What the model applies to its scores last; a head does the same."""

    NONE = "none"
    SOFTMAX = "Softmax"
    LOG_SOFTMAX = "LogSoftmax"
    SIGMOID = "Sigmoid"


@dataclass(frozen=True, slots=True)
class OutputForm:
    """The output exits have to produce."""

    value: ir.Value
    task: Task
    activation: Activation
    classes: int
    dtype: ir.DataType
    unit_axes: tuple[int, ...]
    """Axes of size 1 beside the batch and the classes, as in ``[B, C, 1, 1]``."""


def read_output(model: ir.Model, task: Task) -> OutputForm:
    """The form of the only output of ``model``.

    Raises:
        Reject: exits cannot produce this kind of output; the reason says why.

    """
    if len(model.graph.outputs) != 1:
        raise Reject("the model has several outputs; an exit replaces exactly one")
    value = model.graph.outputs[0]
    classes, unit_axes = _sizes(value)
    dtype = value.dtype
    if dtype is None or dtype not in FLOATS:
        raise Reject("the output is not floating point, so there is no confidence to read from it")
    ends = _last_operator(value)
    activation = Activation(ends) if ends in set(Activation) else Activation.NONE
    chosen = task if task is not Task.AUTO else _guess_task(activation, ends, classes)
    _check_task(chosen, activation, classes)
    return OutputForm(value, chosen, activation, classes, dtype, unit_axes)


def _sizes(value: ir.Value) -> tuple[int, tuple[int, ...]]:
    if value.shape is None or value.shape.rank() < 2:
        raise Reject("the output is not one row of scores a sample")
    trailing = list(value.shape)[1:]
    wide = [axis for axis, size in enumerate(trailing, start=1) if size != 1]
    if len(wide) > 1:
        raise Reject("the output has one row per token or position; an exit returns one row a sample")
    axis = wide[0] if wide else 1
    size = trailing[axis - 1]
    if not isinstance(size, int):
        raise Reject("the number of classes is not fixed in the graph")
    return size, tuple(other for other in range(1, len(trailing) + 1) if other != axis)


def _last_operator(value: ir.Value) -> str:
    node = value.producer()
    while node is not None and node.domain == "" and node.op_type in RESHAPING:
        source = node.inputs[0]
        node = source.producer() if source is not None else None
    return node.op_type if node is not None and node.domain == "" else ""


def _guess_task(activation: Activation, ends: str, classes: int) -> Task:
    if activation is Activation.SIGMOID:
        return Task.MULTI_LABEL
    if activation is not Activation.NONE:
        return Task.CLASSIFICATION
    if ends in NORMALISING:
        raise Reject("the output looks like an embedding; exits need class scores (or set the option task)")
    if classes == 1:
        raise Reject(
            "one number a sample looks like regression; exits need class scores (or set the option task)"
        )
    if ends not in SCORING:
        raise Reject("the output does not come from a layer that scores classes (or set the option task)")
    return Task.CLASSIFICATION


def _check_task(task: Task, activation: Activation, classes: int) -> None:
    single = task is Task.CLASSIFICATION
    if single and classes < 2:
        raise Reject(
            "a classification needs two classes or more; for one yes-or-no score use task=multi-label"
        )
    if single and activation is Activation.SIGMOID:
        raise Reject("the output ends in Sigmoid: labels are independent, task=classification does not fit")
    if not single and activation in (Activation.SOFTMAX, Activation.LOG_SOFTMAX):
        raise Reject("the output ends in Softmax: one class is right, task=multi-label does not fit")
