"""Which metric fits a model's output, and where its yes/no decision lies."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array
from adapass.certify.losses import Metric
from adapass.errors import UsageError

_TRANSPARENT = frozenset({"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose"})
"""Operators that move or rename numbers and keep the side of a threshold they are on."""


def decision_threshold(model: ir.Model, output: int = 0) -> float:
    """0.5 where the output is a sigmoid's, else 0 (logits)."""
    value: ir.Value | None = model.graph.outputs[output]
    while value is not None and (node := value.producer()) is not None and node.op_type in _TRANSPARENT:
        value = node.inputs[0]
    node = None if value is None else value.producer()
    return 0.5 if node is not None and node.op_type in ("Sigmoid", "HardSigmoid") else 0.0


def choose_metric(output: Array, labels: Array | None, *, threshold: float = 0.0) -> Metric:
    """The metric that the form of the output (samples on the first axis) and of the labels suggest.

    Raises:
        UsageError: several would do and mean different things, or none does; the message lists them.

    """
    single = output.ndim == 1 or (output.ndim == 2 and output.shape[1] == 1)
    if labels is None:
        return _without_labels(output, single=single, threshold=threshold)
    whole = labels.dtype.kind in "biu"
    if labels.dtype.kind == "f" and labels.size == output.size:
        return Metric.ERROR
    if whole and single and labels.size == len(output) and _only_marks(labels):
        return Metric.ACCURACY
    if whole and not single and output.ndim == 2 and labels.shape == (len(output),):
        return Metric.ACCURACY
    if whole and output.ndim == 2 and labels.shape == output.shape and _only_marks(labels):
        return Metric.MULTI_LABEL_ACCURACY
    if whole and output.ndim == 3 and labels.shape == output.shape[:2]:
        return Metric.TOKEN_ACCURACY
    raise UsageError(
        f"no metric fits outputs of shape {output.shape} with {labels.dtype} labels of shape {labels.shape}; "
        f"choose one with --metric ({', '.join(Metric)})"
    )


def _without_labels(output: Array, *, single: bool, threshold: float) -> Metric:
    if single and threshold == 0.0:
        raise UsageError(
            "the model gives one number a sample: choose --metric agreement (a yes/no decision at 0) "
            "or --metric deviation (regression, with a scale)"
        )
    if output.ndim > 3:
        raise UsageError(
            f"no metric fits outputs of shape {output.shape}; choose --metric deviation, with a scale"
        )
    return Metric.TOKEN_AGREEMENT if output.ndim == 3 else Metric.AGREEMENT


def _only_marks(labels: Array) -> bool:
    return bool(np.isin(labels, (0, 1)).all())
