"""Lower exits to stages: one model per part, and a thin runner that drops finished samples in between.

Stage ``k`` computes what exit ``k`` needs and no earlier stage computed. It takes values from the
feeds and from earlier stages by their names in the original graph; ``Wiring`` says which of them
have a batch axis, and so which the runner must cut when samples leave.

A weight that two parts read is stored in both stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from adapass.errors import ModelError
from adapass.lowering.exits import Parts, find_parts, prepare, standard_only
from adapass.lowering.rows import Rows, classify, is_fixed_at_one
from adapass.lowering.scope import Names, Scope
from adapass.lowering.wiring import Stage, Wiring


@dataclass(frozen=True, slots=True)
class Stages:
    """One standard-operator model per stage, and how they are connected."""

    models: tuple[ir.Model, ...]
    wiring: Wiring


def lower_to_stages(model: ir.Model) -> Stages:
    """Cut ``model`` at its exits; a model without exits becomes one stage.

    Raises:
        ModelError: the exits are malformed, or a value cannot be split by sample.

    """
    copy = prepare(model, keep_selects=True)
    parts = find_parts(copy)
    single = bool(parts.exits) and is_fixed_at_one(parts.exits[0].stop)
    rows = Rows.none() if single or not parts.exits else classify(copy)
    return _Cutter(copy, parts, rows).cut()


class _StageScope(Scope):
    """A part as a model of its own."""

    def __init__(self, index: int, parts: Parts, rows: Rows, names: Names, graph: ir.Graph) -> None:
        super().__init__(index, parts, rows, names)
        self.inputs: list[ir.Value] = []
        self.from_before: list[ir.Value] = []
        """Values of the original graph that this stage takes, in the order of ``inputs``."""
        self._graph = graph
        self.has_batch = bool(rows.axes)
        self._counting: tuple[ir.Node, ir.Value] | None = None

    def fixed(self, value: ir.Value) -> ir.Value:
        if not value.is_initializer() or value.is_graph_input():
            return self._take(value)
        assert value.const_value is not None
        twin = _twin(value)
        twin.const_value = value.const_value
        self.constants.append(twin)
        return twin

    def carry(self, value: ir.Value, axis: int) -> ir.Value:
        del axis
        return self._take(value)

    def count_rows(self) -> ir.Value:
        if not self.has_batch:
            return self.constant(1)
        # What to count is chosen when all inputs are known: an input of its own would be cut in vain.
        axis = self.constant(0)
        counted = self.add("Gather", [self.add("Shape", []), axis], {"axis": 0})
        self._counting = (self.prologue[-2], axis)
        return counted

    def choose_what_to_count(self) -> None:
        """Call once, when no input will be added any more."""
        if self._counting is None:
            return
        shape, axis = self._counting
        carried = (value for value in self.from_before if self.axis(value) is not None)
        inputs = (value for value in self._graph.inputs if self.axis(value) is not None)
        counted = next(carried, None) or next(inputs)
        shape.resize_inputs(1)
        shape.replace_input_with(0, self.see(counted))
        axis.const_value = ir.tensor(np.array([self.axis(counted)], np.int64), name=axis.name)

    def shape_before(self, value: ir.Value) -> ir.Value | None:
        return None

    def refuse_mixed(self, node: ir.Node) -> None:
        if self.index > 0:
            super().refuse_mixed(node)

    def whole(self, value: ir.Value, stop: ir.Value | None) -> ir.Value:
        """``value`` as an output of this stage with one row a sample."""
        seen = self.see(value)
        if value.shape is not None and len(value.shape) == 0:
            count = self.count if stop is None else self.add("Shape", [self.see(stop)], late=True)
            expanded = self.add("Expand", [seen, count], like=value, late=True)
            expanded.shape = ir.Shape([None])
            return expanded
        if self.has_batch and self.axis(value) != 0:
            raise ModelError(f"'{value.name}' is the result of an exit; its first axis must be the batch")
        return self.computed(seen)

    def computed(self, seen: ir.Value) -> ir.Value:
        """``seen``, or a copy of it when it is an input of this stage: an input cannot be an output."""
        if seen.producer() is not None:
            return seen
        copied = self.add("Identity", [seen], like=seen, late=True)
        copied.shape = seen.shape
        return copied

    def _take(self, value: ir.Value) -> ir.Value:
        taken = _twin(value)
        taken.const_value = value.const_value if value.is_graph_input() else None
        self.inputs.append(taken)
        self.from_before.append(value)
        return taken


def _twin(value: ir.Value) -> ir.Value:
    if value.type is None:
        raise ModelError(
            f"the type of '{value.name}', which passes an exit, is unknown; a stage cannot declare it"
        )
    return ir.Value(name=value.name, type=value.type, shape=value.shape)


class _Cutter:
    def __init__(self, model: ir.Model, parts: Parts, rows: Rows) -> None:
        self._model = model
        self._parts = parts
        self._rows = rows
        names = Names(model)
        self._scopes = [
            _StageScope(index, parts, rows, names, model.graph) for index in range(len(parts.nodes))
        ]

    def cut(self) -> Stages:
        graph = self._model.graph
        order = tuple(value.name or "" for value in graph.outputs)
        selected = frozenset(self._parts.outputs)
        always = {value.name or "": value for value in graph.outputs if value not in selected}
        graph.outputs.clear()
        graph.remove(list(graph))
        bodies = [scope.adopt(self._parts.nodes[scope.index]) for scope in self._scopes]
        held = {name: self._scopes[0].computed(self._scopes[0].see(value)) for name, value in always.items()}
        results = [self._results(scope) for scope in self._scopes]
        stops = [
            scope.computed(scope.see(exit_.stop))
            for scope, exit_ in zip(self._scopes, self._parts.exits, strict=False)
        ]
        for scope in self._scopes:
            scope.choose_what_to_count()
        models: list[ir.Model] = []
        stages: list[Stage] = []
        for scope, body in zip(self._scopes, bodies, strict=True):
            stop = stops[scope.index] if scope.index < len(stops) else None
            first = list(held.values()) if scope.index == 0 else []
            own = [*first, *results[scope.index].values(), *([stop] if stop is not None else [])]
            outputs = list(dict.fromkeys([*own, *self._needed_later(scope)]))
            models.append(self._model_of(scope, body, outputs))
            stages.append(_describe(scope, outputs, stop, results[scope.index]))
        wiring = Wiring(
            outputs=order,
            always=_names(held),
            batch_axes=self._axes(),
            stages=tuple(stages),
        )
        return Stages(tuple(models), wiring)

    def _results(self, scope: _StageScope) -> dict[str, ir.Value]:
        exits = self._parts.exits
        exit_ = exits[scope.index] if scope.index < len(exits) else None
        values = self._parts.final if exit_ is None else exit_.taken
        stop = None if exit_ is None else exit_.stop
        pairs = zip(self._parts.outputs, values, strict=True)
        return {output.name or "": scope.whole(value, stop) for output, value in pairs}

    def _needed_later(self, scope: _StageScope) -> list[ir.Value]:
        mine = {value for node in self._parts.nodes[scope.index] for value in node.outputs}
        later = [value for other in self._scopes[scope.index + 1 :] for value in other.from_before]
        return [scope.see(value) for value in later if value in mine]

    def _model_of(self, scope: _StageScope, body: Sequence[ir.Node], outputs: Sequence[ir.Value]) -> ir.Model:
        defaults = [value for value in scope.inputs if value.const_value is not None]
        graph = ir.Graph(
            scope.inputs,
            outputs,
            nodes=[*scope.prologue, *body, *scope.epilogue],
            initializers=[*scope.constants, *defaults],
            opset_imports=dict(self._model.graph.opset_imports),
            name=f"stage_{scope.index}",
        )
        functions = [function.clone() for function in self._model.functions.values()]
        model = ir.Model(
            graph, ir_version=self._model.ir_version, producer_name="adapass", functions=functions
        )
        return standard_only(model)

    def _axes(self) -> dict[str, int]:
        crossing = (value for scope in self._scopes for value in scope.from_before)
        pairs = ((value.name or "", self._rows.axes.get(value)) for value in crossing)
        return {name: axis for name, axis in pairs if axis is not None}


def _describe(
    scope: _StageScope, outputs: Sequence[ir.Value], stop: ir.Value | None, results: dict[str, ir.Value]
) -> Stage:
    return Stage(
        inputs=tuple(value.name or "" for value in scope.inputs),
        optional=tuple(value.name or "" for value in scope.inputs if value.const_value is not None),
        outputs=tuple(value.name or "" for value in outputs),
        stop=None if stop is None else stop.name,
        results=_names(results),
    )


def _names(values: dict[str, ir.Value]) -> dict[str, str]:
    return {name: value.name or "" for name, value in values.items()}
