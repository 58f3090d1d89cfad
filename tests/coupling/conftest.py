"""Small graphs from ONNX text, and the one question of all tests: is removal what zeroing says it is?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from adapass.coupling.groups import Coupling, Group, find_coupling
from adapass.coupling.remove import remove
from adapass.coupling.zeroed import zeroed
from adapass.execution import Session
from adapass.graph.check import check_structure
from adapass.graph.inputs import generate_feeds
from adapass.graph.text import clone, parse

Build = Callable[..., ir.Model]
Kept = Mapping[str, list[int]]
TOLERANCE = 2e-4
"""Of the largest difference over the root mean square of the output: float32 sums in another order."""


@pytest.fixture
def build() -> Build:
    """``build("float[batch, 8] x", "float[batch, 2] y", {"w": (8, 2)}, "y = MatMul(x, w)")``."""

    def make(
        inputs: str,
        outputs: str,
        weights: Mapping[str, tuple[int, ...]],
        body: str,
        extra: str = "",
        *,
        opset: int = 20,
        functions: str = "",
        domains: str = "",
    ) -> ir.Model:
        generator = np.random.default_rng(7)
        stored = [_weight(generator, name, shape) for name, shape in weights.items()]
        listed = ", ".join([*stored, *([extra] if extra else [])])
        versions = f'ir_version: 11, opset_import: ["": {opset}{domains}]'
        return parse(f"<{versions}> m ({inputs}) => ({outputs}) <{listed}> {{ {body} }} {functions}")

    return make


def _weight(generator: np.random.Generator, name: str, shape: tuple[int, ...]) -> str:
    low = 0.5 if name.startswith(("var", "scale")) else -1.0
    numbers = ", ".join(f"{number:.4f}" for number in generator.uniform(low, 1, prod(shape)))
    return f"float[{', '.join(map(str, shape))}] {name} = {{{numbers}}}"


def keep_most(group: Group, seed: int = 0) -> list[int]:
    """About 70 % of the units, at least one removed and at least one kept."""
    generator = np.random.default_rng([seed, group.units])
    count = max(1, min(group.units - 1, round(0.7 * group.units)))
    return sorted(int(unit) for unit in generator.choice(group.units, count, replace=False))


@pytest.fixture
def removes_what_it_zeroes() -> Callable[[ir.Model], Coupling]:
    """Cut each group alone and all together; compare with the reference at two sizes."""

    def check(model: ir.Model) -> Coupling:
        coupling = find_coupling(model)
        everything = {group.key: keep_most(group) for group in coupling.groups}
        for kept in (*({key: units} for key, units in everything.items()), everything):
            _compare(model, kept, coupling)
        return coupling

    return check


@pytest.fixture
def removes_at_once() -> Callable[[ir.Model], Coupling]:
    """Cut all groups together; compare with the reference at two sizes."""

    def check(model: ir.Model) -> Coupling:
        coupling = find_coupling(model)
        _compare(model, {group.key: keep_most(group) for group in coupling.groups}, coupling)
        return coupling

    return check


def _compare(model: ir.Model, kept: Kept, coupling: Coupling) -> None:
    smaller = clone(model)
    counts = remove(smaller, kept)
    assert counts.groups == len(kept)
    check_structure(smaller)
    assert counts.elements > 0
    if len(kept) == 1:
        (group,) = (group for group in coupling.groups if group.key in kept)
        assert counts.elements >= group.removed_elements
    _assert_dims_kept(model, smaller)
    reference, found, before = Session(zeroed(model, kept)), Session(smaller), Session(model)
    moved = 0.0
    for feed in generate_feeds(model, seed=3, cases=2):
        expected, actual, original = reference.run(feed), found.run(feed), before.run(feed)
        for name, array in expected.items():
            assert_close(actual[name], array, f"{name} with {sorted(kept)}")
            moved = max(moved, float(np.max(np.abs(np.subtract(original[name], array)), initial=0)))
    assert moved > 0, f"removing units of {sorted(kept)} changes nothing: the test shows nothing"


def assert_close(actual: npt.NDArray[np.generic], expected: npt.NDArray[np.generic], where: str) -> None:
    assert actual.shape == expected.shape, where
    scale = float(np.sqrt(np.mean(np.square(expected.astype(np.float64))))) + 1e-30
    difference = float(np.max(np.abs(actual.astype(np.float64) - expected.astype(np.float64)), initial=0))
    assert difference <= TOLERANCE * scale, f"{where}: off by {difference / scale:.1e}"


def _assert_dims_kept(before: ir.Model, after: ir.Model) -> None:
    for mine, other in zip(
        [*before.graph.inputs, *before.graph.outputs],
        [*after.graph.inputs, *after.graph.outputs],
        strict=True,
    ):
        assert mine.name == other.name
        assert str(mine.shape) == str(other.shape)
