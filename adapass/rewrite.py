"""The contract of a pass: options as fields, declared exactness, counts as the result.

Two base classes. ``Pass`` sees the whole model. ``Rewrite`` looks at one node at a time and either
returns what replaces it or raises ``Reject`` with a reason. Both change the model in place; the
pipeline hands them a copy it can throw away.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar, TypeVar, cast, final

import onnx_ir as ir

from adapass.facts import Fact, FactCache


class Exactness(StrEnum):
    """What a pass may do to the numbers the model computes."""

    BITWISE = "bitwise"
    """Not one bit changes (on a runtime that does not re-associate)."""
    ROUNDING = "rounding"
    """Equal over the reals; floating point may round differently."""
    LOSSY = "lossy"
    """The function changes. Only run when asked for by name or within a quality budget."""


class Reject(Exception):  # noqa: N818  (a decision, not an error)
    """A rewrite declines. The reason is constant text, a statement about the graph, so it can be counted."""


@dataclass(frozen=True, slots=True)
class PassResult:
    """How often a pass applied, and how often it declined for each reason."""

    applied: int
    rejected: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    sites: tuple[str, ...] = ()
    """Names of the values the pass rewrote, in order: what bisection narrows down to."""

    @property
    def changed(self) -> bool:
        return self.applied > 0


@dataclass(frozen=True, kw_only=True)
class Pass(ABC):
    """A rewrite of a whole model. Fields are options; nothing else may steer a run."""

    name: ClassVar[str]
    exactness: ClassVar[Exactness]
    preserves: ClassVar[frozenset[type[Fact]]] = frozenset()
    max_distortion: ClassVar[float] = 0.25
    """LOSSY passes: relative RMS change of an output, knobs neutral, above which a rewrite is wrong."""
    source: ClassVar[str] = ""
    """The paper or system the mechanism comes from, where there is one."""

    @abstractmethod
    def run(self, model: ir.Model, facts: FactCache, only: frozenset[str] | None = None) -> PassResult:
        """Rewrite ``model`` in place.

        ``only`` limits the run to these sites (names of values, as in ``PassResult.sites``);
        ``None`` means everywhere. Bisection uses it.
        """

    def __str__(self) -> str:
        """The text form: ``name``, or ``name{option=value ...}`` with the options that are not default."""
        from adapass.text_form import pass_to_text

        return pass_to_text(self)

    def options(self) -> dict[str, object]:
        """All options, defaults included, as they go into a recipe."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True, kw_only=True)
class Rewrite(Pass):
    """A pass that replaces one node (and what becomes dead with it) at a time.

    ``rewrite`` matches, then checks, then builds new nodes; it mutates nothing. The base class
    inserts them before the root, redirects all readers, and removes what is dead.
    """

    root_ops: ClassVar[frozenset[str]]
    """Operator types (domain ``""``) that can be the root of a match."""

    @abstractmethod
    def rewrite(self, root: ir.Node, facts: FactCache) -> Replacement:
        """Return what replaces ``root``, or raise ``Reject``."""

    @final
    def run(self, model: ir.Model, facts: FactCache, only: frozenset[str] | None = None) -> PassResult:
        from adapass.graph.edit import apply_replacement, nodes_everywhere, remove_dead_nodes
        from adapass.graph.shapes import infer_shapes

        roots = [n for n in nodes_everywhere(model) if n.domain == "" and n.op_type in self.root_ops]
        if roots:
            infer_shapes(model)
        rejected: Counter[str] = Counter()
        sites: list[str] = []
        for root in roots:
            site = root.outputs[0].name or ""
            if root.graph is None or (only is not None and site not in only):
                continue
            try:
                replacement = self.rewrite(root, facts)
            except Reject as reason:
                rejected[str(reason)] += 1
                continue
            apply_replacement(root, replacement)
            sites.append(site)
            facts.keep_only(())
        if sites:
            remove_dead_nodes(model)
        return PassResult(applied=len(sites), rejected=MappingProxyType(dict(rejected)), sites=tuple(sites))


P = TypeVar("P", bound=Pass)


def with_methods(step: P, **methods: Callable[..., object]) -> P:
    """The same pass, name and options included, with some methods replaced."""
    kind = type(step)
    return cast("type[P]", type(kind.__name__, (kind,), methods))(**step.options())


@dataclass(frozen=True, slots=True)
class Replacement:
    """New nodes in execution order, and for each output of the root the value that takes its place."""

    nodes: Sequence[ir.Node]
    outputs: Sequence[ir.Value]
    initializers: Sequence[ir.Value] = ()
