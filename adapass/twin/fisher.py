"""Fisher information of every weight: how much the model's own predictions tell about it.

    F_w = mean over samples of (d log p(y | x) / d w)^2,     y drawn from the model's own p(. | x)

No labels are read. ``[N, C]`` outputs with several columns are class scores (or probabilities); any other
output is taken as the mean of a normal distribution of variance 1. A weight of low information can be
changed without the output noticing (LeCun et al. 1990; Theis et al. 2018).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from adapass.budgeted import Samples
from adapass.errors import DataError
from adapass.twin.classes import class_log_probabilities, has_classes
from adapass.twin.torch_import import Tensor, torch
from adapass.twin.twin import Twin

Array64 = npt.NDArray[np.float64]


def fisher(twin: Twin, samples: Samples, *, draws: int = 1, seed: int = 0) -> Mapping[str, Array64]:
    """By initializer, in its shape; sample by sample, because squares of sums are not sums of squares.

    ``draws`` predictions are drawn for each sample from the first output; the same seed draws the same.

    Raises:
        DataError: there are no samples.

    """
    if not len(samples):
        raise DataError("fisher has 0 samples; at least 1 expected, better hundreds")
    random = np.random.default_rng(seed)
    weights = {name: twin.parameter(name) for name in twin.weights}
    total = {name: torch.zeros(w.shape, dtype=torch.float64) for name, w in weights.items()}
    for index in range(len(samples)):
        output = twin.compute(samples.feeds(index))[twin.outputs[0]]
        for draw in range(draws):
            likelihood = _drawn(output, random)
            kept = draw + 1 < draws
            found = torch.autograd.grad(
                likelihood, list(weights.values()), retain_graph=kept, allow_unused=True
            )
            for name, gradient in zip(weights, found, strict=True):
                if gradient is not None:
                    total[name] += gradient.double().square()
    count = len(samples) * draws
    return {name: np.asarray((sums / count).numpy(), np.float64) for name, sums in total.items()}


def _drawn(output: Tensor, random: np.random.Generator) -> Tensor:
    """The log-likelihood of one prediction drawn from the model's own distribution."""
    if not has_classes(output):
        noise = torch.from_numpy(random.standard_normal(tuple(output.shape))).to(output.dtype)
        return (output * noise).sum()
    log_probabilities = class_log_probabilities(output)
    shares = log_probabilities.detach().double().exp()[0].numpy()
    label = int(random.choice(len(shares), p=shares / shares.sum()))
    return log_probabilities[0, label]
