"""Convolutions, pools and what else treats axis 1 as channels and the axes behind it as space."""

from __future__ import annotations

import onnx_ir as ir

from adapass.coupling.dims import Dim, fix, mark, product, total
from adapass.coupling.flow import Balanced, Dims, Flow, Refused, Sized
from adapass.coupling.relations import entries, split, unify

SPACE = "it runs along space"
KERNEL = "it is the size of a kernel"


def space(flow: Flow, node: ir.Node, dims: Dims) -> list[Dim]:
    """The axes behind the channels of an output; those of the input keep their size as well."""
    for dim in dims[2:]:
        fix(dim, SPACE)
    return [flow.fixed(size, SPACE) for size in flow.out(node)[2:]]


def grouped(flow: Flow, dim: Dim, groups: int) -> tuple[Dim, Dim]:
    """Channels that are read in groups as groups times channels of a group.

    Where they are made of something else the first channels of all groups go together, and so on.

    Raises:
        Refused: they are already divided in another way.

    """
    parts = split(dim, flow.constant(groups))
    if parts is not None:
        return parts
    listed = entries(dim)
    if listed is None:
        raise Refused(f"the channels do not divide into {groups} groups")
    inner = len(listed) // groups
    for at, entry in enumerate(listed[inner:]):
        unify(listed[at % inner], entry)
    return flow.fixed(flow.constant(groups), "its groups are mixed by a shuffle"), total(listed[:inner])


def conv(flow: Flow, node: ir.Node) -> None:
    data, weight = flow.of(node, 0), flow.of(node, 1)
    _kernel(weight)
    groups = node.attributes.get_int("group", 1)
    if groups == 1:
        flow.contract(node, (0, 1), (1, 1))
        written = weight[0]
    else:
        written = _grouped_conv(flow, node, groups)
    _finish(flow, node, data, written)


def _grouped_conv(flow: Flow, node: ir.Node, groups: int) -> Dim:
    data, weight = flow.of(node, 0), flow.of(node, 1)
    data_groups, inner = grouped(flow, data[1], groups)
    flow.sized.append(Sized(node, None, "group", ((data_groups,),)))
    flow.read_channels(node)
    if inner.size != flow.ones:
        # How the result divides into groups is settled last: what follows may say how it is made.
        flow.balanced.append(Balanced(weight[0], data_groups))
        unify(inner, weight[1])
        flow.plays(node, 1, weight[1], "reads")
        flow.plays(node, 1, weight[0], "writes")
        return weight[0]
    weight_groups, made = grouped(flow, weight[0], groups)
    unify(data_groups, weight_groups)
    if made.size != flow.ones:
        flow.plays(node, 1, made, "writes")
    return weight[0]


def conv_transpose(flow: Flow, node: ir.Node) -> None:
    data, weight = flow.of(node, 0), flow.of(node, 1)
    _kernel(weight)
    groups = node.attributes.get_int("group", 1)
    if groups == 1:
        flow.contract(node, (0, 1), (1, 0))
        _finish(flow, node, data, weight[1])
        return
    data_groups, inner = grouped(flow, data[1], groups)
    unify(data[1], weight[0])
    if inner.size != flow.ones:
        flow.plays(node, 1, inner, "reads")
    flow.sized.append(Sized(node, None, "group", ((data_groups,),)))
    flow.read_channels(node)
    _finish(flow, node, data, product([data_groups, weight[1]], flow.ones), weight[1])


def _finish(flow: Flow, node: ir.Node, data: Dims, written: Dim, stored: Dim | None = None) -> None:
    mark(written, "conv")
    if node.attributes.get_int("group", 1) == 1 or stored is not None:
        flow.plays(node, 1, stored if stored is not None else written, "writes")
    bias = flow.maybe(node, 2) if node.op_type != "ConvInteger" else None
    if bias is not None:
        unify(bias[0], written)
        flow.plays(node, 2, bias[0], "writes")
    flow.give(node, [data[0], written, *space(flow, node, data)])


def _kernel(weight: Dims) -> None:
    for dim in weight[2:]:
        fix(dim, KERNEL)


def pool(flow: Flow, node: ir.Node) -> None:
    """Along an axis on which the window is one entry wide nothing is mixed: what lies there may be cut."""
    dims = flow.of(node, 0)
    around: list[Dim] = []
    for axis, (dim, size) in enumerate(zip(dims[2:], flow.out(node)[2:], strict=True)):
        passed = _is_passed(node, axis, len(dims) - 2)
        if not passed:
            fix(dim, SPACE)
        around.append(dim if passed else flow.fixed(size, SPACE))
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        fix(dims[1], "a MaxPool numbers its entries")
    for index in range(len(node.outputs)):
        flow.give(node, [*dims[:2], *around], index)


def _is_passed(node: ir.Node, axis: int, rank: int) -> bool:
    """Whether a pool looks at one entry at a time along a spatial axis, and at every one."""
    kernel = node.attributes.get_ints("kernel_shape", None)
    if kernel is None or kernel[axis] != 1:
        return False  # the global pools have no window: they look at all entries
    pads = node.attributes.get_ints("pads", (0,) * (2 * rank))
    stride = node.attributes.get_ints("strides", (1,) * rank)[axis]
    return stride == 1 and pads[axis] == pads[axis + rank] == 0


def resize(flow: Flow, node: ir.Node) -> None:
    dims, sizes = flow.of(node, 0), flow.out(node)
    result = list(dims[:2])
    for dim, size in zip(result, sizes, strict=False):
        if dim.size != size:
            raise Refused("channels or samples are interpolated")
    flow.give(node, [*result, *space(flow, node, dims)])
    if len(node.inputs) > 3 and node.inputs[3] is not None and "axes" not in node.attributes:
        kept = [(dim,) for dim in dims[:2]]
        flow.sized.append(Sized(node, 3, "", (*kept, *(None for _ in dims[2:]))))


def depth_to_space(flow: Flow, node: ir.Node) -> None:
    dims = flow.of(node, 0)
    block = node.attributes.get_int("blocksize", 1)
    square = flow.constant(block * block)
    if node.attributes.get_string("mode", "DCR") == "CRD":
        channels = tuple(size // (block * block) for size in dims[1].size)
        parts = split(dims[1], channels)
        inner, kept = (parts[1], parts[0]) if parts is not None else (None, None)
    else:
        parts = split(dims[1], square)
        inner, kept = parts if parts is not None else (None, None)
    if inner is None or kept is None:
        raise Refused("the channels do not divide into blocks of space")
    fix(inner, SPACE)
    flow.give(node, [dims[0], kept, *space(flow, node, dims)])


def fold(flow: Flow, node: ir.Node) -> None:
    """Col2Im: [N, C x block, blocks] -> [N, C, ...]; the block and where the blocks lie are space."""
    dims, sizes = flow.of(node, 0), flow.out(node)
    parts = split(dims[1], sizes[1])
    if parts is None:
        raise Refused("the channels do not divide into blocks of space")
    fix(parts[1], SPACE)
    fix(dims[2], SPACE)
    flow.give(node, [dims[0], parts[0], *(flow.fixed(size, SPACE) for size in sizes[2:])])


def space_to_depth(flow: Flow, node: ir.Node) -> None:
    dims = flow.of(node, 0)
    block = flow.constant(node.attributes.get_int("blocksize", 1) ** 2)
    channels = product([flow.fixed(block, SPACE), dims[1]], flow.ones)
    flow.give(node, [dims[0], channels, *space(flow, node, dims)])


def local_response(flow: Flow, node: ir.Node) -> None:
    dims = flow.of(node, 0)
    fix(dims[1], "LRN mixes neighbouring channels")
    flow.give(node, dims)
