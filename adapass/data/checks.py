"""Check the arrays of one file or batch against the model's inputs; cast what can be cast without loss."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

import numpy as np

from adapass.budgeted import Array
from adapass.data.inputs import Dim, InputSpec
from adapass.errors import DataError

LABELS = "labels"


def checked(arrays: Mapping[str, Array], specs: tuple[InputSpec, ...], where: str) -> dict[str, Array]:
    """The arrays under their input names (and ``labels``), with the dtypes of the model.

    Raises:
        DataError: names the array at fault, what was found and what is expected.

    """
    _names(arrays, specs, where)
    found = {spec.name: _fitted(arrays[spec.name], spec, where) for spec in specs if spec.name in arrays}
    _extents(found, specs, where)
    if LABELS in arrays and LABELS not in found:
        found[LABELS] = _finite(np.asarray(arrays[LABELS]), LABELS, where)
    _counts(found, where)
    return found


def _names(arrays: Mapping[str, Array], specs: tuple[InputSpec, ...], where: str) -> None:
    known = [spec.name for spec in specs]
    missing = [spec.name for spec in specs if spec.name not in arrays and not spec.has_default]
    extra = [name for name in arrays if name not in known and name != LABELS]
    listing = f"the model's inputs are {', '.join(known)}"
    if extra:
        near = get_close_matches(extra[0], [*(missing or known), LABELS], n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise DataError(f"{where}: array '{extra[0]}' is not an input of the model; {hint}({listing})")
    if missing:
        raise DataError(
            f"{where}: array '{missing[0]}' is missing; found {', '.join(arrays) or 'nothing'}, {listing}"
        )


def _fitted(value: Array, spec: InputSpec, where: str) -> Array:
    array = np.asarray(value)
    if array.ndim != len(spec.shape):
        raise DataError(
            f"{where}: array '{spec.name}' has shape {array.shape}, rank {array.ndim}; "
            f"rank {len(spec.shape)} expected: {_text(spec.shape)} with the samples on the first axis"
        )
    for axis, (size, dim) in enumerate(zip(array.shape, spec.shape, strict=True)):
        if axis > 0 and isinstance(dim, int) and size != dim:
            raise DataError(
                f"{where}: array '{spec.name}' has shape {array.shape}; "
                f"{dim} expected on axis {axis}: {_text(spec.shape)}"
            )
    if array.size == 0:
        raise DataError(
            f"{where}: array '{spec.name}' is empty, shape {array.shape}; at least one sample expected"
        )
    return _finite(_cast(array, spec, where), spec.name, where)


def _text(shape: tuple[Dim, ...]) -> str:
    return f"[{', '.join('?' if dim is None else str(dim) for dim in shape)}]"


def _cast(array: Array, spec: InputSpec, where: str) -> Array:
    """Between whole numbers where every value fits, between floats up or from double to single; nothing else.

    Bytes to floats is not a cast: images of 0..255 where the model wants normalised ones are the classic
    mistake.
    """
    if array.dtype == spec.dtype:
        return array
    wrong = DataError(
        f"{where}: array '{spec.name}' has dtype {array.dtype}; {spec.dtype} expected: "
        "convert it the way it was done in training"
    )
    if array.dtype.kind in "biu" and spec.dtype.kind in "iu":
        cast = array.astype(spec.dtype)
        if not np.array_equal(cast, array):
            raise wrong
        return cast
    widens = np.can_cast(array.dtype, spec.dtype, "safe")
    if array.dtype.kind == "f" and (widens or (array.dtype == np.float64 and spec.dtype == np.float32)):
        with np.errstate(over="ignore"):
            return array.astype(spec.dtype)
    raise wrong


def _finite(array: Array, name: str, where: str) -> Array:
    if array.dtype.kind not in "biuf" and array.dtype.kind != "V":
        raise DataError(f"{where}: array '{name}' has dtype {array.dtype}; numbers or booleans expected")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0][0]) if array.ndim else 0
        raise DataError(
            f"{where}: array '{name}' has NaN or infinite values (first in sample {row}); "
            "finite numbers expected"
        )
    return array


def _extents(found: Mapping[str, Array], specs: tuple[InputSpec, ...], where: str) -> None:
    """Axes with the same symbol have the same extent."""
    seen: dict[str, tuple[int, str]] = {}
    for spec in specs:
        if spec.name not in found:
            continue
        for size, dim in list(zip(found[spec.name].shape, spec.shape, strict=True))[1:]:
            if not isinstance(dim, str):
                continue
            first, owner = seen.setdefault(dim, (size, spec.name))
            if first != size:
                raise DataError(
                    f"{where}: axis '{dim}' is {size} in array '{spec.name}' and {first} in '{owner}'; "
                    "equal extents expected"
                )


def _counts(found: Mapping[str, Array], where: str) -> None:
    first, *rest = found
    count = len(found[first])
    for name in rest:
        size = len(found[name]) if found[name].ndim else 0
        if size != count:
            raise DataError(
                f"{where}: array '{name}' has {size} samples and '{first}' has {count}; equal counts expected"
            )


def check_labels(labels: Array, outputs: tuple[tuple[Dim, ...] | None, ...]) -> None:
    """Labels must have one row a sample, in a shape that can be held against one of the outputs.

    Raises:
        DataError: wrong shape, or a class number the model does not have.

    """
    if any(shape is None for shape in outputs):
        return
    shapes = [shape for shape in outputs if shape]
    expected = sorted({_text(("samples", *form)) for shape in shapes for form in _label_forms(shape, labels)})
    if not any(_matches(labels.shape[1:], form) for shape in shapes for form in _label_forms(shape, labels)):
        raise DataError(f"array '{LABELS}' has shape {labels.shape}; expected {' or '.join(expected)}")
    if labels.ndim == 1 and labels.dtype.kind in "iu" and all(len(shape) == 2 for shape in shapes):
        _check_classes(labels, [shape[1] for shape in shapes])


def _label_forms(shape: tuple[Dim, ...], labels: Array) -> list[tuple[Dim, ...]]:
    """Class numbers drop the last axis; targets and multi-label marks have the shape of the output."""
    whole = labels.dtype.kind in "biu"
    forms = [shape[1:]]
    if (whole and len(shape) > 1) or shape[-1:] == (1,):
        forms.append(shape[1:-1])
    return forms


def _matches(found: tuple[int, ...], form: tuple[Dim, ...]) -> bool:
    return len(found) == len(form) and all(
        not isinstance(dim, int) or dim == size for size, dim in zip(found, form, strict=True)
    )


def _check_classes(labels: Array, classes: list[Dim]) -> None:
    known = [max(size, 2) for size in classes if isinstance(size, int)]
    low, high = int(labels.min()), int(labels.max())
    if len(known) == len(classes) and (low < 0 or high >= max(known)):
        raise DataError(f"array '{LABELS}' has classes from {low} to {high}; 0 to {max(known) - 1} expected")
