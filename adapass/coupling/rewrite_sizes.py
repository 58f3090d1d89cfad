"""Write new sizes where a graph holds sizes: attributes, stored integers, integers computed at run time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.coupling.cut import Cut
from adapass.coupling.dims import Dim, find
from adapass.coupling.flow import Counted, Flow, Sized
from adapass.graph.constants import constant_array
from adapass.graph.edit import insert_after, insert_before, new_initializer

Integers = npt.NDArray[np.int64]


def rewrite_counted(flow: Flow, cut: Cut) -> None:
    """Let every ``Shape`` that is read return what it returned before."""
    for counted in flow.counted:
        changed = [axis for axis, dim in enumerate(counted.dims) if cut.touches(dim)]
        if changed and counted.node.outputs[0].uses():
            _restore(counted, [dim.size[0] if at in changed else None for at, dim in enumerate(counted.dims)])


def _restore(counted: Counted, sizes: list[int | None]) -> None:
    """Readers that pick an entry that changed get its old value; other readers stay as they are."""
    result = counted.node.outputs[0]
    if all(size is not None for size in sizes):
        old = _constant(counted.node, [size for size in sizes if size is not None])
        result.replace_all_uses_with(old)
        return
    replaced = _override(counted.node, result, sizes, after=True)
    for reader, index in list(result.uses()):
        if reader is not replaced.producer():
            reader.replace_input_with(index, replaced)


def rewrite_frozen(flow: Flow, cut: Cut) -> None:
    """Write down defaults that would follow from a width that is about to change."""
    for frozen in flow.frozen:
        if cut.touches(frozen.dim) and frozen.attribute not in frozen.node.attributes:
            frozen.node.attributes[frozen.attribute] = ir.AttrFloat32(frozen.attribute, frozen.value)


def rewrite_permuted(flow: Flow, cut: Cut) -> None:
    """A permutation of what is left needs no regular pattern: pick the entries one by one."""
    for permuted in flow.permuted:
        source = permuted.first.inputs[0]
        if source is None or not cut.touches(permuted.before):
            continue
        rank = np.cumsum(cut.mask(permuted.before)) - 1
        order = [int(rank[permuted.order[at]]) for at in cut.positions(permuted.after)]
        picked = ir.Node(
            "",
            "Gather",
            [source, _constant(permuted.last, order)],
            [ir.AttrInt64("axis", permuted.axis)],
            num_outputs=1,
            name="",
        )
        insert_before(permuted.last, [picked])
        permuted.last.outputs[0].replace_all_uses_with(picked.outputs[0])


def rewrite_sized(flow: Flow, cut: Cut, dtypes: Mapping[str, ir.DataType]) -> None:
    """Write the new sizes of everything that changes."""
    for sized in flow.sized:
        new = [
            None if element is None else _new_size((*element, *sized.follows), element, cut)
            for element in sized.elements
        ]
        if all(size is None for size in new):
            continue
        if sized.index is None:
            _rewrite_attribute(sized, new)
        else:
            _rewrite_input(sized, sized.index, new, cut, dtypes)


def _new_size(concerned: tuple[Dim, ...], element: tuple[Dim, ...], cut: Cut) -> int | None:
    """The new sum of sizes; ``None`` when nothing changes, -1 when it stays dynamic."""
    if not any(cut.touches(dim) for dim in concerned):
        return None
    if any(len(set(find(dim).size)) > 1 for dim in element):
        return -1
    return sum(cut.size(dim) for dim in element)


def _rewrite_attribute(sized: Sized, new: list[int | None]) -> None:
    attribute = sized.node.attributes.get(sized.attribute)
    if attribute is None:
        whole = [sum(find(dim).size[0] for dim in element or ()) for element in sized.elements]
        _set_ints(sized, [old if size is None else size for old, size in zip(whole, new, strict=True)])
        return
    if attribute.type == ir.AttributeType.INT:
        sized.node.attributes[sized.attribute] = ir.AttrInt64(sized.attribute, new[0] or 0)
        return
    old = list(attribute.as_ints())
    _set_ints(sized, [_replaced(value, size, sized) for value, size in zip(old, new, strict=True)])


def _set_ints(sized: Sized, numbers: Sequence[int]) -> None:
    sized.node.attributes[sized.attribute] = ir.AttrInt64s(sized.attribute, tuple(numbers))


def _replaced(old: int, size: int | None, sized: Sized) -> int:
    keeps = size is None or (sized.is_shape and old in (-1, 0))
    return old if keeps or size is None else size


def _rewrite_input(
    sized: Sized, index: int, new: list[int | None], cut: Cut, dtypes: Mapping[str, ir.DataType]
) -> None:
    node = sized.node
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        _add_split(sized, index, new)
        return
    array = constant_array(value)
    if array is not None:
        flat = [_replaced(int(old), size, sized) for old, size in zip(array.reshape(-1), new, strict=True)]
        node.replace_input_with(index, _stored(node, np.array(flat, array.dtype).reshape(array.shape)))
        return
    known = _known_elements(value, len(new)) if sized.is_shape else [None] * len(new)
    sizes = [None if old in (-1, 0) else size for old, size in zip(known, new, strict=True)]
    if all(size is None for size in sizes):
        return
    dtype = dtypes.get(value.name or "")
    if sizes.count(-1) == 1 and _may_hold_another(known, sizes):
        value = _scaled(sized, value, sizes.index(-1), cut, dtype)
        sizes[sizes.index(-1)] = None
    if any(size is not None for size in sizes):
        value = _override(node, value, sizes, after=False, dtype=dtype)
    node.replace_input_with(index, value)


def _may_hold_another(known: Sequence[int | None], sizes: Sequence[int | None]) -> bool:
    """Whether an entry that stays is -1 already, of which a Reshape takes one; or nothing is known."""
    rest = [old for old, size in zip(known, sizes, strict=True) if size is None]
    return -1 in rest or (len(known) > 1 and all(old is None for old in known))


def _scaled(sized: Sized, value: ir.Value, at: int, cut: Cut, dtype: ir.DataType | None) -> ir.Value:
    """``value`` with entry ``at``, samples times units, divided by the units there were, times those left."""
    kind = np.dtype(np.int32 if dtype == ir.DataType.INT32 else np.int64)
    before, left = np.ones(len(sized.elements), kind), np.ones(len(sized.elements), kind)
    for dim in sized.elements[at] or ():
        before[at] *= find(dim).size[0]
        left[at] *= cut.size(dim)
    times = ir.Node("", "Mul", [value, _stored(sized.node, left)], num_outputs=1, name="")
    share = ir.Node("", "Div", [times.outputs[0], _stored(sized.node, before)], num_outputs=1, name="")
    insert_before(sized.node, [times, share])
    return share.outputs[0]


def _known_elements(value: ir.Value, length: int) -> list[int | None]:
    """Entries of a vector that is a concatenation of stored and computed pieces, as far as stored."""
    node = value.producer()
    found: list[int | None] = []
    for piece in node.inputs if node is not None and node.op_type == "Concat" else ():
        array = constant_array(piece)
        found.extend([None] if array is None else [int(number) for number in array.reshape(-1)])
    return found if len(found) == length else [None] * length


def _override(
    node: ir.Node,
    value: ir.Value,
    sizes: Sequence[int | None],
    *,
    after: bool,
    dtype: ir.DataType | None = None,
) -> ir.Value:
    """``value`` with some entries replaced by numbers."""
    kind = np.dtype(np.int32 if dtype == ir.DataType.INT32 else np.int64)
    if not after and (joined := _rejoined(node, value, sizes, kind)) is not None:
        return joined
    numbers = _constant(node, [size or 0 for size in sizes], kind)
    mask = _stored(node, np.array([size is not None for size in sizes]))
    chosen = ir.Node("", "Where", [mask, numbers, value], num_outputs=1, name="")
    (insert_after if after else insert_before)(node, [chosen])
    return chosen.outputs[0]


def _rejoined(
    node: ir.Node, value: ir.Value, sizes: Sequence[int | None], kind: npt.DTypeLike
) -> ir.Value | None:
    """The concatenation again with other pieces, where every piece is one entry."""
    maker = value.producer()
    if maker is None or maker.op_type != "Concat" or len(maker.inputs) != len(sizes):
        return None
    pieces = [
        piece if size is None else _constant(node, [size], kind)
        for piece, size in zip(maker.inputs, sizes, strict=True)
    ]
    joined = ir.Node("", "Concat", pieces, [ir.AttrInt64("axis", 0)], num_outputs=1, name="")
    insert_before(node, [joined])
    return joined.outputs[0]


def _add_split(sized: Sized, index: int, new: list[int | None]) -> None:
    """A Split into equal parts whose parts are no longer equal."""
    node = sized.node
    whole = [sum(find(dim).size[0] for dim in element or ()) for element in sized.elements]
    sizes = [old if size is None else size for old, size in zip(whole, new, strict=True)]
    node.attributes.pop("num_outputs", None)
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, _constant(node, sizes))


def _constant(node: ir.Node, numbers: Sequence[int], kind: npt.DTypeLike = np.int64) -> ir.Value:
    return _stored(node, np.array(numbers, kind))


def _stored(node: ir.Node, array: npt.NDArray[np.generic]) -> ir.Value:
    graph = node.graph
    if graph is None:
        raise ValueError(f"node '{node.op_type}' is in no graph")
    return new_initializer(graph, f"{node.outputs[0].name}_sizes", array)
