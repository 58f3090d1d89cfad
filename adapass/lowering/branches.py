"""Lower exits to nested ``If`` nodes in one ONNX file of standard operators.

    logits = ExitSelect(stop_0, head_0, rest)          with E exits, ``rest`` holds the others

becomes, for every exit,

    pending = Not(stop_0) ; where = NonZero(pending)
    logits = If(Cast<bool>(Size(where)))
        then: rows of everything the rest needs are gathered at ``where``; the rest runs on those rows,
              the next exit's If included; its results are scattered into head_0
        else: head_0

Right because every value the rest reads either does not depend on the batch, or has one entry a
sample (checked by ``adapass.lowering.rows``; anything else is refused), and what depends on the
batch size alone is computed again from the rows that are left. Order is kept because results go back
to the places they came from. A batch of size 0 never enters a branch.

Weights become initializers of the outermost branch that reads them. ONNX Runtime fuses in branches
what it fuses in the main graph, float and 8-bit (1.31, looked at in the optimised models), as long as
shapes in a branch have symbols: see ``Relabel``.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from adapass.errors import ModelError
from adapass.lowering.exits import Parts, find_parts, has_exits, prepare, reads, standard_only
from adapass.lowering.rows import Relabel, Rows, classify, is_fixed_at_one
from adapass.lowering.scope import Names, Scope


def lower_to_if(model: ir.Model) -> ir.Model:
    """A copy of ``model`` in which samples that took an exit cost nothing more.

    Raises:
        ModelError: the exits are malformed, or a value cannot be split by sample.

    """
    copy = prepare(model, keep_selects=True)
    if has_exits(copy):
        _Branches(copy).lower()
    return standard_only(copy)


class _Branch(Scope):
    """A part in a branch (or, for part 0, in the main graph)."""

    def __init__(
        self, outer: _Branch | None, parts: Parts, rows: Rows, names: Names, relabel: Relabel | None
    ) -> None:
        super().__init__(0 if outer is None else outer.index + 1, parts, rows, names)
        self.outer = outer
        self.relabel = relabel
        """``None`` when the batch size is fixed at 1: then nothing is gathered or scattered."""
        self.body: list[ir.Node] = []
        self.where: ir.Value | None = None
        """int64 ``[1, n]``: the rows of the outer scope that are still there."""
        self._flat: ir.Value | None = None

    def see(self, value: ir.Value) -> ir.Value:
        return value if self.outer is None or self.relabel is None else super().see(value)

    def fixed(self, value: ir.Value) -> ir.Value:
        return value

    def carry(self, value: ir.Value, axis: int) -> ir.Value:
        assert self.outer is not None
        assert self.relabel is not None
        rows = self.add("Gather", [self.outer.see(value), self.flat], {"axis": axis}, like=value)
        rows.shape = self.relabel.shape(value, self.index)
        return rows

    def count_rows(self) -> ir.Value:
        return self.constant(1) if self.relabel is None else self.add("Shape", [self.flat])

    def shape_before(self, value: ir.Value) -> ir.Value | None:
        return value

    def refuse_mixed(self, node: ir.Node) -> None:
        if self.outer is not None and self.relabel is not None:
            super().refuse_mixed(node)

    @property
    def flat(self) -> ir.Value:
        if self._flat is None:
            assert self.where is not None
            assert self.relabel is not None
            self._flat = self.add("Reshape", [self.where, self.constant(-1)])
            self._flat.shape = ir.Shape([self.relabel.rows(self.index)])
        return self._flat

    def relabel_body(self) -> None:
        if self.outer is None or self.relabel is None:
            return
        for node in self.body:
            for value in node.outputs:
                value.shape = self.relabel.shape(value, self.index)

    def nodes(self) -> list[ir.Node]:
        return [*self.prologue, *self.body, *self.epilogue]


class _Branches:
    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.parts = find_parts(model)
        self.names = Names(model)
        self.single = is_fixed_at_one(self.parts.exits[0].stop)
        rows = Rows.none() if self.single else classify(model)
        relabel = None if self.single else Relabel(model.graph, rows)
        self.scopes: list[_Branch] = []
        for _ in self.parts.nodes:
            outer = self.scopes[-1] if self.scopes else None
            self.scopes.append(_Branch(outer, self.parts, rows, self.names, relabel))

    def lower(self) -> None:
        graph = self.model.graph
        order = list(graph.outputs)
        graph.outputs.clear()
        graph.remove(list(graph))
        decisions: list[ir.Value] = []
        for scope in self.scopes:
            scope.body = scope.adopt(self.parts.nodes[scope.index])
            scope.relabel_body()
            if scope.index < len(self.parts.exits):
                decisions.append(self._decide(scope))
        results = [self._whole(self.scopes[-1], value) for value in self.parts.final]
        self._bring_weights_home()
        for scope, decision in zip(reversed(self.scopes[:-1]), reversed(decisions), strict=True):
            results = self._join(scope, decision, results)
        for old, new in zip(self.parts.outputs, results, strict=True):
            new.name, new.shape = old.name, old.shape
            order[order.index(old)] = new
        graph.extend(self.scopes[0].nodes())
        graph.outputs.extend(order)
        self._settle_initializers(graph)

    def _decide(self, scope: _Branch) -> ir.Value:
        """The condition of the ``If`` after ``scope``; tells the next scope which rows are left."""
        stop = scope.see(self.parts.exits[scope.index].stop)
        if self.single:
            return scope.add("Reshape", [stop, scope.constant()], like=stop, late=True)
        pending = scope.add("Not", [stop], like=stop, late=True)
        where = scope.add("NonZero", [pending], late=True)
        self.scopes[scope.index + 1].where = where
        size = scope.add("Size", [where], late=True)
        return scope.add("Cast", [size], {"to": ir.DataType.BOOL.value}, dtype=ir.DataType.BOOL, late=True)

    def _whole(self, scope: _Branch, value: ir.Value, stop: ir.Value | None = None) -> ir.Value:
        """``value`` with one row a sample: a scalar stands for all of them."""
        seen = scope.see(value)
        if value.shape is not None and len(value.shape) == 0:
            count = scope.add("Shape", [scope.see(stop)], late=True) if stop is not None else scope.count
            return scope.add("Expand", [seen, count], like=value, late=True)
        if not self.single and scope.axis(value) != 0:
            raise ModelError(f"'{value.name}' is the result of an exit; its first axis must be the batch")
        return seen

    def _join(self, scope: _Branch, condition: ir.Value, results: list[ir.Value]) -> list[ir.Value]:
        """Add the ``If`` after ``scope``, whose inner results are ``results``; returns its outputs."""
        exit_ = self.parts.exits[scope.index]
        taken = [self._whole(scope, value, exit_.stop) for value in exit_.taken]
        done = self._done(scope.index, taken)
        rest = self._rest(self.scopes[scope.index + 1], taken, results)
        branches = (done, rest) if self.single else (rest, done)
        name = self.names.fresh(f"adapass_if_{scope.index}")
        attributes = {"then_branch": branches[0], "else_branch": branches[1]}
        node = ir.node("If", [condition], attributes, num_outputs=len(results), name=name)
        for output, old in zip(node.outputs, self.parts.outputs, strict=True):
            output.name = old.name if scope.index == 0 else self.names.fresh(f"{old.name}_if_{scope.index}")
            output.type = old.type
        scope.epilogue.append(node)
        return list(node.outputs)

    def _done(self, index: int, taken: Sequence[ir.Value]) -> ir.Graph:
        copies = [ir.node("Identity", [value]) for value in taken]
        for node, value in zip(copies, taken, strict=True):
            node.name = node.outputs[0].name = self.names.fresh(f"{value.name}_done_{index}")
            node.outputs[0].type = value.type
        outputs = [node.outputs[0] for node in copies]
        return ir.Graph([], outputs, nodes=copies, name=self.names.fresh(f"adapass_done_{index}"))

    def _rest(self, inner: _Branch, taken: Sequence[ir.Value], results: Sequence[ir.Value]) -> ir.Graph:
        if self.single:
            outputs = [inner.add("Identity", [value], like=value, late=True) for value in results]
        else:
            assert inner.where is not None
            places = inner.add("Transpose", [inner.where], late=True)
            outputs = [
                inner.add("ScatterND", [old, places, new], like=old, late=True)
                for old, new in zip(taken, results, strict=True)
            ]
        name = self.names.fresh(f"adapass_rest_{inner.index}")
        return ir.Graph([], outputs, nodes=inner.nodes(), initializers=inner.constants, name=name)

    def _bring_weights_home(self) -> None:
        """Give every weight to the outermost scope that reads it."""
        home: dict[ir.Value, _Branch] = {}
        for scope in self.scopes:
            for node in scope.nodes():
                for value in reads(node):
                    home.setdefault(value, scope)
        for name, value in list(self.model.graph.initializers.items()):
            scope = home.get(value, self.scopes[0])
            if scope.outer is not None and not value.is_graph_input():
                del self.model.graph.initializers[name]
                scope.constants.append(value)

    def _settle_initializers(self, graph: ir.Graph) -> None:
        for value in self.scopes[0].constants:
            graph.register_initializer(value)
        for name, value in list(graph.initializers.items()):
            if not (value.uses() or value.is_graph_input() or value.is_graph_output()):
                del graph.initializers[name]
