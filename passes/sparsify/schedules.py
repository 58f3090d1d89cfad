"""How much each layer loses when a whole model loses a share: the usual rules, to compare with.

All take weights by name and the share of all their elements that goes, and return each layer's own share.

* ``uniform``: the same everywhere.
* ``global_magnitude``: the smallest weights of all, wherever they are.
* ``lamp``: the smallest squares relative to all squares of the layer that are not smaller (Lee et al. 2021,
  arXiv:2010.07611).
* ``erk``: what stays in proportion to the sum of the sizes over their product, never more than all (Evci et
  al. 2020, arXiv:1911.11134).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from adapass.budgeted import Array
from adapass.errors import UsageError

Weights = Mapping[str, Array]
Shares = dict[str, float]
Schedule = Callable[[Weights, float], Shares]
Doubles = npt.NDArray[np.float64]


def uniform(weights: Weights, share: float) -> Shares:
    """The same share of every layer."""
    _check(weights, share)
    return dict.fromkeys(weights, share)


def global_magnitude(weights: Weights, share: float) -> Shares:
    """Shares that fall out of one threshold on the size of the weights."""
    _check(weights, share)
    return _by_score(
        {name: np.abs(array.astype(np.float64)).ravel() for name, array in weights.items()}, share
    )


def lamp(weights: Weights, share: float) -> Shares:
    """Shares that fall out of one threshold on the LAMP score; the largest weight of a layer always stays."""
    _check(weights, share)
    return _by_score({name: lamp_scores(array) for name, array in weights.items()}, share)


def lamp_scores(array: Array) -> Doubles:
    """[elements]: the square over the sum of all squares of the layer not smaller (ties in order)."""
    squares = array.astype(np.float64).ravel() ** 2
    order = np.argsort(squares, kind="stable")
    not_smaller = np.cumsum(squares[order][::-1])[::-1]
    scores = np.zeros_like(squares)
    scores[order] = np.divide(
        squares[order], not_smaller, out=np.zeros_like(squares), where=not_smaller > 0.0
    )
    return scores


def erk(weights: Weights, share: float) -> Shares:
    """Density of a layer in proportion to (sum of its sizes) / (product of its sizes), 1 at most."""
    _check(weights, share)
    sizes = {name: int(array.size) for name, array in weights.items()}
    raw = {name: sum(array.shape) / array.size for name, array in weights.items()}
    whole: set[str] = set()
    stays = (1.0 - share) * sum(sizes.values())
    while True:
        open_ = [name for name in weights if name not in whole]
        left = stays - sum(sizes[name] for name in whole)
        factor = left / sum(raw[name] * sizes[name] for name in open_) if open_ else 0.0
        over = [name for name in open_ if raw[name] * factor > 1.0]
        if not over:
            return {name: 0.0 if name in whole else 1.0 - raw[name] * factor for name in weights}
        whole.update(over)


SCHEDULES: Mapping[str, Schedule] = {
    "uniform": uniform,
    "global-magnitude": global_magnitude,
    "lamp": lamp,
    "erk": erk,
}


def _by_score(scores: Mapping[str, Doubles], share: float) -> Shares:
    """Each layer's part of the lowest scores of all; ties go in the order of the layers."""
    names = list(scores)
    joined = np.concatenate([scores[name] for name in names])
    layer = np.repeat(np.arange(len(names)), [len(scores[name]) for name in names])
    gone = int(np.floor(share * len(joined) + 1e-9))
    lowest = np.argsort(joined, kind="stable")[:gone]
    counts = np.bincount(layer[lowest], minlength=len(names))
    return {name: float(counts[i]) / len(scores[name]) for i, name in enumerate(names)}


def _check(weights: Weights, share: float) -> None:
    if not weights:
        raise UsageError("no weights were given; at least one layer is needed")
    if not 0.0 <= share < 1.0:
        raise UsageError(f"the share that goes must be at least 0 and below 1, found {share}")
    for name, array in weights.items():
        if array.size == 0:
            raise UsageError(f"the weight '{name}' has no elements; leave it out")
