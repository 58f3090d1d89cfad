"""The bridge to the rewrite rules of onnxscript: their match and check, our bookkeeping.

Each adopted rule set becomes a pass with sites, counted refusals and ``only``. Nodes inside functions
are left alone: the rules store new constants as initializers, which functions do not have.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any, ClassVar

import onnx_ir as ir

from adapass.facts import FactCache
from adapass.graph.edit import (
    nodes_everywhere,
    remove_dead_nodes,
    remove_if_dead,
    replace_subgraph,
)
from adapass.graph.shapes import infer_shapes
from adapass.rewrite import Pass, PassResult

REFUSED = "the pattern matches, but a condition of the rule does not hold"
OLD_OPSET = "the opset is older than the forms of operators the rules know"
APPLIED = "applied"
FIRST_OPSET = 13
Rule = Any
"""An ``onnxscript.rewriter.pattern.RewriteRule``; the library ships no complete types."""


@dataclass(frozen=True, kw_only=True)
class AdoptedRules(Pass):
    """Apply rules of onnxscript, first match first, once over all nodes outside functions."""

    source: ClassVar[str] = "onnxscript.rewriter.rules (Microsoft, MIT)"

    root_ops: ClassVar[frozenset[str]]
    """Operators a match can end in; without any of them the model is not even looked at."""

    @abstractmethod
    def rules(self) -> Sequence[Rule]:
        """The rules, in the order they are tried at a node."""

    def run(self, model: ir.Model, facts: FactCache, only: frozenset[str] | None = None) -> PassResult:
        roots = self._roots(model)
        if not roots:
            return PassResult(applied=0)
        if model.opset_imports.get("", 0) < FIRST_OPSET:
            return PassResult(applied=0, rejected=MappingProxyType({OLD_OPSET: len(roots)}))
        infer_shapes(model)
        _propagate(nodes_everywhere(model))
        rejected: Counter[str] = Counter()
        sites: list[str] = []
        with _defaults_hidden(model):
            for root in roots:
                site = root.outputs[0].name or ""
                if root.graph is None or (only is not None and site not in only):
                    continue
                outcome = self._try(model, root)
                rejected[REFUSED] += outcome is REFUSED
                sites += [site] if outcome is APPLIED else []
        if sites:
            remove_dead_nodes(model)
            infer_shapes(model)
            facts.keep_only(())
        return PassResult(applied=len(sites), rejected=MappingProxyType(+rejected), sites=tuple(sites))

    def _roots(self, model: ir.Model) -> list[ir.Node]:
        in_functions = {node for function in model.functions.values() for node in function.all_nodes()}
        return [
            node
            for node in nodes_everywhere(model)
            if node.domain == "" and node.op_type in self.root_ops and node not in in_functions
        ]

    def _try(self, model: ir.Model, root: ir.Node) -> str | None:
        """Apply the first rule that matches at ``root``; ``REFUSED`` or ``None`` when none does."""
        refused: str | None = None
        for rule in self.rules():
            tracer = _Refusals()
            delta = rule.try_rewrite(model, root.graph, root, tracer=tracer)
            if delta is None:
                refused = refused or (REFUSED if tracer.count else None)
                continue
            _propagate(delta.new_nodes)
            replace_subgraph(
                root,
                old=delta.match.outputs,
                new=delta.new_outputs,
                nodes=delta.new_nodes,
                initializers=delta.new_initializers,
            )
            for node in reversed(delta.match.nodes):
                remove_if_dead(node)
            return APPLIED
        return refused


class _Refusals:
    """Counts matches that fail their condition; stands in for the library's own tracer."""

    def __init__(self) -> None:
        self.count = 0

    def log(self, rule: object, container: object, node: object, match: object, status: Any) -> None:
        del rule, container, node, match
        self.count += status.name in {"CONDITION_FAILED", "REPLACEMENT_FAILED"}


@contextmanager
def _defaults_hidden(model: ir.Model) -> Generator[None]:
    """Initializers that are inputs too are defaults, which the rules would take for constants."""
    hidden = [(v, v.const_value) for v in model.graph.initializers.values() if v.is_graph_input()]
    for value, _ in hidden:
        value.const_value = None
    try:
        yield
    finally:
        for value, tensor in hidden:
            value.const_value = tensor


def _propagate(nodes: Sequence[ir.Node]) -> None:
    """Let the rules see the content of Constant nodes."""
    import_module("onnxscript.optimizer").basic_constant_propagation(nodes)
