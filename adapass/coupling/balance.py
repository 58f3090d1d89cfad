"""All groups of a grouped convolution must keep the same number of channels.

Where the channels it writes are groups times channels of a group, the k-th channels of all groups go
together. Behind a shuffle they are single channels that the next convolution ties together across the
groups it reads: as many of those units become one as are needed to take the same number from each group.

    2 groups of 3, shuffled, read in 2 groups:   0 3 1 | 4 2 5     units {0, 4} {3, 2} {1, 5}, one of both
    2 groups of 2, shuffled, read in 2 groups:   0 2 | 1 3         units {0, 1} {2, 3}: one unit {0, 1, 2, 3}
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from adapass.coupling.dims import Dim, find, fix
from adapass.coupling.flow import Flow
from adapass.coupling.relations import entries, split, unify

UNBALANCED = "the groups of a convolution would not shrink alike"
MIXED = "its groups are mixed by a shuffle"
MOST_ROUNDS = 8
"""Each round leaves fewer units; two convolutions in a row need two."""


def settle_groups(flow: Flow) -> None:
    """Let what grouped convolutions write shrink in equal parts."""
    listed: list[tuple[list[Dim], int]] = []
    for balanced in flow.balanced:
        groups = find(balanced.groups).size
        parts = split(balanced.dim, groups)
        if parts is not None:
            unify(parts[0], balanced.groups)
            continue
        fix(balanced.groups, MIXED)
        found = entries(balanced.dim)
        if found is not None:
            listed.append((found, groups[0]))
    for _ in range(MOST_ROUNDS):
        joined = [_bundle(found, groups) for found, groups in listed]
        if not any(joined):
            return
    for found, _ in listed:
        for entry in found:
            fix(entry, UNBALANCED)


def _bundle(found: list[Dim], groups: int) -> bool:
    """Join units until each takes the same number from every group; whether any were joined.

    To a unit comes the one that leaves the groups least unequal, the first of several.
    """
    roots, counts = _counts(found, groups)
    joined = False
    left = [at for at in range(len(roots)) if (counts[at] != counts[at][0]).any()]
    while left:
        bundle = [left.pop(0)]
        total = counts[bundle[0]]
        while left and (total != total[0]).any():
            spread = (total + counts[left]).var(axis=1)
            bundle.append(left.pop(int(np.argmin(spread))))
            total = counts[bundle].sum(axis=0)
        joined = True
        for at in bundle[1:]:
            unify(roots[bundle[0]], roots[at])
        if (total != total[0]).any():
            fix(roots[bundle[0]], UNBALANCED)
    return joined


def _counts(found: list[Dim], groups: int) -> tuple[list[Dim], npt.NDArray[np.int64]]:
    """The units that may go, and how many channels of each group belong to each."""
    size = len(found) // groups
    counted: dict[Dim, npt.NDArray[np.int64]] = {}
    for at, entry in enumerate(found):
        root = find(entry)
        if root.reason is None:
            counted.setdefault(root, np.zeros(groups, np.int64))[at // size] += 1
    return list(counted), np.array(list(counted.values()), np.int64).reshape(-1, groups)
