"""How much worse than the original a candidate is, sample by sample, in bounded numbers.

With labels: the error of the candidate minus the error of the original, so luck that both share cancels.
Without: how far the candidate is from the original. The mean over the population is the drop that is
certified; a metric whose samples are not bounded could not be certified at finite n and is not offered.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from adapass.budgeted import Array
from adapass.errors import DataError, UsageError

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

NO_CLASS = -(2**62)


class Metric(StrEnum):
    """What is compared. The second half of each pair needs no labels."""

    ACCURACY = "accuracy"
    """One class a sample (the largest output, or a single output against a threshold): right or wrong."""
    AGREEMENT = "agreement"
    MULTI_LABEL_ACCURACY = "multi-label-accuracy"
    """Several yes/no marks a sample: the share that is wrong."""
    MULTI_LABEL_AGREEMENT = "multi-label-agreement"
    TOKEN_ACCURACY = "token-accuracy"
    """One class a token: the share of tokens that is wrong; negative labels do not count."""
    TOKEN_AGREEMENT = "token-agreement"
    ERROR = "error"
    """Regression: mean absolute error in units of ``scale``, each element cut at 1."""
    DEVIATION = "deviation"
    COSINE = "cosine"
    """Embeddings: half the cosine distance to the original's embedding. No labels."""

    @property
    def needs_labels(self) -> bool:
        return self in (Metric.ACCURACY, Metric.MULTI_LABEL_ACCURACY, Metric.TOKEN_ACCURACY, Metric.ERROR)

    @property
    def discrete(self) -> bool:
        """Whether a sample's loss is a whole number whatever the data: exact tests apply."""
        return self in (Metric.ACCURACY, Metric.AGREEMENT)


@dataclass(frozen=True, eq=False, slots=True)
class Losses:
    """Losses of one candidate, one a sample, in [``low``, 1]."""

    values: Floats
    metric: Metric

    @property
    def low(self) -> float:
        return -1.0 if self.metric.needs_labels else 0.0

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @property
    def worse(self) -> int:
        """Samples on which the candidate is worse than the original."""
        return int((self.values > 0).sum())

    @property
    def better(self) -> int:
        return int((self.values < 0).sum())

    def __len__(self) -> int:
        return len(self.values)

    def __post_init__(self) -> None:
        if self.values.ndim != 1 or len(self.values) == 0:
            raise DataError(
                f"losses have shape {self.values.shape}; one number a sample, at least one, expected"
            )
        if not bool(((self.values >= self.low) & (self.values <= 1)).all()):
            raise DataError(f"losses of metric '{self.metric}' leave [{self.low:g}, 1]")
        if self.metric.discrete and not np.array_equal(self.values, np.round(self.values)):
            raise DataError(f"losses of metric '{self.metric}' are not whole numbers")


def losses(
    original: Array,
    candidate: Array,
    labels: Array | None,
    metric: Metric,
    *,
    threshold: float = 0.0,
    scale: float | None = None,
    lengths: Integers | None = None,
) -> Losses:
    """Losses of ``candidate`` outputs against ``original`` outputs; samples on the first axis.

    ``threshold`` decides single outputs and marks (0 for logits, 0.5 behind a sigmoid); ``scale`` is the
    error that counts as total for regression; ``lengths`` are true lengths for token metrics.
    A NaN or infinite candidate output counts as wrong.

    Raises:
        DataError: shapes that do not fit, or an original with NaN or infinite outputs.
        UsageError: labels or scale are missing for the metric.

    """
    _check(original, candidate, labels, metric, scale)
    if metric is Metric.COSINE:
        return Losses(_half_cosine_distance(original, candidate), metric)
    reference = labels if metric.needs_labels else None
    match metric:
        case Metric.ACCURACY | Metric.AGREEMENT:
            first, second = _classes(original, threshold), _classes(candidate, threshold)
            reference = None if reference is None else reference.reshape(len(reference))
        case Metric.MULTI_LABEL_ACCURACY | Metric.MULTI_LABEL_AGREEMENT:
            first, second = _marks(original, threshold), _marks(candidate, threshold)
        case Metric.TOKEN_ACCURACY | Metric.TOKEN_AGREEMENT:
            first, second = _argmax(original), _argmax(candidate)
        case _:
            return Losses(_regression(original, candidate, reference, scale or 1.0), metric)
    counted = _counted(first, reference, lengths)
    if reference is None:
        return Losses(_share(first != second, counted), metric)
    _same_shape("labels", reference, first)
    return Losses(_share(second != reference, counted) - _share(first != reference, counted), metric)


def _check(
    original: Array, candidate: Array, labels: Array | None, metric: Metric, scale: float | None
) -> None:
    _same_shape("candidate outputs", candidate, original)
    if original.dtype.kind == "f" and not np.isfinite(original).all():
        raise DataError(
            "the original model's outputs have NaN or infinite values; there is nothing to compare with"
        )
    if metric.needs_labels and labels is None:
        raise UsageError(
            f"metric '{metric}' needs labels; add an array 'labels' or compare with the original"
        )
    if metric in (Metric.ERROR, Metric.DEVIATION) and not (scale is not None and scale > 0):
        raise UsageError(
            f"metric '{metric}' needs a scale above 0: the error that counts as total; found {scale}"
        )


def _same_shape(what: str, found: Array, expected: Array) -> None:
    if found.shape != expected.shape:
        raise DataError(f"{what} have shape {found.shape}; {expected.shape} expected")


def _classes(outputs: Array, threshold: float) -> Integers:
    if outputs.ndim == 1 or (outputs.ndim == 2 and outputs.shape[1] == 1):
        return _marks(outputs.reshape(len(outputs)), threshold)
    if outputs.ndim != 2:
        raise DataError(
            f"outputs have shape {outputs.shape}; [samples, classes] expected, or choose a token metric"
        )
    return _argmax(outputs)


def _argmax(outputs: Array) -> Integers:
    """The largest along the last axis; a number that is no class where the outputs are not finite."""
    return np.where(np.isfinite(outputs).all(axis=-1), outputs.argmax(axis=-1), NO_CLASS).astype(np.int64)


def _marks(outputs: Array, threshold: float) -> Integers:
    return np.where(np.isfinite(outputs), outputs.astype(np.float64) > threshold, NO_CLASS).astype(np.int64)


def _counted(predicted: Integers, labels: Array | None, lengths: Integers | None) -> npt.NDArray[np.bool_]:
    """Which elements count: labels that are not negative, tokens before the true length."""
    counted = np.ones(predicted.shape, np.bool_)
    if predicted.ndim == 1:
        return counted
    if labels is not None and labels.shape == predicted.shape:
        counted[labels.astype(np.int64) < 0] = False
    if lengths is not None:
        counted[np.arange(predicted.shape[1]) >= lengths[:, None]] = False
    return counted


def _share(wrong: npt.NDArray[np.bool_], counted: npt.NDArray[np.bool_]) -> Floats:
    rows = len(wrong)
    hits = (wrong & counted).reshape(rows, -1).sum(axis=1)
    return np.asarray(hits / np.maximum(counted.reshape(rows, -1).sum(axis=1), 1), np.float64)


def _regression(original: Array, candidate: Array, labels: Array | None, scale: float) -> Floats:
    if labels is None:
        return _cut_error(candidate, original, scale)
    _same_shape(
        "labels", labels.reshape(original.shape) if labels.size == original.size else labels, original
    )
    target = labels.reshape(original.shape)
    return _cut_error(candidate, target, scale) - _cut_error(original, target, scale)


def _cut_error(found: Array, target: Array, scale: float) -> Floats:
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(found.astype(np.float64) - target.astype(np.float64)) / scale
    error = np.where(np.isfinite(error), np.minimum(error, 1.0), 1.0)
    return np.asarray(error.reshape(len(error), -1).mean(axis=1), np.float64)


def _half_cosine_distance(original: Array, candidate: Array) -> Floats:
    """In [0, 1]; a zero or broken candidate vector is as far as can be."""
    first = original.reshape(len(original), -1).astype(np.float64)
    second = candidate.reshape(len(candidate), -1).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        distance = (1 - (first * second).sum(axis=1) / norms) / 2
    distance = np.where((first == second).all(axis=1), 0.0, distance)
    return np.where(np.isfinite(distance), np.clip(distance, 0.0, 1.0), 1.0)
