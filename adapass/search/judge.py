"""Quality on a set of samples, always paired with the original model's outputs on the same samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.budgeted import Array, Samples
from adapass.certify.losses import Metric, paired_losses, score
from adapass.execution import Session

Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Judge:
    """Compares outputs with the original's on fixed samples."""

    samples: Samples
    original: Array
    """The original's first output for every sample, [N, ...]."""
    metric: Metric

    def losses(self, output: Array) -> npt.NDArray[np.float64]:
        """Paired loss of each sample, [N]; see ``adapass.certify.losses``."""
        return paired_losses(self.original, output, self.samples.labels, self.metric)

    def score(self, output: Array) -> float:
        """The metric itself (accuracy, or agreement with the original), 0 to 1, higher is better."""
        return score(self.original, output, self.samples.labels, self.metric)


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
