"""Join the parts of a data set (files of a folder, batches of a function) that may be padded differently."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from adapass.budgeted import Array
from adapass.data.checks import LABELS
from adapass.data.inputs import InputSpec
from adapass.data.padding import has_mask_form
from adapass.errors import DataError

Part = tuple[str, dict[str, Array]]


def join(parts: Iterable[Part], specs: tuple[InputSpec, ...], *, mask: str | None = None) -> dict[str, Array]:
    """One array an input. Parts of different lengths are padded to the longest where a mask marks padding.

    Raises:
        DataError: no parts, different arrays in the parts, or extents that differ and may not be padded.

    """
    listed = list(parts)
    if not listed:
        raise DataError("no data found; at least one batch expected")
    first_name, first = listed[0]
    for where, part in listed[1:]:
        if set(part) != set(first):
            odd = sorted(set(part) ^ set(first))[0]
            raise DataError(
                f"array '{odd}' is in only one of {first_name} and {where}; the same arrays expected"
            )
    if len(listed) == 1:
        return dict(first)
    masks = _masked_dims(listed, specs, mask)
    return {name: _joined(name, listed, _padded_axes(name, specs, masks), masks) for name in first}


def _masked_dims(parts: list[Part], specs: tuple[InputSpec, ...], mask: str | None) -> dict[str, str]:
    """Symbol of each length that a mask-like input marks -> that input."""
    found: dict[str, str] = {}
    for spec in specs:
        named = spec.name == mask if mask is not None else "mask" in spec.name.lower()
        fits = all(
            spec.name in part and has_mask_form(part[spec.name], spec, nameless=False) for _, part in parts
        )
        if fits and isinstance(symbol := spec.shape[1], str) and (named or symbol not in found):
            found[symbol] = spec.name
    return found


def _padded_axes(name: str, specs: tuple[InputSpec, ...], masks: Mapping[str, str]) -> tuple[int, ...]:
    shape = next((spec.shape for spec in specs if spec.name == name), ())
    return tuple(axis for axis, dim in enumerate(shape) if axis > 0 and isinstance(dim, str) and dim in masks)


def _joined(name: str, parts: list[Part], axes: tuple[int, ...], masks: Mapping[str, str]) -> Array:
    arrays = [part[name] for _, part in parts]
    if len({array.dtype for array in arrays}) > 1:
        raise DataError(
            f"array '{name}' has dtypes {sorted({str(array.dtype) for array in arrays})}; one expected"
        )
    extents = tuple(max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays), strict=False))
    fill = np.zeros((), arrays[0].dtype) if name in masks.values() else _fill(arrays, axes)
    return np.concatenate([_grown(name, where, part[name], extents, axes, fill) for where, part in parts])


def _fill(arrays: list[Array], axes: tuple[int, ...]) -> Array:
    """What the data itself pads with: the last entry of the last axis where ids are padded, else 0."""
    if axes == (1,) and arrays[0].ndim == 2:
        last = np.concatenate([array[:, -1] for array in arrays])
        values, counts = np.unique(last, return_counts=True)
        if arrays[0].dtype.kind in "iu" and counts.max() > len(last) // 2:
            return np.asarray(values[int(counts.argmax())])
    return np.zeros((), arrays[0].dtype)


def _grown(
    name: str, where: str, array: Array, extents: tuple[int, ...], axes: tuple[int, ...], fill: Array
) -> Array:
    if array.shape[1:] == extents:
        return array
    missing = [large - size for size, large in zip(array.shape[1:], extents, strict=False)]
    if array.ndim != len(extents) + 1 or any(
        gap and axis + 1 not in axes for axis, gap in enumerate(missing)
    ):
        advice = (
            "pad them to one length"
            if name == LABELS
            else "pad them to one length and give a mask input of ones and zeros"
        )
        raise DataError(
            f"{where}: array '{name}' has shape {array.shape}, other parts go up to {extents} a sample; "
            f"equal shapes expected: {advice}"
        )
    return np.pad(array, [(0, 0), *((0, gap) for gap in missing)], constant_values=fill)
