"""What ONNX shape inference leaves open although it can be proved.

Four gaps matter, the first three because exporters write position tables as ``Slice(table, 0, length)``:

1. A Slice whose end is the size of a dimension: every axis comes out unknown. Untouched axes keep
   their size, and the sliced one has the smaller of both sizes.
2. A Range up to the size of a dimension: it has that size.
3. Broadcasting a dimension against the smaller of itself and something else: where that is valid at
   all, the result is the dimension itself.
4. Tokens selected and gathered are those of the same samples.

The dimensions found are hints for the next round of inference, which carries them onwards.
"""

from __future__ import annotations

import onnx_ir as ir

from adapass.graph.broadcasting import BROADCASTING
from adapass.graph.elements import Element, dim_element, elements
from adapass.ops import GATHER_TOKENS, SELECT_TOKENS, is_token_operator

UNKNOWN = "unk__"
"""How ONNX names a dimension it knows nothing about."""
SMALLER = "min_of_"


def refine(graph: ir.Graph) -> set[ir.Value]:
    """Settle dimensions of the main graph in place; the values that had such."""
    changed: set[ir.Value] = set()
    for node in graph:
        dims: list[Element] | None = None
        if is_token_operator(node):
            dims = _of_tokens(node)
        elif node.domain != "" or not node.outputs:
            continue
        elif node.op_type == "Slice":
            dims = _sliced(node)
        elif node.op_type in BROADCASTING:
            dims = _broadcast(node)
        elif node.op_type == "Range":
            dims = _counted(node)
        if dims is not None and _settle(node.outputs[0], dims):
            changed.add(node.outputs[0])
    return changed


def _of_tokens(node: ir.Node) -> list[Element] | None:
    """Token operators keep the samples; how many tokens are left is known where their positions are."""
    if node.op_type == SELECT_TOKENS:
        score, kept = _dims(node.inputs[0]), _dims(node.outputs[0])
        return None if score is None else [score[0], kept[1] if kept is not None else None]
    if node.op_type != GATHER_TOKENS:
        return None
    x, kept = _dims(node.inputs[0]), _dims(node.inputs[1])
    return None if x is None else [x[0], kept[1] if kept is not None else None, *x[2:]]


def _settle(value: ir.Value, dims: list[Element]) -> bool:
    """Write known dimensions over unknown ones."""
    known = _dims(value)
    if value.is_graph_output() or (known is not None and len(known) != len(dims)):
        return False
    before = known if known is not None else [None] * len(dims)
    after = [
        new if _is_open(old) and not _is_open(new) else old for old, new in zip(before, dims, strict=True)
    ]
    if after == before:
        return False
    value.shape = ir.Shape(after)
    return True


def _is_open(dim: Element) -> bool:
    return dim is None or (isinstance(dim, str) and dim.startswith(UNKNOWN))


def _dims(value: ir.Value | None) -> list[Element] | None:
    if value is None or value.shape is None:
        return None
    return [dim_element(value, axis) for axis in range(value.shape.rank())]


def _sliced(node: ir.Node) -> list[Element] | None:
    dims = _dims(node.inputs[0])
    if dims is None or len(node.inputs) < 4:
        return None
    starts, ends, axes = (elements(node.inputs[index]) for index in (1, 2, 3))
    steps = elements(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] is not None else None
    if starts is None or ends is None or axes is None or not len(starts) == len(ends) == len(axes):
        return None
    result: list[Element] = list(dims)
    for index, axis in enumerate(axes):
        if not isinstance(axis, int) or not -len(dims) <= axis < len(dims):
            return None
        step = 1 if steps is None else steps[index]
        result[axis] = _smaller(dims[axis], ends[index]) if starts[index] == 0 and step == 1 else None
    return result


def _smaller(size: Element, end: Element) -> Element:
    if _is_open(end) or not isinstance(end, str) or _is_open(size):
        return None
    return end if size == end else f"{SMALLER}{end}_and_{size}"


def _counted(node: ir.Node) -> list[Element] | None:
    start, end, step = (elements(value) for value in node.inputs)
    return [end[0]] if start == (0,) and step == (1,) and end is not None and not _is_open(end[0]) else None


def _broadcast(node: ir.Node) -> list[Element] | None:
    shapes = [_dims(value) for value in node.inputs]
    if any(dims is None for dims in shapes):
        return None
    known = [dims for dims in shapes if dims is not None]
    rank = max((len(dims) for dims in known), default=0)
    padded: list[list[Element]] = [[*[1] * (rank - len(dims)), *dims] for dims in known]
    return [_joined({dims[axis] for dims in padded}) for axis in range(rank)]


def _joined(sizes: set[Element]) -> Element:
    """The size of one axis of the result; ``None`` when it cannot be proved."""
    rest = sizes - {1}
    if not rest:
        return 1
    if None in rest:
        return None
    whole = {size for size in rest if not (isinstance(size, str) and size.startswith(SMALLER))}
    if len(whole) != 1:
        return next(iter(rest)) if len(rest) == 1 else None
    (size,) = whole
    prefix = f"{SMALLER}{size}_and_"
    return size if all(isinstance(r, str) and r.startswith(prefix) for r in rest - whole) else None
