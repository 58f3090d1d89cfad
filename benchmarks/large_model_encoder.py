"""A transformer encoder of any size with random weights, written layer by layer to keep memory free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, helper

HEAD_WIDTH = 64
OPSET = 20
DATA = "model.onnx.data"


@dataclass(frozen=True, slots=True)
class Sizes:
    layers: int
    width: int
    vocabulary: int = 2000
    positions: int = 128

    @property
    def heads(self) -> int:
        return self.width // HEAD_WIDTH


@dataclass
class Writer:
    """Nodes and stored tensors in the making; the numbers go to ``data`` at once."""

    data: BinaryIO
    random: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list[onnx.NodeProto])
    stored: list[TensorProto] = field(default_factory=list[TensorProto])

    def weight(self, name: str, *shape: int, spread: float = 0.0, around: float = 0.0) -> str:
        array = self.random.standard_normal(shape, np.float32) * np.float32(spread) + np.float32(around)
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", DATA), ("offset", self.data.tell()), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        self.data.write(array.tobytes())
        self.stored.append(tensor)
        return name

    def integers(self, name: str, *numbers: int) -> str:
        self.stored.append(helper.make_tensor(name, TensorProto.INT64, [len(numbers)], numbers))
        return name

    def op(self, kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def linear(self, data: str, name: str, inputs: int, outputs: int) -> str:
        weight = self.weight(f"{name}.weight", inputs, outputs, spread=inputs**-0.5)
        product = self.op("MatMul", data, weight, name=f"{name}.product")
        return self.op("Add", product, self.weight(f"{name}.bias", outputs, spread=0.02), name=name)

    def norm(self, data: str, name: str, width: int) -> str:
        scale = self.weight(f"{name}.scale", width, spread=0.02, around=1.0)
        bias = self.weight(f"{name}.bias", width, spread=0.02)
        return self.op("LayerNormalization", data, scale, bias, name=name, axis=-1)


def write_encoder(sizes: Sizes, folder: Path) -> None:
    """``model.onnx`` and its data file in ``folder``."""
    with (folder / DATA).open("wb") as data:
        writer = Writer(data, np.random.default_rng(0))
        value = _embedded(writer, sizes)
        for layer in range(sizes.layers):
            value = _layer(writer, value, f"layer{layer}", sizes)
        writer.norm(value, "hidden", sizes.width)
    shapes: Mapping[str, tuple[int, list[str | int]]] = {
        "input_ids": (TensorProto.INT64, ["batch", "tokens"]),
        "hidden": (TensorProto.FLOAT, ["batch", "tokens", sizes.width]),
    }
    ids, hidden = (helper.make_tensor_value_info(name, *shape) for name, shape in shapes.items())
    graph = helper.make_graph(writer.nodes, "encoder", [ids], [hidden], writer.stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    (folder / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))


def _embedded(writer: Writer, sizes: Sizes) -> str:
    words = writer.weight("words", sizes.vocabulary, sizes.width, spread=1.0)
    table = writer.weight("positions", sizes.positions, sizes.width, spread=0.1)
    word = writer.op("Gather", words, "input_ids", name="word")
    length = writer.op("Shape", "input_ids", name="length", start=1, end=2)
    first = (writer.integers("zero", 0), length, writer.integers("rows", 0))
    place = writer.op("Slice", table, *first, name="place")
    return writer.op("Add", word, place, name="embedded")


def _layer(writer: Writer, value: str, name: str, sizes: Sizes) -> str:
    seen = writer.norm(value, f"{name}.norm1", sizes.width)
    mixed = _attention(writer, seen, f"{name}.attention", sizes)
    value = writer.op("Add", value, mixed, name=f"{name}.first")
    seen = writer.norm(value, f"{name}.norm2", sizes.width)
    wide = writer.linear(seen, f"{name}.wide", sizes.width, 4 * sizes.width)
    active = writer.op("Gelu", wide, name=f"{name}.active")
    narrow = writer.linear(active, f"{name}.narrow", 4 * sizes.width, sizes.width)
    return writer.op("Add", value, narrow, name=f"{name}.second")


def _attention(writer: Writer, seen: str, name: str, sizes: Sizes) -> str:
    apart = writer.integers(f"{name}.apart", 0, 0, sizes.heads, HEAD_WIDTH)
    whole = writer.integers(f"{name}.whole", 0, 0, sizes.width)
    orders = {"query": [0, 2, 1, 3], "key": [0, 2, 3, 1], "value": [0, 2, 1, 3]}
    heads: list[str] = []
    for part, order in orders.items():
        flat = writer.linear(seen, f"{name}.{part}", sizes.width, sizes.width)
        split = writer.op("Reshape", flat, apart, name=f"{name}.{part}.split")
        heads.append(writer.op("Transpose", split, name=f"{name}.{part}.heads", perm=order))
    scores = writer.op("MatMul", heads[0], heads[1], name=f"{name}.scores")
    scale = writer.weight(f"{name}.scale", around=HEAD_WIDTH**-0.5)
    scaled = writer.op("Mul", scores, scale, name=f"{name}.scaled")
    shares = writer.op("Softmax", scaled, name=f"{name}.shares", axis=-1)
    mixed = writer.op("MatMul", shares, heads[2], name=f"{name}.mixed")
    back = writer.op("Transpose", mixed, name=f"{name}.back", perm=[0, 2, 1, 3])
    joined = writer.op("Reshape", back, whole, name=f"{name}.joined")
    return writer.linear(joined, f"{name}.out", sizes.width, sizes.width)
