"""The bridge to the rewrite rules of onnxscript: their match and check, our bookkeeping.

Each adopted rule set becomes a pass with sites, counted refusals and ``only``. Nodes inside functions
are left alone: the rules store new constants as initializers, which functions do not have.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any, ClassVar

import onnx_ir as ir

from adapass.facts import FactCache
from adapass.graph.edit import (
    mark_roots,
    nodes_everywhere,
    remove_dead_nodes,
    remove_if_dead,
    replace_subgraph,
)
from adapass.graph.shapes import infer_shapes
from adapass.rewrite import Pass, PassResult

REFUSED = "the pattern matches, but a condition of the rule does not hold"
Rule = Any
"""An ``onnxscript.rewriter.pattern.RewriteRule``; the library ships no complete types."""


@dataclass(frozen=True, kw_only=True)
class AdoptedRules(Pass):
    """Apply rules of onnxscript, first match first, once over all nodes outside functions."""

    source: ClassVar[str] = "onnxscript.rewriter.rules (Microsoft, MIT)"

    @abstractmethod
    def rules(self) -> Sequence[Rule]:
        """The rules, in the order they are tried at a node."""

    def run(self, model: ir.Model, facts: FactCache, only: frozenset[str] | None = None) -> PassResult:
        propagate = import_module("onnxscript.optimizer").basic_constant_propagation
        mark_roots(model)
        infer_shapes(model)
        propagate(nodes_everywhere(model))
        rejected: Counter[str] = Counter()
        sites: list[str] = []
        in_functions = {node for function in model.functions.values() for node in function.all_nodes()}
        for root in nodes_everywhere(model):
            site = root.outputs[0].name or "" if root.outputs else ""
            if root.graph is None or root in in_functions or (only is not None and site not in only):
                continue
            outcome = self._try(model, root)
            if outcome is REFUSED:
                rejected[REFUSED] += 1
            elif outcome is not None:
                sites.append(site)
                facts.keep_only(())
        if sites:
            remove_dead_nodes(model)
            infer_shapes(model)
        return PassResult(applied=len(sites), rejected=MappingProxyType(dict(rejected)), sites=tuple(sites))

    def _try(self, model: ir.Model, root: ir.Node) -> str | None:
        """Apply the first rule that matches at ``root``; ``REFUSED`` or ``None`` when none does."""
        refused: str | None = None
        for rule in self.rules():
            tracer = _Refusals()
            delta = rule.try_rewrite(model, root.graph, root, tracer=tracer)
            if delta is None:
                refused = refused or (REFUSED if tracer.count else None)
                continue
            _propagate_new(delta.new_nodes)
            replace_subgraph(
                root,
                old=delta.match.outputs,
                new=delta.new_outputs,
                nodes=delta.new_nodes,
                initializers=delta.new_initializers,
            )
            for node in reversed(delta.match.nodes):
                remove_if_dead(node)
            return root.op_type
        return refused


class _Refusals:
    """Counts matches that fail their condition; stands in for the library's own tracer."""

    def __init__(self) -> None:
        self.count = 0

    def log(self, rule: object, container: object, node: object, match: object, status: Any) -> None:
        del rule, container, node, match
        self.count += status.name in {"CONDITION_FAILED", "REPLACEMENT_FAILED"}


def _propagate_new(nodes: Sequence[ir.Node]) -> None:
    import_module("onnxscript.optimizer").basic_constant_propagation(nodes)
