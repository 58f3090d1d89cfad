"""Random small networks: perceptrons, convolutional, depthwise and residual ones, and attention blocks.

Small is where optimizers lose: conversions cost more than the product they speed up. Widths, depths, sizes
and activations are drawn from the seed, so that odd ones are among them. Weights are random but kept at unit
gain, inputs are drawn around class centres, and the labels are the network's own answers: any change of an
answer counts as lost quality.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from adapass.budgeted import Array

CLASSES = 5
KINDS = ("perceptron", "convolutional", "depthwise", "residual", "attention")
Floats = npt.NDArray[np.float32]


@dataclass
class _Draft:
    """Nodes and weights in the order they are added; the last value is what the next layer reads."""

    rng: np.random.Generator
    last: str = "x"
    nodes: list[onnx.NodeProto] = field(default_factory=list[onnx.NodeProto])
    stored: list[onnx.TensorProto] = field(default_factory=list[onnx.TensorProto])

    def store(self, array: Array) -> str:
        name = f"w{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int, fan_in: int) -> str:
        scale = np.sqrt(2.0 / fan_in) * np.exp(
            0.5 * self.rng.standard_normal((shape[0], *[1] * (len(shape) - 1)))
        )
        return self.store((self.rng.standard_normal(shape) * scale).astype(np.float32))

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        self.last = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [self.last], **attributes))
        return self.last


def random_model(seed: int) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """A network of kind ``KINDS[seed % 5]`` and the shape of one input, without the batch."""
    rng = np.random.default_rng(seed)
    draft, kind = _Draft(rng), KINDS[seed % len(KINDS)]
    makers = {
        "perceptron": _perceptron,
        "convolutional": _convolutional,
        "depthwise": _depthwise,
        "residual": _residual,
        "attention": _attention,
    }
    shape, width = makers[kind](draft)
    logits = draft.add("Gemm", draft.last, draft.weight(width, CLASSES, fan_in=width))
    graph = helper.make_graph(
        draft.nodes,
        f"{kind}_{seed}",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["batch", CLASSES])],
        draft.stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    cast("Any", onnx.checker).check_model(model, full_check=True)
    return model, shape


def random_inputs(shape: Sequence[int], count: int, seed: int) -> Floats:
    """Inputs around one centre a class, [count, *shape]."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((CLASSES, *shape))
    noise = rng.standard_normal((count, *shape))
    return (centres[rng.integers(CLASSES, size=count)] + 0.7 * noise).astype(np.float32)


def _activation(draft: _Draft) -> None:
    draft.add(str(draft.rng.choice(["Relu", "Relu", "Gelu", "Sigmoid", "LeakyRelu"])), draft.last)


def _perceptron(draft: _Draft) -> tuple[tuple[int, ...], int]:
    first = width = int(draft.rng.integers(8, 257))
    for _ in range(int(draft.rng.integers(1, 6))):
        new = int(draft.rng.integers(8, 513))
        draft.add("Gemm", draft.last, draft.weight(width, new, fan_in=width), draft.weight(new, fan_in=new))
        _activation(draft)
        width = new
    return (first,), width


def _image(draft: _Draft) -> tuple[int, int]:
    return int(draft.rng.choice([1, 3])), int(draft.rng.choice([8, 16, 28, 32]))


def _conv(
    draft: _Draft, inputs: int, outputs: int, *, stride: int = 1, groups: int = 1, size: int = 3
) -> None:
    kernel = draft.weight(outputs, inputs // groups, size, size, fan_in=inputs // groups * size * size)
    pads = [size // 2] * 4
    draft.add(
        "Conv",
        draft.last,
        kernel,
        kernel_shape=[size, size],
        pads=pads,
        strides=[stride, stride],
        group=groups,
    )


def _pooled(draft: _Draft) -> None:
    draft.add("Flatten", draft.add("GlobalAveragePool", draft.last))


def _convolutional(draft: _Draft) -> tuple[tuple[int, ...], int]:
    inputs, size = _image(draft)
    width = inputs
    for index in range(int(draft.rng.integers(2, 6))):
        new = int(draft.rng.integers(4, 65))
        _conv(draft, width, new, stride=1 + index % 2)
        _activation(draft)
        width = new
    _pooled(draft)
    return (inputs, size, size), width


def _depthwise(draft: _Draft) -> tuple[tuple[int, ...], int]:
    inputs, size = _image(draft)
    width = int(draft.rng.integers(8, 49))
    _conv(draft, inputs, width, stride=2)
    for _ in range(int(draft.rng.integers(1, 5))):
        _conv(draft, width, width, groups=width)
        draft.add("Relu", draft.last)
        new = int(draft.rng.integers(8, 97))
        _conv(draft, width, new, size=1)
        draft.add("Relu", draft.last)
        width = new
    _pooled(draft)
    return (inputs, size, size), width


def _residual(draft: _Draft) -> tuple[tuple[int, ...], int]:
    inputs, size = _image(draft)
    width = int(draft.rng.integers(8, 49))
    _conv(draft, inputs, width)
    for _ in range(int(draft.rng.integers(1, 5))):
        shortcut = draft.last
        _conv(draft, width, width)
        draft.add("Relu", draft.last)
        _conv(draft, width, width)
        draft.add("Relu", draft.add("Add", draft.last, shortcut))
    _pooled(draft)
    return (inputs, size, size), width


def _attention(draft: _Draft) -> tuple[tuple[int, ...], int]:
    heads, each = int(draft.rng.choice([1, 2, 4])), int(draft.rng.choice([8, 16, 32]))
    length, width = int(draft.rng.integers(4, 49)), heads * each
    split = draft.store(np.array([0, 0, heads, each], np.int64))
    joined = draft.store(np.array([0, 0, width], np.int64))
    for _ in range(int(draft.rng.integers(1, 4))):
        before = draft.last
        normed = _norm(draft, width)
        query, key, value = (
            _heads(draft, normed, width, split, last=role == "key") for role in ("query", "key", "value")
        )
        scores = draft.add(
            "Mul", draft.add("MatMul", query, key), draft.store(np.array(each**-0.5, np.float32))
        )
        mixed = draft.add("MatMul", draft.add("Softmax", scores, axis=-1), value)
        flat = draft.add("Reshape", draft.add("Transpose", mixed, perm=[0, 2, 1, 3]), joined)
        middle = draft.add("Add", before, draft.add("MatMul", flat, draft.weight(width, width, fan_in=width)))
        hidden = draft.add("MatMul", _norm(draft, width), draft.weight(width, 4 * width, fan_in=width))
        narrow = draft.add(
            "MatMul", draft.add("Gelu", hidden), draft.weight(4 * width, width, fan_in=4 * width)
        )
        draft.add("Add", middle, narrow)
    axes = draft.store(np.array([1], np.int64))
    draft.add("ReduceMean", draft.last, axes, keepdims=0)
    return (length, width), width


def _norm(draft: _Draft, width: int) -> str:
    gain, shift = draft.store(np.ones(width, np.float32)), draft.store(np.zeros(width, np.float32))
    return draft.add("LayerNormalization", draft.last, gain, shift, axis=-1)


def _heads(draft: _Draft, source: str, width: int, split: str, *, last: bool) -> str:
    product = draft.add("MatMul", source, draft.weight(width, width, fan_in=width))
    parted = draft.add("Reshape", product, split)
    return draft.add("Transpose", parted, perm=[0, 2, 3, 1] if last else [0, 2, 1, 3])
