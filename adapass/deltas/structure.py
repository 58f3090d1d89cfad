"""Whether two models differ in nothing but stored tensors: the first difference, in words."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from adapass.graph.tensors import graphs_everywhere, subgraphs_of

Key = tuple[int, str]
"""Which graph of a model (as ``graphs_everywhere`` numbers them), and the name of an initializer there."""


def stored(model: ir.Model) -> dict[Key, ir.Value]:
    """The initializers of all graphs."""
    return {
        (number, name): value
        for number, graph in enumerate(graphs_everywhere(model))
        for name, value in graph.initializers.items()
        if value.const_value is not None
    }


def first_difference(base: ir.Model, fine: ir.Model) -> str | None:
    """In plain words; ``None`` where only stored tensors (and shapes of outputs) differ."""
    if base.opset_imports != fine.opset_imports:
        return f"opsets {dict(fine.opset_imports)}, {dict(base.opset_imports)} in the base"
    if base.functions.keys() != fine.functions.keys():
        return "the functions of the model"
    first, second = stored(base).keys(), stored(fine).keys()
    if odd := sorted(first ^ second):
        there, missing = ("base", "fine-tune") if odd[0] in first else ("fine-tune", "base")
        return f"the stored tensor '{odd[0][1]}' is in the {there} and not in the {missing}"
    graphs = list(zip(graphs_everywhere(base), graphs_everywhere(fine), strict=False))
    return next((found for a, b in graphs if (found := _graphs_differ(a, b)) is not None), None)


def _graphs_differ(base: ir.Graph, fine: ir.Graph) -> str | None:
    for what, a, b in (("inputs", base.inputs, fine.inputs), ("outputs", base.outputs, fine.outputs)):
        if [(v.name, v.dtype) for v in a] != [(v.name, v.dtype) for v in b]:
            return f"{what} {[v.name for v in b]}, {[v.name for v in a]} in the base (names and types)"
    if [v.shape for v in base.inputs] != [v.shape for v in fine.inputs]:
        return f"the shapes of the inputs {[v.name for v in fine.inputs]}"
    nodes = list(zip(base, fine, strict=False))
    for place, (first, second) in enumerate(nodes):
        if (found := _nodes_differ(first, second)) is not None:
            return f"node {place} ({_called(second)}): {found}"
    if len(base) != len(fine):
        longer, name = (base, "base") if len(base) > len(fine) else (fine, "fine-tune")
        extra = list(longer)[len(nodes)]
        return f"node {len(nodes)} ({_called(extra)}) is only in the {name}"
    return None


def _nodes_differ(base: ir.Node, fine: ir.Node) -> str | None:
    kinds = [(node.domain, node.op_type, node.overload) for node in (base, fine)]
    if kinds[0] != kinds[1]:
        return f"operator {fine.op_type}, {base.op_type} in the base"
    for what, a, b in (("reads", base.inputs, fine.inputs), ("makes", base.outputs, fine.outputs)):
        names = [[None if value is None else value.name for value in values] for values in (a, b)]
        if names[0] != names[1]:
            return f"it {what} {names[1]}, {names[0]} in the base"
    if sorted(base.attributes) != sorted(fine.attributes):
        return f"attributes {sorted(fine.attributes)}, {sorted(base.attributes)} in the base"
    return next((f"attribute '{name}' differs" for name in _odd_attributes(base, fine)), None)


def _odd_attributes(base: ir.Node, fine: ir.Node) -> Iterator[str]:
    """Graphs in attributes are compared as graphs of their own."""
    for name in sorted(base.attributes):
        a, b = base.attributes[name], fine.attributes[name]
        if a.type != b.type or a.is_ref() != b.is_ref() or a.ref_attr_name != b.ref_attr_name:
            yield name
        elif a.type in {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS} or a.is_ref():
            continue
        elif a.type == ir.AttributeType.TENSOR:
            if not _equal_tensors(a.as_tensor(), b.as_tensor()):
                yield name
        elif a.type == ir.AttributeType.TENSORS:
            pairs = list(zip(a.as_tensors(), b.as_tensors(), strict=False))
            if len(a.as_tensors()) != len(b.as_tensors()) or not all(_equal_tensors(*p) for p in pairs):
                yield name
        elif repr(a.value) != repr(b.value):
            yield name
    if len(subgraphs_of(base)) != len(subgraphs_of(fine)):
        yield "graphs"


def _equal_tensors(a: ir.TensorProtocol, b: ir.TensorProtocol) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and equal_contents(a, b)


def equal_contents(a: ir.TensorProtocol, b: ir.TensorProtocol) -> bool:
    """Bit for bit, of tensors of one type and shape."""
    if a.dtype == ir.DataType.STRING:
        return bool(a.numpy().tolist() == b.numpy().tolist())
    return a.tobytes() == b.tobytes()


def _called(node: ir.Node) -> str:
    return f"{node.op_type} '{node.name or node.outputs[0].name}'"
