"""What the zoo is made of: a name, how to build the module, and what goes in and comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

import numpy as np

from adapass.budgeted import Array

Kind = Literal["ids", "mask", "numbers"]
SIZES: tuple[Mapping[str, int], ...] = (
    {"batch": 2, "tokens": 10, "target": 7, "samples": 400, "frames": 24},
    {"batch": 3, "tokens": 13, "target": 6, "samples": 500, "frames": 32},
)
"""Two choices of every dynamic dimension; a model is compared at both."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input. A word in ``shape`` is a dynamic dimension."""

    name: str
    kind: Kind
    shape: tuple[int | str, ...]
    below: int = 0
    """Ids are smaller than this."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """One network with random weights, tiny in its sizes and true in its structure."""

    name: str
    make: Callable[[], Any]
    """Builds the torch module."""
    ports: tuple[Port, ...]
    outputs: tuple[str, ...] = ()
    """Attributes of what the module returns; empty for a module that returns tensors."""
    arguments: Mapping[str, object] = field(default_factory=dict[str, object])
    """Passed to ``forward`` as they are."""
    identity: str = ""
    """What it was built from, where the source file of ``make`` does not say it all."""


TEXT = (
    Port("input_ids", "ids", ("batch", "tokens"), 99),
    Port("attention_mask", "mask", ("batch", "tokens")),
)
IDS = TEXT[:1]


def image(side: int = 64, channels: int = 3) -> tuple[Port, ...]:
    return (Port("pixel_values", "numbers", ("batch", channels, side, side)),)


def hugging(
    name: str,
    model: str,
    config: str,
    ports: tuple[Port, ...],
    outputs: tuple[str, ...] = ("logits",),
    *,
    arguments: Mapping[str, object] | None = None,
    **settings: object,
) -> Architecture:
    """A class of ``transformers`` built from its configuration class."""

    def make() -> Any:
        library: Any = import_module("transformers")
        return getattr(library, model)(getattr(library, config)(**settings))

    identity = repr((model, config, sorted(settings.items()), arguments))
    return Architecture(name, make, ports, outputs, arguments or {}, identity)


def feeds(ports: tuple[Port, ...], sizes: Mapping[str, int], seed: int) -> dict[str, Array]:
    """Random inputs: rows of a mask are ones followed by zeros, the first row has no zeros."""
    random = np.random.default_rng(seed)
    return {port.name: _fill(port, sizes, random) for port in ports}


def _fill(port: Port, sizes: Mapping[str, int], random: np.random.Generator) -> Array:
    shape = tuple(sizes[size] if isinstance(size, str) else size for size in port.shape)
    if port.kind == "ids":
        return random.integers(3, port.below, shape)
    if port.kind == "numbers":
        return random.standard_normal(shape).astype(np.float32)
    lengths = random.integers(1, shape[-1] + 1, shape[:-1])
    lengths.reshape(-1)[:1] = shape[-1]
    return (np.arange(shape[-1]) < lengths[..., None]).astype(np.int64)
