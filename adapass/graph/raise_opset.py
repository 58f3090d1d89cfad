"""Raise the opset of a model where every operator goes on meaning what it means.

Most changes between versions of an operator only allow more types or add an option whose default is what
was. An operator whose signature lost something, or whose default changed, stays in the way, and so do those
whose meaning changed behind an equal signature.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import onnx
import onnx_ir as ir

from adapass.graph.edit import nodes_everywhere
from adapass.graph.tensors import graphs_everywhere

OLDEST = 13
"""Before, more changed than signatures tell."""
IR_VERSIONS: Mapping[int, int] = MappingProxyType({21: 10, 22: 10, 23: 11, 24: 12, 25: 13})
"""The IR version that came with an opset."""
SETTLED: Mapping[str, int] = MappingProxyType(
    {
        "BatchNormalization": 15,  # which outputs there are
        "GridSample": 20,  # the names of its modes
        "GroupNormalization": 21,  # one scale for each channel, not for each group
        "Resize": 19,  # what an axis left out means
        "Split": 18,  # asks for the number of outputs
    }
)
"""Operators that changed behind an equal signature; from this version on they mean the same."""


def obstacle(model: ir.Model, opset: int) -> str | None:
    """The first operator that would mean something else at ``opset``; ``None``: the opset can be raised."""
    now = _version(model)
    if now >= opset:
        return None
    if now < OLDEST:
        return f"opset {now}"
    if model.functions:
        return "a function"
    operators = dict.fromkeys(node.op_type for node in nodes_everywhere(model) if node.domain == "")
    return next((name for name in operators if not _means_the_same(name, now, opset)), None)


def raise_opset(model: ir.Model, opset: int) -> None:
    """Raise the opset to at least ``opset``, in place.

    Raises:
        ValueError: an operator is in the way; ``obstacle`` says which.

    """
    if (name := obstacle(model, opset)) is not None:
        raise ValueError(f"the opset cannot be raised to {opset}: {name} would mean something else")
    if _version(model) >= opset:
        return
    for graph in graphs_everywhere(model):
        if "" in graph.opset_imports:
            graph.opset_imports[""] = opset
    needed = max(ir_version for first, ir_version in IR_VERSIONS.items() if first <= opset)
    model.ir_version = max(model.ir_version, needed)


def _version(model: ir.Model) -> int:
    return model.graph.opset_imports.get("", 0)


def _means_the_same(name: str, before: int, after: int) -> bool:
    if before < SETTLED.get(name, 0):
        return False
    try:
        old, new = _schema(name, before), _schema(name, after)
    except onnx.defs.SchemaError:
        return False
    return old.since_version == new.since_version or (not new.deprecated and _extends(old, new))


def _schema(name: str, opset: int) -> Any:
    return onnx.defs.get_schema(name, opset, "")


def _extends(old: Any, new: Any) -> bool:
    """Whether all that could be written before can be written now, and nothing new has to be."""
    return (
        all(k in new.attributes and _default(v) == _default(new.attributes[k]) for k, v in _items(old))
        and not any(v.required and k not in old.attributes for k, v in _items(new))
        and _begins_with(new.inputs, old.inputs)
        and _begins_with(new.outputs, old.outputs)
    )


def _items(schema: Any) -> Iterable[tuple[str, Any]]:
    return [(str(name), attribute) for name, attribute in schema.attributes.items()]


def _default(attribute: Any) -> bytes:
    return bytes(attribute.default_value.SerializeToString())


def _begins_with(new: Any, old: Any) -> bool:
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    added = new[len(old) :]
    same = all(a.name == b.name for a, b in zip(old, new, strict=False))
    return len(new) >= len(old) and same and all(each.option == optional for each in added)
