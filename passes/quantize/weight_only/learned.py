"""Learn for each weight whether it is rounded up or down.

    minimise over V   | x W - x Q(V) |^2 + pull * mean (1 - |2 h(V) - 1|^beta)
    Q(V) = scale * (floor(w / scale) + h(V)),    h = clip(1.2 sigmoid(V) - 0.1, 0, 1)

The pull makes every h 0 or 1 in the end: ``beta`` falls, so that first only those near a half are left alone.
For a product the objective is a quadratic form of the second moment of its inputs, so nothing but moments is
needed. (Nagel et al. 2020, AdaRound, arXiv:2004.10568.)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from adapass.errors import UsageError
from adapass.passes.quantize.weight_only.grid import Doubles, Grid
from adapass.passes.quantize.weight_only.second_order import damp, squared_error

STEPS = 300
RATE = 5e-2
WARM_UP = 0.2
"""Share of the steps without a pull."""
FIRST_BETA, LAST_BETA = 20.0, 2.0
PULL = 20.0
"""Times the mean over all weights, beside an error of 1 for rounding to nearest. With less, weights are left
between two integers, and rounding them in the end loses what was learned (errors with 1: 0.48 and 0.59, with
20: 0.41 and 0.47)."""
STRETCH = 1.2


def learned(matrix: Doubles, gram: Doubles, grid: Grid, *, damping: float, start: Doubles) -> Doubles:
    """Integers [K, N] on ``grid``; those of ``start`` where learning found nothing better.

    Raises:
        UsageError: torch is not installed.

    """
    damped = damp(gram, damping)
    scale, zero = grid.rows(len(matrix))
    floor = np.floor(matrix / scale)
    up = _learn(damped, scale, matrix / scale - floor)
    values = np.clip(floor + up + zero, grid.low, grid.high)
    errors = [squared_error(grid.weights(each) - matrix, damped) for each in (values, start)]
    return values if errors[0] < errors[1] else start


def _learn(gram: Doubles, scale: Doubles, part: Doubles) -> Doubles:
    """1 where a weight is rounded up, else 0."""
    torch = _torch()
    weigh, step, wanted = (torch.tensor(array, dtype=torch.float32) for array in (gram, scale, part))
    nearest = (wanted.round() - wanted) * step
    size = float((nearest * (weigh @ nearest)).sum()) or 1.0
    logits = torch.logit(((wanted + 0.1) / STRETCH).clamp(1e-4, 1 - 1e-4)).requires_grad_(True)
    optimizer = torch.optim.Adam([logits], lr=RATE)
    for index in range(STEPS):
        done = max(index / STEPS - WARM_UP, 0.0) / (1.0 - WARM_UP)
        h = (torch.sigmoid(logits) * STRETCH - 0.1).clamp(0.0, 1.0)
        moved = (h - wanted) * step
        with torch.no_grad():
            slope = 2.0 * (weigh @ moved)  # of the quadratic form: one product a step instead of three
        loss = (moved * slope).sum() / size
        if index >= STEPS * WARM_UP:
            beta = LAST_BETA + 0.5 * (FIRST_BETA - LAST_BETA) * (1.0 + float(np.cos(np.pi * done)))
            loss = loss + PULL * (1.0 - (2.0 * h - 1.0).abs() ** beta).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return np.asarray((logits.detach() >= 0.0).numpy(), np.float64)


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise UsageError(
            "learned rounding needs torch, which is not installed: pip install adapass[torch], "
            "or round with rounding=second-order"
        ) from error
    return torch
