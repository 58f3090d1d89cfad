"""Links: channels that can be divided by any positive number in front and multiplied by it behind.

    v = Relu (Conv (x, w1, b1))         w1[c] / s[c], b1[c] / s[c]         v' = v / s
    y = Conv (v, w2)                    w2[:, c] * s[c]                    y  = y

Such a link runs from what writes the channels (a product, or the scale and shift of a normalisation) to all
its readers, which must be products with constant weights. Between them lie only operators f with
f(a x) = a f(x) for a > 0 that leave channels apart. Queries and keys form a link of another kind: the product
of both sums over the channels, so what divides the query multiplies the key.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.graph.edit import constant_array, new_initializer
from adapass.rewrite import Reject

Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Slot:
    """A constant input of a node whose elements belong to channels."""

    node: ir.Node
    index: int
    channels: Integers
    """Number of the channel of each element, shaped so that it broadcasts to the array."""
    is_weight: bool
    """Whether it is the weight of a product; biases, shifts and scales of normalisations are not."""

    @property
    def array(self) -> Doubles:
        """What is stored, with an entry for each channel where one stood for all of them."""
        found = constant_array(self.node.inputs[self.index])
        assert found is not None  # looked at when the slot was made
        wide = found.astype(np.float64)
        return np.array(np.broadcast_to(wide, np.broadcast_shapes(wide.shape, self.channels.shape)))

    def largest(self, array: Doubles, count: int) -> Doubles:
        """Largest magnitude a channel."""
        found = np.zeros(count)
        np.maximum.at(found, np.broadcast_to(self.channels, array.shape).ravel(), np.abs(array).ravel())
        return found

    def sums(self, array: Doubles, count: int) -> Doubles:
        """Sum over the elements of each channel."""
        places = np.broadcast_to(self.channels, array.shape).ravel()
        return np.bincount(places, weights=array.ravel(), minlength=count).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Read:
    """An activation that a product reads: the value, and which of its axes together hold the channels."""

    value: str
    axes: tuple[int, ...]
    repeat: int
    """Consecutive entries of the last axis for each channel."""
    slot: Slot
    """The weight that reads it."""


@dataclass(frozen=True, slots=True)
class Link:
    """Channels that may be rescaled. ``name`` is the result of the node that writes them."""

    name: str
    channels: int
    divided: tuple[Slot, ...]
    multiplied: tuple[Slot, ...]
    values: tuple[str, ...]
    """Activations that change with them."""
    reads: tuple[Read, ...]
    """Empty for queries and keys."""


def rescale(graph: ir.Graph, link: Link, scale: Doubles) -> None:
    """Divide and multiply the constants of a link in place, one positive number a channel.

    Raises:
        Reject: a rescaled number is not finite; nothing was changed.

    """
    changed = [_scaled(slot, 1.0 / scale) for slot in link.divided]
    changed += [_scaled(slot, scale) for slot in link.multiplied]
    for slot, array in zip((*link.divided, *link.multiplied), changed, strict=True):
        old = slot.node.inputs[slot.index]
        name = old.name or "" if old is not None else ""
        # other nodes may read the constant as it was
        slot.node.replace_input_with(slot.index, new_initializer(graph, f"{name}_rescaled", array))


def _scaled(slot: Slot, factor: Doubles) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):
        array = (slot.array * factor[slot.channels]).astype(np.float32)
    if not np.isfinite(array).all():
        raise Reject("a rescaled number is not finite")
    return array
