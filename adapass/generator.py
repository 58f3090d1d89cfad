"""The contract of a code generator: what it supports, build, load, run, size.

A generator turns an optimized graph into files in a folder, and files back into something that
runs. Variants (lowering of exits, threads, layouts) are plain mappings, so the search can try them
all by measurement without knowing what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Protocol

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array, Feeds
from adapass.target import Target

Options = Mapping[str, str | int | float | bool]


@dataclass(frozen=True, slots=True)
class Support:
    """Whether a generator takes a model for a target; when not, every reason."""

    reasons: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.reasons


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to build a model. ``options`` go back into ``build`` unchanged."""

    name: str
    options: Options = field(default_factory=lambda: MappingProxyType({}))
    exact: bool = True
    """Results are the model's up to rounding in its own number formats; others need data to be chosen."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outputs of one run, and what was spent on each sample."""

    outputs: dict[str, Array]
    exits: np.ndarray[tuple[int], np.dtype[np.int64]] | None = None
    """For each sample the index of the exit it took (0 = first exit); ``None`` for a model without exits."""


class Runner(Protocol):
    """A loaded model. Not thread safe; close it when done."""

    def run(self, feeds: Feeds) -> Outcome:
        """Run one batch. Arrays are named like the model's inputs; results keep the order of the batch."""
        ...

    def close(self) -> None: ...


class Generator(Protocol):
    """A code generator. Instances hold no state."""

    name: ClassVar[str]

    def available(self) -> str | None:
        """``None`` when its libraries are installed, else what to install."""
        ...

    def supports(self, model: ir.Model, target: Target) -> Support: ...

    def variants(self, model: ir.Model, target: Target, *, threads: int, batch: int) -> Sequence[Variant]:
        """The ways to build worth measuring, most portable first."""
        ...

    def build(self, model: ir.Model, target: Target, folder: Path, options: Options) -> None:
        """Write what is needed to run ``model`` into the existing, empty ``folder``. Deterministic."""
        ...

    def load(self, folder: Path, *, threads: int) -> Runner:
        """Open what ``build`` wrote. ``threads`` is the budget of the whole process."""
        ...

    def device_present(self, target: Target) -> bool:
        """Whether the target's device is in this machine, so that running it measures the target."""
        ...
