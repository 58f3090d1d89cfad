"""Which entries of every dimension stay when units are removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from adapass.coupling.collect import leaves_by_key
from adapass.coupling.dims import Dim, Form, find, leaves
from adapass.coupling.flow import Flow
from adapass.errors import UsageError

Mask = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.int64]


@dataclass
class Cut:
    """The leaves that lose units, with the units that stay."""

    kept: Mapping[Dim, Positions]
    groups: int = 0
    """How many groups lose units."""
    _known: dict[Dim, Mask] = field(default_factory=dict[Dim, Mask])

    def touches(self, dim: Dim) -> bool:
        return any(each in self.kept for each in leaves(dim))

    def positions(self, dim: Dim) -> Positions:
        """The positions along ``dim`` that stay, ascending."""
        return np.flatnonzero(self.mask(dim))

    def mask(self, dim: Dim) -> Mask:
        """Which positions along ``dim`` stay."""
        root = find(dim)
        if root not in self._known:
            self._known[root] = self._mask(root)
        return self._known[root]

    def size(self, dim: Dim) -> int:
        return int(self.mask(dim).sum())

    def _mask(self, root: Dim) -> Mask:
        if root.form is Form.LEAF:
            mask = np.ones(root.size[0], np.bool_)
            if root in self.kept:
                mask[:] = False
                mask[self.kept[root]] = True
            return mask
        parts = [self.mask(part) for part in root.parts]
        if root.form is Form.SUM:
            return np.concatenate(parts)
        whole = parts[0]
        for part in parts[1:]:
            whole = np.logical_and.outer(whole, part).reshape(-1)
        return whole


def plan_cut(flow: Flow, kept: Mapping[str, Sequence[int]]) -> Cut:
    """Turn kept units by group key into kept units by leaf.

    Raises:
        UsageError: a key that is no group, or units that are out of range, repeated, or none.

    """
    known = {key: found for key, found in leaves_by_key(flow).items() if found.reason is None}
    chosen: dict[Dim, Positions] = {}
    groups = 0
    for key, units in kept.items():
        if key not in known:
            raise UsageError(
                f"'{key}' is no group of this model that can be cut; see find_coupling(model).groups"
            )
        found = known[key]
        stay = np.array(sorted(units), np.int64)
        _require_units(key, stay, found.units)
        groups += len(stay) < found.units
        for dim, first in found.members.items():
            inside = stay[(stay >= first) & (stay < first + dim.size[0])] - first
            if len(inside) < dim.size[0]:
                chosen[dim] = inside
    return Cut(chosen, groups)


def _require_units(key: str, stay: Positions, units: int) -> None:
    if len(stay) == 0:
        raise UsageError(f"group '{key}': no unit is left, at least one of {units} must stay")
    if stay[0] < 0 or stay[-1] >= units or len(np.unique(stay)) < len(stay):
        raise UsageError(
            f"group '{key}': the units that stay are {stay.tolist()[:8]}..., "
            f"expected different numbers from 0 to {units - 1}"
        )
