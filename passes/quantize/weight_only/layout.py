"""The layouts, in standard operators only.

    int      d = DequantizeLinear<axis = 0, block_size = 32>(q, s, z)        q in 4 bits [K, N], s [K / 32, N]
             y = MatMul(x, d)                                                one MatMulNBits when executed
    branch   y = Add(MatMul(x, d), MatMul(MatMul(x, a), b))
    float16  d = Cast<to = float>(w16)
    binary   bits = Mod(BitShift<RIGHT>(Unsqueeze(packed), [7, ..., 0]), 2)  8 signs a byte
             d = ReduceSum over codes (scale * (2 bits - 1))

Runtimes fuse the first only for a weight as MatMul reads it, [inputs, outputs]: that of a Gemm is turned
around (``transB`` goes), its ``alpha`` multiplied in. A convolution's is stored as [outputs, inputs * taps]
and takes its shape behind the conversion; no runtime computes with it as it is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array
from adapass.graph.constants import RESTORES
from adapass.graph.edit import apply_replacement, fresh_name, insert_before, new_initializer
from adapass.passes.quantize.weight_only.binary import Codes
from adapass.passes.quantize.weight_only.formats import Format, Kind, integer_type
from adapass.passes.quantize.weight_only.grid import Doubles, Grid
from adapass.passes.quantize.weight_only.rounding import Rounding, Stored
from adapass.rewrite import Replacement

FORMAT = "adapass.weight-format"
"""Metadata key of a product: the format of its weight, and how it was rounded."""


def lay_out(graph: ir.Graph, node: ir.Node, format_: Format, stored: Stored) -> dict[str, str]:
    """Put what is stored in the place of the weight of ``node``; the names of its initializers, by part."""
    site = node.outputs[0].name or ""
    arrays = arrays_of(node.op_type == "Conv", format_, stored)
    parts = {name: new_initializer(graph, initializer_name(site, name), a) for name, a in arrays.items()}
    builder = _Builder(graph, site, parts)
    restored = builder.restore(node, format_)
    node.metadata_props[FORMAT] = f"{format_.text} {Rounding.NEAREST}"
    insert_before(node, builder.nodes)
    node.replace_input_with(1, restored)
    if node.op_type == "Gemm":
        node.attributes["transB"] = ir.AttrInt64("transB", 0)
        node.attributes.pop("alpha", None)
    if stored.branch is not None:
        _add_branch(graph, node, builder)
    return {part: value.name or "" for part, value in parts.items()}


def arrays_of(convolution: bool, format_: Format, stored: Stored) -> dict[str, Array]:
    """What the initializers of a site hold, by the last part of their names."""
    turned = convolution  # [outputs, inputs * taps] instead of [inputs, outputs]
    if stored.half is not None:
        half = np.float16 if format_.kind is Kind.HALF else ml_dtypes.bfloat16
        return {"weight": np.ascontiguousarray(_turned(stored.half, turned).astype(half))}
    if stored.codes is not None:
        return _code_arrays(stored.codes)
    assert stored.integers is not None  # one of the three is there
    grid, values = stored.integers
    found = _integer_arrays(grid, values, turned)
    if stored.branch is not None:
        found["left"] = stored.branch.left.astype(np.float32)
        found["right"] = stored.branch.right.astype(np.float32)
    return found


def store_again(model: ir.Model, parts: Mapping[str, str], arrays: Mapping[str, Array]) -> None:
    """Replace what a site that was laid out stores; ``parts`` is what ``lay_out`` gave."""
    for part, array in arrays.items():
        name = parts[part]
        model.graph.initializers[name].const_value = ir.tensor(array, name=name)


def note_rounding(node: ir.Node, rounding: Rounding) -> None:
    """Let a product say how its weight was rounded."""
    node.metadata_props[FORMAT] = f"{node.metadata_props[FORMAT].split()[0]} {rounding}"


def format_of(node: ir.Node) -> Format | None:
    """The format of the weight of a product; ``None``: it is not stored in one."""
    text = node.metadata_props.get(FORMAT)
    return None if text is None else Format.parse(text.split()[0])


def product_of(node: ir.Node) -> ir.Node | None:
    """The product behind the result of a site: ``node`` itself, or what a branch is added to."""
    if FORMAT in node.metadata_props:
        return node
    first = node.inputs[0] if node.op_type == "Add" else None
    producer = first.producer() if first is not None else None
    return producer if producer is not None and FORMAT in producer.metadata_props else None


def restored_value(node: ir.Node) -> ir.Value:
    """What a product reads as its weight."""
    value = node.inputs[1]
    assert value is not None  # a product has a weight
    return value


def initializer_name(site: str, part: str) -> str:
    """The name a part of a stored weight has, unless another value had it already."""
    return f"{site}_stored_{part}"


def _turned(matrix: Doubles, turned: bool) -> Doubles:
    return np.ascontiguousarray(matrix.T if turned else matrix)


def _integer_arrays(grid: Grid, values: Doubles, turned: bool) -> dict[str, Array]:
    stored_type = integer_type(grid.bits, symmetric=grid.symmetric).numpy()
    found: dict[str, Array] = {
        "weight": _turned(values, turned).astype(stored_type),
        "scale": _turned(grid.scale, turned).astype(np.float32),
    }
    if not grid.symmetric:
        found["zero_point"] = _turned(grid.zero, turned).astype(stored_type)
    if grid.scale.shape[0] == 1:  # one scale an output: a vector
        found = {name: a if name == "weight" else a.reshape(-1) for name, a in found.items()}
    return found


def _code_arrays(codes: Codes) -> dict[str, Array]:
    return {"weight": codes.packed(), "scale": codes.scale.transpose(0, 2, 1).astype(np.float32)}


@dataclass(slots=True)
class _Builder:
    """Nodes that restore one weight, in order."""

    graph: ir.Graph
    site: str
    parts: dict[str, ir.Value]
    nodes: list[ir.Node] = field(default_factory=list[ir.Node])

    def restore(self, node: ir.Node, format_: Format) -> ir.Value:
        if format_.kind is Kind.BINARY:
            return self._shaped(self._signs(format_, node), node)
        if format_.kind is not Kind.INTEGER:
            return self._shaped(self.emit("Cast", [self.parts["weight"]], to=ir.DataType.FLOAT), node)
        inputs = [self.parts[name] for name in ("weight", "scale", "zero_point") if name in self.parts]
        along = 1 if node.op_type == "Conv" else 0
        scale = self.parts["scale"].shape
        if scale is not None and scale.rank() == 1:
            return self._shaped(self.emit("DequantizeLinear", inputs, axis=1 - along), node)
        size = self.parts["weight"].shape
        assert size is not None  # an initializer
        block = format_.block(int(size.numpy()[along]))
        return self._shaped(self.emit("DequantizeLinear", inputs, axis=along, block_size=block), node)

    def emit(self, operator: str, inputs: Sequence[ir.Value], **attributes: int | str) -> ir.Value:
        node = ir.node(operator, inputs, attributes, metadata_props={RESTORES: self.site}, name="")
        node.outputs[0].name = fresh_name(self.graph, f"{self.site}_restored_{len(self.nodes)}")
        self.nodes.append(node)
        return node.outputs[0]

    def constant(self, name: str, array: Array) -> ir.Value:
        return new_initializer(self.graph, initializer_name(self.site, name), array)

    def _shaped(self, restored: ir.Value, node: ir.Node) -> ir.Value:
        """As the node reads it, with its shape and type known."""
        before = node.inputs[1]
        assert before is not None  # a product has a weight
        assert before.shape is not None
        sizes = [int(size) for size in before.shape.numpy()]
        if node.op_type == "Conv":
            restored = self.emit("Reshape", [restored, self.constant("shape", np.asarray(sizes, np.int64))])
        elif node.attributes.get_int("transB", 0):
            sizes = sizes[::-1]
        restored.type, restored.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(sizes)
        return restored

    def _signs(self, format_: Format, node: ir.Node) -> ir.Value:
        """[codes, N, K / 8] bytes to [N, K] for a convolution, [K, N] for a product."""
        packed = self.parts["weight"]
        assert packed.shape is not None  # an initializer
        codes, outputs, count = (int(size) for size in packed.shape.numpy())
        inputs = _inputs(node)
        each = self.emit("Unsqueeze", [packed, self.constant("last", np.array([3], np.int64))])
        shifts = self.constant("shifts", np.arange(7, -1, -1, dtype=np.uint8))
        shifted = self.emit("BitShift", [each, shifts], direction="RIGHT")
        bits = self.emit("Mod", [shifted, self.constant("two", np.array(2, np.uint8))])
        flat = self._reshaped(bits, [codes, outputs, count * 8], "flat")
        cut = self._sliced(flat, inputs, count * 8, "inputs")
        signs = self.emit("Cast", [cut], to=ir.DataType.FLOAT)
        doubled = self.emit("Mul", [signs, self.constant("double", np.array(2.0, np.float32))])
        centred = self.emit("Sub", [doubled, self.constant("one", np.array(1.0, np.float32))])
        scaled = self.emit("Mul", [centred, self._scales(format_, codes, outputs, inputs)])
        total = self.emit("ReduceSum", [scaled, self.constant("axis", np.array([0], np.int64))], keepdims=0)
        return total if node.op_type == "Conv" else self.emit("Transpose", [total])

    def _scales(self, format_: Format, codes: int, outputs: int, inputs: int) -> ir.Value:
        """[codes, N, blocks] to [codes, N, K]."""
        block = format_.block(inputs)
        blocks = -(-inputs // block)
        last = self.constant("last_scale", np.array([3], np.int64))
        wide = self.emit("Unsqueeze", [self.parts["scale"], last])
        shape = self.constant("wide", np.array([codes, outputs, blocks, block], np.int64))
        flat = self._reshaped(self.emit("Expand", [wide, shape]), [codes, outputs, blocks * block], "rows")
        return self._sliced(flat, inputs, blocks * block, "scaled")

    def _reshaped(self, value: ir.Value, sizes: list[int], name: str) -> ir.Value:
        return self.emit("Reshape", [value, self.constant(name, np.asarray(sizes, np.int64))])

    def _sliced(self, value: ir.Value, wanted: int, present: int, name: str) -> ir.Value:
        if wanted == present:
            return value
        parts = [self.constant(f"{name}_{i}", np.array([x], np.int64)) for i, x in enumerate((0, wanted, 2))]
        return self.emit("Slice", [value, *parts])


def _inputs(node: ir.Node) -> int:
    weight = node.inputs[1]
    assert weight is not None  # a product has a weight
    assert weight.shape is not None
    sizes = [int(size) for size in weight.shape.numpy()]
    if node.op_type == "Conv":
        return int(np.prod(sizes[1:]))
    return sizes[1] if node.attributes.get_int("transB", 0) else sizes[0]


def _add_branch(graph: ir.Graph, node: ir.Node, builder: _Builder) -> None:
    """Let y = product + (x A) B, under the name of the product's result."""
    data, name = node.inputs[0], node.outputs[0].name or ""
    assert data is not None  # a product has both operands
    inputs = [value for value in node.inputs if value is not None]
    plain = ir.Node(
        "",
        node.op_type,
        inputs,
        list(node.attributes.values()),
        num_outputs=1,
        name="",
        metadata_props=dict(node.metadata_props),
    )
    plain.outputs[0].name = fresh_name(graph, f"{name}_plain")
    thin = ir.node("MatMul", [data, builder.parts["left"]], name="")
    thin.outputs[0].name = fresh_name(graph, f"{name}_thin")
    wide = ir.node("MatMul", [thin.outputs[0], builder.parts["right"]], name="")
    wide.outputs[0].name = fresh_name(graph, f"{name}_branch")
    total = ir.node("Add", [plain.outputs[0], wide.outputs[0]], name="")
    total.outputs[0].type, total.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
    apply_replacement(node, Replacement([plain, thin, wide, total], total.outputs))
