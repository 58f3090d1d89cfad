"""Give both sides of every link the same ranges of weights (Nagel et al. 2019, arXiv:1906.04721).

With ``r1`` the largest weight that writes a channel and ``r2`` the largest that reads it, dividing by
``s = sqrt (r1 / r2)`` makes both ``sqrt (r1 r2)``, which leaves one scale a tensor the least to lose. A
product in the middle of a chain belongs to two links, so this is repeated until nothing moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from adapass.passes.quantize.rescaling.links import Doubles, Link, Slot

ROUNDS = 200
SETTLED = 1e-4
"""Largest logarithm of a factor in the last round."""
BALANCED = 1e-2
"""Links whose factors are all as close to 1 as this are left alone."""
Key = tuple[ir.Node, int]


def equalizing_scales(links: Sequence[Link]) -> Mapping[str, Doubles]:
    """What to divide the channels of each link by, by name; links that are balanced are left out.

    Links that no product with a constant weight writes (behind a normalisation) have one side only.
    """
    chosen = [link for link in links if any(slot.is_weight for slot in link.divided)]
    arrays = {
        (slot.node, slot.index): np.abs(slot.array)
        for link in chosen
        for slot in (*link.divided, *link.multiplied)
        if slot.is_weight
    }
    total = {link.name: np.ones(link.channels) for link in chosen}
    for _ in range(ROUNDS):
        moved = 0.0
        for link in chosen:
            step = _step(link, arrays)
            moved = max(moved, float(np.abs(np.log(step)).max(initial=0.0)))
            total[link.name] *= step
            _multiply(link.divided, 1.0 / step, arrays)
            _multiply(link.multiplied, step, arrays)
        if moved < SETTLED:
            break
    return {name: scale for name, scale in total.items() if np.abs(np.log(scale)).max() > BALANCED}


def _step(link: Link, arrays: Mapping[Key, Doubles]) -> Doubles:
    first, second = (_largest(slots, link.channels, arrays) for slots in (link.divided, link.multiplied))
    live = (first > 0.0) & (second > 0.0)
    return np.where(live, np.sqrt(np.divide(first, second, out=np.ones_like(first), where=live)), 1.0)


def _largest(slots: Sequence[Slot], count: int, arrays: Mapping[Key, Doubles]) -> Doubles:
    found = np.zeros(count)
    for slot in slots:
        if slot.is_weight:
            np.maximum(found, slot.largest(arrays[slot.node, slot.index], count), out=found)
    return found


def _multiply(slots: Sequence[Slot], factor: Doubles, arrays: dict[Key, Doubles]) -> None:
    for slot in slots:
        if slot.is_weight:
            arrays[slot.node, slot.index] *= factor[slot.channels]
