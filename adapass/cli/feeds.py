"""Inputs for commands that run models: real ones when data is given, generated ones otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adapass.cli.contestants import onnx_file_of

if TYPE_CHECKING:
    from adapass.budgeted import Array, Feeds, Samples

GENERATED_CASES = 5


def samples_for(
    path: Path, data: str | None, *, seed: int, allow_code: bool, generated: int = GENERATED_CASES
) -> Samples:
    """The data for the model at ``path``, or ``generated`` made-up samples where none is given.

    Raises:
        DataError: the data does not fit.
        ModelError: the model cannot be read.

    """
    from adapass.graph.load import load_model
    from adapass.verification import usable_feeds

    model = load_model(onnx_file_of(path))
    if data is None:
        return GeneratedSamples(tuple(usable_feeds(model, seed=seed, cases=GENERATED_CASES)), generated)
    from adapass.data import load_data

    return load_data(data, model, allow_code=allow_code)


@dataclass(frozen=True, slots=True)
class GeneratedSamples:
    """Generated inputs, repeated: what is in them does not matter where nothing was given."""

    cases: tuple[Feeds, ...]
    count: int

    def __len__(self) -> int:
        return self.count

    def feeds(self, index: int) -> Feeds:
        return self.batch([index])

    def batch(self, indices: Sequence[int]) -> Feeds:
        """As many copies of one case, so that lengths within a batch agree."""
        case = self.cases[indices[0] % len(self.cases)]
        have = next((array.shape[0] for array in case.values() if array.ndim), 1)
        return {name: _repeated(array, have, len(indices)) for name, array in case.items()}

    @property
    def labels(self) -> Array | None:
        return None


def _repeated(array: Array, have: int, wanted: int) -> Array:
    import numpy as np

    if array.ndim == 0 or array.shape[0] != have:
        return array
    return np.resize(array, (wanted, *array.shape[1:]))
