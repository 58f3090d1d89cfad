"""Quality on a set of samples, always paired with the original model's outputs on the same samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.budgeted import Array, Samples
from adapass.certify.losses import Losses, Metric, losses
from adapass.data import Dataset
from adapass.execution import Session

Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Judge:
    """Compares outputs with the original's on fixed samples."""

    samples: Dataset
    original: Array
    """The original's first output for every sample, [N, ...]."""
    metric: Metric
    threshold: float
    """Where a yes/no decision lies: 0 for logits, 0.5 behind a sigmoid."""

    def compare(self, output: Array) -> Losses:
        """Losses of ``output`` ([N, ...], same order) against the original."""
        return losses(self.original, output, self.samples.labels, self.metric, threshold=self.threshold)

    def losses(self, output: Array) -> npt.NDArray[np.float64]:
        """Paired loss of each sample, [N]."""
        return self.compare(output).values

    def score(self, output: Array) -> float:
        """The metric itself, 0 to 1, higher is better; without labels the agreement with the original."""
        return self._original_score() - self.compare(output).mean

    def _original_score(self) -> float:
        labels = self.samples.labels
        if not self.metric.needs_labels or labels is None:
            return 1.0
        right = perfect_output(labels, self.original, self.metric, self.threshold)
        return 1.0 - losses(right, self.original, labels, self.metric, threshold=self.threshold).mean


def perfect_output(labels: Array, like: Array, metric: Metric, threshold: float) -> Array:
    """An output of the shape of ``like`` that makes no error: what a metric is measured from."""
    if metric is Metric.ERROR:
        return labels.reshape(like.shape).astype(np.float64)
    single = like.ndim == 1 or like.shape[-1] == 1
    if metric is Metric.MULTI_LABEL_ACCURACY or (metric is Metric.ACCURACY and single):
        return np.where(labels.reshape(like.shape).astype(np.bool_), threshold + 1.0, threshold - 1.0)
    classes = np.maximum(labels.reshape(like.shape[:-1]), 0)
    return np.asarray(np.arange(like.shape[-1]) == classes[..., None], np.float64)


def predict(model: ir.Model, samples: Samples, *, threads: int, report: Report | None = None) -> Array:
    """The first output of ``model`` for every sample, run one by one at its true length, [N, ...]."""
    name = model.graph.outputs[0].name or ""
    session = Session(model, outputs=[name], threads=threads, optimize=True)
    return stack_outputs(samples, lambda i: session.run(samples.feeds(i))[name], report)


def stack_outputs(samples: Samples, run: Callable[[int], Array], report: Report | None = None) -> Array:
    """Run ``run(i)`` for every sample and join the rows along the batch axis."""
    rows: list[Array] = []
    for index in range(len(samples)):
        rows.append(run(index))
        if report is not None and index % 64 == 0:
            report(index, len(samples))
    return np.concatenate(rows)


def spread_indices(count: int, wanted: int) -> Sequence[int]:
    """``wanted`` indices spread evenly over ``count``, all of them when there are fewer."""
    if wanted >= count:
        return range(count)
    return [int(i) for i in np.linspace(0, count - 1, wanted).round()]
