"""Check what the user feeds before a runtime sees it, so that errors name the input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from adapass.artifact.signatures import Signatures
from adapass.budgeted import Array, Feeds
from adapass.codegen.inputs import Input
from adapass.errors import DataError


class FeedCheck:
    """Knows the inputs of one model, and what stands in for those that may be left out.

    A runtime that knows the defaults itself needs none here.
    """

    def __init__(self, inputs: Sequence[Input], defaults: Mapping[str, Array] | None = None) -> None:
        self._defaults = dict(defaults or {})
        self._inputs = {each.name: each for each in inputs}
        self._required = frozenset(each.name for each in inputs if not each.optional)
        self._passed = Signatures()

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        """The feeds as arrays.

        Raises:
            DataError: an input is unknown, missing, or has another type or shape than the model takes.

        """
        if self._passed.has(feeds):
            return {**self._defaults, **feeds}
        if missing := self._required - feeds.keys():
            each = self._inputs[min(missing)]
            raise DataError(f"input '{each.name}' is missing; expected {_expected(each)}")
        sizes: dict[str, tuple[int, str]] = {}
        checked = {name: self._checked(name, np.asarray(array), sizes) for name, array in feeds.items()}
        self._passed.add(feeds)
        return {**self._defaults, **checked}

    def _checked(self, name: str, array: Array, sizes: dict[str, tuple[int, str]]) -> Array:
        if (each := self._inputs.get(name)) is None:
            raise DataError(f"unknown input '{name}'; the model takes {', '.join(self._inputs)}")
        if each.dtype is None:
            return array
        if array.dtype.name != each.dtype and not (each.dtype == "str" and array.dtype.kind in "OUST"):
            raise DataError(f"input '{name}' is {_found(array)}, expected {_expected(each)}; convert it")
        if each.shape is None:
            return array
        if array.ndim != len(each.shape):
            raise DataError(f"input '{name}' is {_found(array)}, expected {_expected(each)}; reshape it")
        for axis, (size, dim) in enumerate(zip(array.shape, each.shape, strict=True)):
            wanted, whose = (dim, "") if not isinstance(dim, str) else sizes.setdefault(dim, (size, name))
            if wanted is not None and size != wanted:
                told = f", as many as input '{whose}'" if whose else ""
                raise DataError(
                    f"input '{name}' is {_found(array)}, expected {_expected(each)}:"
                    f" axis {axis} has {size} entries, expected {wanted}{told}"
                )
        return array


def _found(array: Array) -> str:
    return f"{array.dtype.name}{list(array.shape)}"


def _expected(each: Input) -> str:
    if each.shape is None:
        return str(each.dtype)
    return f"{each.dtype}[{', '.join('?' if dim is None else str(dim) for dim in each.shape)}]"
