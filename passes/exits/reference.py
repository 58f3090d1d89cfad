"""Exits in NumPy: the slow, obvious reading of features and rules that the graph is checked against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.special import expit, log_expit, log_softmax, softmax

from adapass.analyses.cut_points import Layout
from adapass.budgeted import Array
from adapass.passes.exits.output_form import Activation, Task
from adapass.passes.exits.record import ExitsRecord, HeadRecord
from adapass.passes.exits.rules import Rule

Doubles = npt.NDArray[np.float64]

FLOOR = 1e-12


def features(head: HeadRecord, cut: Array, mask: Array | None, queries: Array | None) -> Doubles:
    """What the head reads, [B, F], from the value of its cut and the mask [B, T]."""
    order = [head.batch_axis, *_middle(head, cut.ndim), head.channel_axis]
    values = np.asarray(cut, np.float64).transpose(order)
    if head.layout is Layout.VECTOR:
        return values
    if head.layout is Layout.IMAGE:
        return np.concatenate([_image(values, part) for part in head.features.split("+")], axis=1)
    real = np.ones(values.shape[:2]) if mask is None else np.asarray(mask, np.float64)
    if queries is not None:
        return _attended(values, real, np.asarray(queries, np.float64))
    return np.concatenate([_tokens(values, real, part) for part in head.features.split("+")], axis=1)


def as_output(record: ExitsRecord, logits: Doubles) -> Doubles:
    """Logits [B, C] as the model would return them, without axes of size 1."""
    if record.activation is Activation.SOFTMAX:
        return np.asarray(softmax(logits, axis=1), np.float64)
    if record.activation is Activation.LOG_SOFTMAX:
        return np.asarray(log_softmax(logits, axis=1), np.float64)
    return np.asarray(expit(logits), np.float64) if record.activation is Activation.SIGMOID else logits


def confidences(record: ExitsRecord, logits: Sequence[Doubles], readiness: Sequence[Array]) -> Doubles:
    """[B, E], for the logits [B, C] of every exit, and what its exit probability is computed with."""
    if record.rule is Rule.PATIENCE:
        return _patience(record, logits)
    if record.rule is Rule.QUANTILE:
        return _quantile(record, logits, readiness)
    single = record.task is Task.CLASSIFICATION
    found = [_exclusive(record.rule, z) if single else _labelwise(record.rule, z) for z in logits]
    return np.stack(found, axis=1)


def _middle(head: HeadRecord, rank: int) -> list[int]:
    return [axis for axis in range(rank) if axis not in (head.batch_axis, head.channel_axis)]


def _image(values: Doubles, part: str) -> Doubles:
    """``values`` is [B, H, W, C]; grids come out channel by channel, as ONNX flattens them."""
    whole: Mapping[str, Doubles] = {
        "mean": values.mean(axis=(1, 2)),
        "std": values.std(axis=(1, 2)),
        "max": values.max(axis=(1, 2)),
    }
    if part in whole:
        return whole[part]
    side = int(part.removeprefix("grid"))
    rows, columns = (_windows(size, side) for size in values.shape[1:3])
    tiles = [[values[:, r, c].mean(axis=(1, 2)) for c in columns] for r in rows]
    stacked = np.asarray(tiles)
    return np.asarray(stacked.transpose(2, 3, 0, 1).reshape(len(values), -1), np.float64)


def _windows(size: int, side: int) -> list[slice]:
    stride = size // side
    length = size - (side - 1) * stride
    return [slice(start * stride, start * stride + length) for start in range(side)]


def _tokens(values: Doubles, real: Doubles, part: str) -> Doubles:
    if part == "class-token":
        return values[:, 0]
    if part == "max":
        return np.asarray(np.where(real[:, :, None] > 0, values, -np.inf).max(axis=1), np.float64)
    total = (values * real[:, :, None]).sum(axis=1)
    return np.asarray(total / np.maximum(real.sum(axis=1, keepdims=True), 1.0), np.float64)


def _attended(values: Doubles, real: Doubles, queries: Doubles) -> Doubles:
    scores = values @ queries + (real[:, :, None] - 1.0) * 1e30
    weights = np.asarray(softmax(scores, axis=1), np.float64)
    pooled = np.matmul(weights.transpose(0, 2, 1), values)
    return np.asarray(pooled.reshape(len(values), -1), np.float64)


def _exclusive(rule: Rule, logits: Doubles) -> Doubles:
    p = np.sort(np.asarray(softmax(logits, axis=1), np.float64), axis=1)
    if rule is Rule.MAX_PROBABILITY:
        return p[:, -1]
    if rule is Rule.MARGIN:
        return p[:, -1] - p[:, -2]
    return np.asarray(1.0 + (p * np.log(np.maximum(p, FLOOR))).sum(axis=1) / np.log(p.shape[1]), np.float64)


def _labelwise(rule: Rule, logits: Doubles) -> Doubles:
    p = np.asarray(expit(np.abs(logits)), np.float64)
    if rule is Rule.MAX_PROBABILITY:
        return np.asarray(p.min(axis=1), np.float64)
    if rule is Rule.MARGIN:
        return np.asarray(2.0 * p.min(axis=1) - 1.0, np.float64)
    other = 1.0 - p
    chaos = -(p * np.log(np.maximum(p, FLOOR)) + other * np.log(np.maximum(other, FLOOR)))
    return np.asarray(1.0 - chaos.mean(axis=1) / np.log(2.0), np.float64)


def _quantile(record: ExitsRecord, logits: Sequence[Doubles], readiness: Sequence[Array]) -> Doubles:
    """Logarithms of the probabilities to stay are added: as numbers they run out of range."""
    staying = np.zeros(len(logits[0]))
    nines: list[Doubles] = []
    for z, ready in zip(logits, readiness, strict=True):
        ordered = np.sort(z, axis=1)
        single = record.task is Task.CLASSIFICATION
        lead = ordered[:, -1] - ordered[:, -2] if single else np.abs(z).min(axis=1)
        slope, offset = (float(n) for n in np.asarray(ready, np.float64))
        staying = staying + log_expit(-(slope * lead + offset))
        nines.append(-staying / np.log(10.0))
    return np.stack(nines, axis=1)


def _patience(record: ExitsRecord, logits: Sequence[Doubles]) -> Doubles:
    single = record.task is Task.CLASSIFICATION
    said = [z.argmax(axis=1)[:, None] if single else z > 0 for z in logits]
    counts = [np.zeros(len(said[0]))]
    for before, now in pairwise(said):
        counts.append(np.where((before == now).all(axis=1), counts[-1] + 1.0, 0.0))
    return np.stack(counts, axis=1)
