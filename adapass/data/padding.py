"""Find the mask among the inputs, and from it the true length of every sample.

A mask is a whole-number or boolean input of shape [samples, T], T dynamic in the model, whose rows are ones
followed by zeros, start with a one, and are not all full. Everything that shares the axis T with it
can be trimmed to the true length, so that measured time is the time of real sequences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from adapass.budgeted import Array
from adapass.data.inputs import Dim, InputSpec
from adapass.errors import DataError

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Padding:
    """Which axes of which inputs are as long as the sample, and how long every sample is."""

    mask: str
    axes: Mapping[str, tuple[int, ...]]
    lengths: Integers


def find_padding(
    arrays: Mapping[str, Array], specs: tuple[InputSpec, ...], *, mask: str | None = None
) -> Padding | None:
    """The padding of ``arrays``, ``None`` where there is none. ``mask`` names the mask where several qualify.

    Raises:
        DataError: several inputs look like masks and disagree, or the named one is not a mask.

    """
    given = tuple(spec for spec in specs if spec.name in arrays)
    if mask is not None:
        return _named(mask, arrays, given)
    candidates = [spec for spec in given if _is_mask(arrays[spec.name], spec, nameless=False)]
    if not candidates:
        return None
    chosen = _preferred(candidates, arrays)
    return _padding(chosen, arrays, given)


def _named(mask: str, arrays: Mapping[str, Array], specs: tuple[InputSpec, ...]) -> Padding | None:
    spec = next((spec for spec in specs if spec.name == mask), None)
    if spec is None:
        raise DataError(f"mask '{mask}' is not among the arrays; found {', '.join(arrays)}")
    if not has_mask_form(arrays[mask], spec, nameless=True):
        raise DataError(
            f"array '{mask}' is no mask: whole numbers of shape [samples, dynamic length] expected, "
            "rows of ones followed by zeros that start with a one"
        )
    return _padding(spec, arrays, specs) if not bool(np.asarray(arrays[mask]).all()) else None


def _preferred(candidates: list[InputSpec], arrays: Mapping[str, Array]) -> InputSpec:
    """The one called a mask; or any, where all say the same."""
    called = [spec for spec in candidates if "mask" in spec.name.lower()] or candidates
    first = arrays[called[0].name]
    if all(np.array_equal(arrays[spec.name], first) for spec in called[1:]):
        return called[0]
    names = ", ".join(f"'{spec.name}'" for spec in called)
    raise DataError(f"inputs {names} all look like the mask that marks padding; say which with mask=NAME")


def _is_mask(array: Array, spec: InputSpec, *, nameless: bool) -> bool:
    return has_mask_form(array, spec, nameless=nameless) and not bool(np.asarray(array).all())


def has_mask_form(array: Array, spec: InputSpec, *, nameless: bool) -> bool:
    if array.ndim != 2 or array.dtype.kind not in "biu" or isinstance(spec.shape[1], int):
        return False
    if spec.shape[1] is None and not nameless:
        return False
    ones = array == 1
    falls = ones[:, 1:] <= ones[:, :-1]
    return bool((ones | (array == 0)).all() and ones[:, 0].all() and falls.all())


def _padding(mask: InputSpec, arrays: Mapping[str, Array], specs: tuple[InputSpec, ...]) -> Padding:
    lengths = np.asarray(arrays[mask.name]).astype(np.int64).sum(axis=1)
    symbol, extent = mask.shape[1], arrays[mask.name].shape[1]
    axes = {spec.name: _shared(spec.shape, arrays[spec.name].shape, symbol, extent) for spec in specs}
    return Padding(
        mask.name, MappingProxyType({name: found for name, found in axes.items() if found}), lengths
    )


def _shared(shape: tuple[Dim, ...], sizes: tuple[int, ...], symbol: Dim, extent: int) -> tuple[int, ...]:
    """Axes behind the first that carry the symbol; for a nameless one, nameless axes of the same extent."""
    return tuple(
        axis
        for axis in range(1, len(shape))
        if shape[axis] == symbol and (symbol is not None or sizes[axis] == extent)
    )
