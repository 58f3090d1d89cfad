"""Build the twin: one FX node for each ONNX node, in the same order.

    Conv(x, w) -> c; Shape(c) -> s         call_function[convolve](x, w); call_function[shape](c)

Weights are parameters of the module, other stored tensors buffers. Branches and loop bodies are graph
modules of their own, which get what they read from around them as further arguments.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from adapass.errors import UsageError
from adapass.graph.tensors import graphs_everywhere
from adapass.twin.dtypes import REDUCED, TORCH_TYPES, rounded, stored_tensor
from adapass.twin.operators.control import run_if, run_loop, run_scan
from adapass.twin.operators.elementwise import Compute
from adapass.twin.prepare import prepared
from adapass.twin.registry import find, parameters
from adapass.twin.torch_import import Tensor, torch
from adapass.twin.twin import Twin, as_stored
from adapass.twin.weights import is_weight, safe_name

_WIDE = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE})


def build_twin(model: ir.Model, *, outputs: Sequence[str] | None = None) -> Twin:
    """The twin of ``model``, which stays as it is. ``outputs`` may name any value of the main graph.

    Raises:
        ModelError: an operator has no twin; the message names it and its node.
        UsageError: an output name is unknown.

    """
    names = tuple(v.name or "" for v in model.graph.outputs) if outputs is None else tuple(outputs)
    ready = prepared(model)
    scope = _Scope(_unambiguous(ready), ready.opset_imports)
    scope.take(ready.graph.inputs)
    scope.translate(ready.graph)
    known = ir.convenience.create_value_mapping(ready.graph, include_subgraphs=False)
    for name in names:
        if name not in known:
            raise UsageError(
                f"the graph has no value '{name}' to return; names are those of the ONNX text form"
            )
    module = scope.finish([known[name] for name in names])
    return Twin(
        module=module,
        inputs=tuple(v.name or "" for v in ready.graph.inputs),
        outputs=names,
        weights=dict(sorted(scope.weights.items())),
        stored={name: _stored(ready, name) for name in sorted(scope.weights)},
        defaults={
            v.name or "": stored_tensor(v.const_value)
            for v in ready.graph.inputs
            if v.const_value is not None
        },
    )


def _stored(model: ir.Model, name: str) -> ir.DataType:
    found = [g.initializers[name].const_value for g in graphs_everywhere(model) if name in g.initializers]
    assert found[0] is not None
    return found[0].dtype


def _unambiguous(model: ir.Model) -> frozenset[str]:
    """Names that one initializer of the model has alone: what can be written back by name."""
    seen: dict[str, int] = {}
    for graph in graphs_everywhere(model):
        for name in graph.initializers:
            seen[name] = seen.get(name, 0) + 1
    return frozenset(name for name, count in seen.items() if count == 1)


class _Scope:
    """One graph on its way to a graph module."""

    def __init__(self, trainable: frozenset[str], opsets: Mapping[str, int]) -> None:
        self.weights: dict[str, str] = {}
        """Initializer -> name of the parameter, from this module on."""
        self._trainable = trainable
        self._opsets = opsets
        self._root = torch.nn.Module()
        self._graph = torch.fx.Graph()
        self._nodes: dict[ir.Value, Tensor] = {}
        self._taken: set[str] = set()
        self._arguments: set[str] = set()

    def take(self, values: Sequence[ir.Value]) -> None:
        """Arguments of the module, in order."""
        for value in values:
            # The name becomes code: whatever the model says, it has to be an identifier.
            self._nodes[value] = self._graph.placeholder(safe_name(value.name or "", self._arguments))

    def translate(self, graph: ir.Graph) -> None:
        for node in graph:
            if node.op_type == "Constant":
                continue
            self._translate_node(node)

    def finish(self, outputs: Sequence[ir.Value]) -> Tensor:
        self._graph.output(tuple(self._read(value) for value in outputs))
        module = torch.fx.GraphModule(self._root, self._graph)
        module.eval()
        return module

    def _translate_node(self, node: ir.Node) -> None:
        made = self._control(node) or self._plain(node)
        if len(node.outputs) == 1:
            self._nodes[node.outputs[0]] = made
            return
        for index, value in enumerate(node.outputs):
            if value.name:
                self._nodes[value] = self._call(operator.getitem, (made, index), {}, value.name)

    def _plain(self, node: ir.Node) -> Tensor:
        source = node.inputs[0] if node.inputs else None
        if node.op_type == "Cast" and source is not None and self._is_reduced_weight(source):
            target = ir.DataType(node.attributes["to"].as_int())
            if target in _WIDE:
                return self._widened(node, source, target)
        compute = find(node)
        assert compute is not None
        arguments = [None if value is None else self._read(value) for value in node.inputs]
        while arguments and arguments[-1] is None:
            arguments.pop()
        settings = {
            a.name: self._attribute(a) for a in node.attributes.values() if a.name in parameters(compute)
        }
        if "outputs" in parameters(compute):
            settings["outputs"] = len(node.outputs)
        if "opset" in parameters(compute):
            settings["opset"] = self._opsets.get(node.domain, 1)
        return self._call(compute, tuple(arguments), settings, node.outputs[0].name)

    def _widened(self, node: ir.Node, source: ir.Value, target: ir.DataType) -> Tensor:
        """A half-precision weight that is cast at once: the gradient never becomes half-precision."""
        stored = TORCH_TYPES[_dtype(source)]
        kept = self._call(rounded, (self._parameter(source),), {"dtype": stored}, source.name)
        return self._call(as_stored, (kept,), {"dtype": TORCH_TYPES[target]}, node.outputs[0].name)

    def _control(self, node: ir.Node) -> Tensor | None:
        graphs = [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
        if not graphs:
            return None
        name = node.outputs[0].name
        if node.op_type == "If":
            branches = [node.attributes[key].as_graph() for key in ("then_branch", "else_branch")]
            (then, first), (otherwise, second) = (self._submodule(branch) for branch in branches)
            condition = self._read(_required(node, 0))
            return self._call(run_if, (condition, then, otherwise, (first, second)), {}, name)
        body, captured = self._submodule(graphs[0])
        read = [None if value is None else self._read(value) for value in node.inputs]
        if node.op_type == "Loop":
            head = [*read, None, None][:2]
            return self._call(run_loop, (*head, body, tuple(read[2:]), captured), {}, name)
        return self._call(run_scan, self._scan(node, graphs[0], body, read, captured), {}, name)

    def _scan(
        self, node: ir.Node, inner: ir.Graph, body: Tensor, read: list[Tensor], captured: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        count = node.attributes["num_scan_inputs"].as_int()
        states, scanned = tuple(read[: len(read) - count]), tuple(read[len(read) - count :])
        made = len(inner.outputs) - len(states)

        def setting(key: str, length: int) -> tuple[int, ...]:
            given = node.attributes.get(key)
            return (0,) * length if given is None else tuple(given.as_ints())

        return (
            body,
            states,
            scanned,
            captured,
            setting("scan_input_directions", count),
            setting("scan_input_axes", count),
            setting("scan_output_directions", made),
            setting("scan_output_axes", made),
        )

    def _submodule(self, graph: ir.Graph) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The module of a branch or body, and what it reads from around it."""
        captured = _captured(graph)
        inner = _Scope(self._trainable, self._opsets)
        inner.take([*graph.inputs, *captured])
        inner.translate(graph)
        name = safe_name("graph", self._taken)
        self._root.add_module(name, inner.finish(graph.outputs))
        self.weights.update({key: f"{name}.{path}" for key, path in inner.weights.items()})
        return self._graph.get_attr(name), tuple(self._read(value) for value in captured)

    def _read(self, value: ir.Value) -> Tensor:
        if value not in self._nodes:
            self._nodes[value] = self._stored(value)
        return self._nodes[value]

    def _stored(self, value: ir.Value) -> Tensor:
        if not self._is_parameter(value):
            return self._buffer(value.name or "constant", _constant(value))
        parameter = self._parameter(value)
        if _dtype(value) not in REDUCED:
            return parameter
        return self._call(as_stored, (parameter,), {"dtype": TORCH_TYPES[_dtype(value)]}, value.name)

    def _is_parameter(self, value: ir.Value) -> bool:
        return value.is_initializer() and value.name in self._trainable and is_weight(value)

    def _is_reduced_weight(self, value: ir.Value) -> bool:
        return self._is_parameter(value) and _dtype(value) in REDUCED

    def _parameter(self, value: ir.Value) -> Tensor:
        name = value.name or ""
        if name not in self.weights:
            assert value.const_value is not None
            tensor = stored_tensor(value.const_value)
            tensor = tensor.float() if _dtype(value) in REDUCED else tensor
            self.weights[name] = safe_name(name, self._taken)
            self._root.register_parameter(self.weights[name], torch.nn.Parameter(tensor))
        return self._graph.get_attr(self.weights[name])

    def _buffer(self, name: str, tensor: Tensor) -> Tensor:
        key = safe_name(name, self._taken)
        self._root.register_buffer(key, tensor)
        return self._graph.get_attr(key)

    def _attribute(self, attribute: ir.Attr) -> Tensor:
        if attribute.type == ir.AttributeType.TENSOR:
            return self._buffer(attribute.name, stored_tensor(attribute.as_tensor()))
        several = (ir.AttributeType.INTS, ir.AttributeType.FLOATS, ir.AttributeType.STRINGS)
        value: Tensor = attribute.value
        return tuple(value) if attribute.type in several else value

    def _call(
        self, compute: Compute, arguments: tuple[Tensor, ...], settings: dict[str, Tensor], name: str | None
    ) -> Tensor:
        return self._graph.create_node("call_function", compute, arguments, settings, name=f"v_{name}")


def _required(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value


def _dtype(value: ir.Value) -> ir.DataType:
    assert value.const_value is not None
    return value.const_value.dtype


def _constant(value: ir.Value) -> Tensor:
    """What an initializer or a Constant node holds."""
    if value.const_value is not None and value.is_initializer():
        return stored_tensor(value.const_value)
    node = value.producer()
    assert node is not None, f"'{value.name}' is neither computed nor stored"
    attribute = next(iter(node.attributes.values()))
    if attribute.type == ir.AttributeType.TENSOR:
        return stored_tensor(attribute.as_tensor())
    floats = attribute.type in (ir.AttributeType.FLOAT, ir.AttributeType.FLOATS)
    return torch.tensor(attribute.value, dtype=torch.float32 if floats else torch.int64)


def _captured(graph: ir.Graph) -> list[ir.Value]:
    """Values read in ``graph``, at any depth, that are computed or fed outside of it; in order."""
    inside: set[ir.Value] = set(graph.inputs)
    read: dict[ir.Value, None] = {}
    for inner in (graph, *graph.subgraphs()):
        inside.update(inner.inputs, inner.initializers.values())
        for node in inner:
            inside.update(node.outputs)
            read.update(dict.fromkeys(value for value in node.inputs if value is not None))
        read.update(dict.fromkeys(inner.outputs))
    return [value for value in read if value not in inside]
