"""What lies beside the stream of tokens and has to follow it: masks, positions, sizes."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import numpy as np

from adapass.analyses.dataflow import name_of
from adapass.budgeted import Array
from adapass.graph.edit import constant_array
from adapass.passes.tokens.walk import FOLDED, Read, Walk

MASKING = -1e4
"""What a mask adds to the scores of tokens that must not be seen, at most."""


class Kind(StrEnum):
    """How a value beside the stream follows the tokens."""

    SIZES = "sizes"
    """A list of sizes: the number of tokens in it is another one."""
    TOKENS = "tokens"
    """One entry a token: taken at the tokens that stay."""
    KEYS = "keys"
    """Something for the keys of an attention, the same for all queries: one row of it is taken."""
    PAIRS = "pairs"
    """Something for each pair of tokens, as relative positions have: taken along both axes."""


def watched_values(walk: Walk) -> list[str]:
    """Names of computed values with two axes of tokens: only looking at them tells keys from pairs."""
    pairs = [read.value for read in walk.reads if len(read.axes) == 2]
    return [name_of(value) for value in pairs if constant_array(value) is None]


def kinds_of(walk: Walk, seen: Mapping[str, list[Array]]) -> dict[Read, Kind] | str:
    """The kind of everything that is read beside the stream, or why something of it cannot follow."""
    found: dict[Read, Kind] = {}
    for read in walk.reads:
        kind = _kind(walk, read, seen)
        if not isinstance(kind, Kind):
            return kind
        found[read] = kind
    return found


def _kind(walk: Walk, read: Read, seen: Mapping[str, list[Array]]) -> Kind | str:
    if not read.axes:
        folded = FOLDED in walk.axes[read.node.outputs[0]]
        sizes = constant_array(read.value)
        if folded and (sizes is None or int(sizes.ravel()[0]) != -1):
            return "the number of tokens of all samples is computed"
        return Kind.SIZES
    first, *others = read.axes
    if not others:
        return Kind.KEYS if read.score_axes else Kind.TOKENS
    if len(others) > 1 or others[0] not in read.score_axes:
        return "a value beside the stream has more than two axes of tokens"
    constant = constant_array(read.value)
    arrays = seen.get(name_of(read.value), []) if constant is None else [constant]
    if not arrays:
        return "a mask could not be looked at"
    if all(_is_alike(array, first) for array in arrays):
        return Kind.KEYS
    if any(array.dtype.kind != "f" or float(np.min(array)) < MASKING for array in arrays):
        return "the mask is another one for every token (a causal or windowed attention)"
    return Kind.PAIRS


def _is_alike(array: Array, axis: int) -> bool:
    """Whether all entries along ``axis`` are equal."""
    rows = np.moveaxis(array, axis, 0)
    return bool((rows == rows[:1]).all())
