"""Facts: immutable values computed from a graph on demand, cached, dropped when a pass may have changed them.

A fact is a class with a ``compute`` class method. Asking is always through the cache, from passes
and from other facts alike:

    uses = facts.get(Uses)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Self, TypeVar, cast

import onnx_ir as ir


class Fact(ABC):
    """An immutable answer about one graph. Subclasses are frozen dataclasses."""

    @classmethod
    @abstractmethod
    def compute(cls, model: ir.Model, facts: FactCache) -> Self:
        """Compute the fact. Must not change the model."""


F = TypeVar("F", bound=Fact)


class FactCache:
    """Facts of one model. Computing a fact that asks for itself is an error, not a recursion."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self._known: dict[type[Fact], Fact] = {}
        self._running: list[type[Fact]] = []

    def get(self, kind: type[F]) -> F:
        if kind in self._known:
            return cast("F", self._known[kind])
        if kind in self._running:
            chain = " -> ".join(k.__name__ for k in [*self._running, kind])
            raise RuntimeError(f"facts need each other in a circle: {chain}")
        self._running.append(kind)
        try:
            fact = kind.compute(self.model, self)
        finally:
            self._running.pop()
        self._known[kind] = fact
        return fact

    def known(self) -> frozenset[type[Fact]]:
        """The facts computed so far."""
        return frozenset(self._known)

    def keep_only(self, preserved: Iterable[type[Fact]]) -> None:
        """Drop everything a pass did not promise to preserve."""
        kept = frozenset(preserved)
        self._known = {kind: fact for kind, fact in self._known.items() if kind in kept}
