"""Generated inputs in the place of data, for models nobody gave data for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array, Feeds
from adapass.graph.inputs import generate_feeds


@dataclass(frozen=True, slots=True)
class Generated:
    """Noise of the right shapes and types as ``Samples``; whoever fits on it says so."""

    cases: tuple[Feeds, ...]
    labels: Array | None = None

    @classmethod
    def of(cls, model: ir.Model, count: int, seed: int) -> Generated:
        """``count`` samples; their first row, where the model takes any batch."""
        cases = generate_feeds(model, seed=seed, cases=count)
        return cls(tuple(_first_rows(model, feeds) for feeds in cases))

    def __len__(self) -> int:
        return len(self.cases)

    def feeds(self, index: int) -> Feeds:
        return self.cases[index]

    def batch(self, indices: Sequence[int]) -> Feeds:
        chosen = [self.cases[index] for index in indices]
        return {name: np.concatenate([feeds[name] for feeds in chosen]) for name in chosen[0]}


def _first_rows(model: ir.Model, feeds: Feeds) -> Feeds:
    open_batch = {
        value.name
        for value in model.graph.inputs
        if value.shape is not None and value.shape.rank() and not isinstance(value.shape[0], int)
    }
    return {name: array[:1] if name in open_batch else array for name, array in feeds.items()}
