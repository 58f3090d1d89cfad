"""Which entries of every dimension stay when units are removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from adapass.coupling.collect import leaves_by_key, occurrences
from adapass.coupling.dims import Dim, find, leaves
from adapass.coupling.flow import Flow
from adapass.errors import UsageError

Positions = npt.NDArray[np.int64]


@dataclass
class Cut:
    """The leaves that lose units, with the units that stay."""

    kept: Mapping[Dim, Positions]
    _known: dict[Dim, Positions] = field(default_factory=dict[Dim, Positions])

    def touches(self, dim: Dim) -> bool:
        return any(each in self.kept for each in leaves(dim))

    def positions(self, dim: Dim) -> Positions:
        """The positions along ``dim`` that stay, ascending."""
        root = find(dim)
        if root not in self._known:
            self._known[root] = self._positions(root)
        return self._known[root]

    def mask(self, dim: Dim) -> npt.NDArray[np.bool_]:
        mask = np.zeros(find(dim).size[0], np.bool_)
        mask[self.positions(dim)] = True
        return mask

    def size(self, dim: Dim) -> int:
        return len(self.positions(dim))

    def _positions(self, root: Dim) -> Positions:
        stays = np.ones(root.size[0], np.bool_)
        for each in dict.fromkeys(leaves(root)):
            if each not in self.kept:
                continue
            unit_stays = np.zeros(each.size[0], np.bool_)
            unit_stays[self.kept[each]] = True
            for labels in occurrences(root, each):
                stays &= (labels < 0) | unit_stays[labels]
        return np.flatnonzero(stays)


def plan_cut(flow: Flow, kept: Mapping[str, Sequence[int]]) -> Cut:
    """Turn kept units by group key into kept units by leaf.

    Raises:
        UsageError: a key that is no group, or units that are out of range, repeated, or none.

    """
    known = {key: found.dim for key, found in leaves_by_key(flow).items() if found.dim.reason is None}
    chosen: dict[Dim, Positions] = {}
    for key, units in kept.items():
        if key not in known:
            raise UsageError(f"'{key}' is no group of this model that can be cut; see find_coupling(model).groups")
        dim = known[key]
        stay = np.array(sorted(units), np.int64)
        _require_units(key, stay, dim.size[0])
        if len(stay) < dim.size[0]:
            chosen[dim] = stay
    return Cut(chosen)


def _require_units(key: str, stay: Positions, units: int) -> None:
    if len(stay) == 0:
        raise UsageError(f"group '{key}': no unit is left, at least one of {units} must stay")
    if stay[0] < 0 or stay[-1] >= units or len(np.unique(stay)) < len(stay):
        raise UsageError(
            f"group '{key}': the units that stay are {stay.tolist()[:8]}..., "
            f"expected different numbers from 0 to {units - 1}"
        )
