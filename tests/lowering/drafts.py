"""Models with exits in the making: text and weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.graph.shapes import infer_shapes
from adapass.ops import EXIT_SELECT, EXIT_THRESHOLDS, add_function

Array = npt.NDArray[np.generic]
WIDTH, CLASSES = 8, 3


@dataclass
class Draft:
    """A model in the making: its text, and what its initializers hold."""

    inputs: str
    outputs: str = f"float[B, {CLASSES}] logits"
    body: str = ""
    state: str = "x"
    weights: dict[str, Array] = field(default_factory=dict[str, Array])

    def __post_init__(self) -> None:
        for name, number in (("minus_1", -1), ("one", 1), ("two", 2), ("four", 4)):
            self.weights[name] = np.array([number], np.int64)
        self.weights["zero"] = np.array(0, np.int64)
        self._rng = np.random.default_rng(7)

    def weight(self, name: str, *shape: int) -> None:
        self.weights[name] = (self._rng.standard_normal(shape) * 0.5).astype(np.float32)

    def integers(self, *shape: int) -> npt.NDArray[np.int8]:
        return self._rng.integers(-99, 99, shape).astype(np.int8)

    def block(self, k: int) -> None:
        """X + W gelu(V x + b)"""
        self.weight(f"v_{k}", WIDTH, 4 * WIDTH)
        self.weight(f"b_{k}", 4 * WIDTH)
        self.weight(f"w_{k}", 4 * WIDTH, WIDTH)
        self.body += f"""
        up_{k} = MatMul({self.state}, v_{k})
        bias_{k} = Add(up_{k}, b_{k})
        act_{k} = Gelu(bias_{k})
        down_{k} = MatMul(act_{k}, w_{k})
        x_{k} = Add({self.state}, down_{k})
        """
        self.state = f"x_{k}"

    def head(self, k: int, feature: str, confidence: str = "prob_{k}") -> None:
        """Logits and stop of exit ``k`` from ``feature`` [B, WIDTH], by the largest probability."""
        self.weight(f"wh_{k}", WIDTH, CLASSES)
        self.weights[f"exit_{k}"] = np.array(k, np.int64)
        self.body += f"""
        head_{k} = MatMul({feature}, wh_{k})
        soft_{k} = Softmax<axis = -1>(head_{k})
        prob_{k} = ReduceMax<keepdims = 0>(soft_{k}, one)
        limit_{k} = Gather({EXIT_THRESHOLDS}, exit_{k})
        stop_{k} = GreaterOrEqual({confidence.format(k=k)}, limit_{k})
        """

    def select(self, exits: int, results: Mapping[str, str]) -> None:
        """The selects: ``results`` maps an output to its original value; taken values are OUTPUT_taken_K."""
        self.weights[f"exit_{exits}"] = np.array(exits, np.int64)
        chains = [(out, f"{out}_taken_{{k}}", rest) for out, rest in results.items()]
        for out, taken, rest in [*chains, ("adapass_exit", "exit_{k}", f"exit_{exits}")]:
            for k in reversed(range(exits)):
                name = out if k == 0 else f"{out}_select_{k}"
                self.body += f"{name} = adapass.ExitSelect(stop_{k}, {taken.format(k=k)}, {rest})\n"
                rest = name

    def finish(self, exits: int) -> ir.Model:
        if exits:
            self.inputs += f", float[{exits}] {EXIT_THRESHOLDS}"
            self.outputs += ", int64[B] adapass_exit"
            self.weights[EXIT_THRESHOLDS] = np.full(exits, np.inf, np.float32)
        declared = [
            f"{_type(array)} {name}" for name, array in self.weights.items() if name not in self.inputs
        ]
        header = '<ir_version: 10, opset_import: ["" : 20, "adapass" : 1]>'
        inputs = ", ".join([self.inputs, *declared])
        model = ir.from_onnx_text(f"{header}\ng ({inputs}) => ({self.outputs}) {{{self.body}}}")
        for name, array in self.weights.items():
            _give(model.graph, name, array)
        if exits:
            add_function(model, EXIT_SELECT)
        infer_shapes(model)
        return model


def _type(array: Array) -> str:
    kind = {"float32": "float", "int64": "int64", "int8": "int8", "uint8": "uint8"}[array.dtype.name]
    return f"{kind}[{', '.join(map(str, array.shape))}]" if array.ndim else kind


def _give(graph: ir.Graph, name: str, array: Array) -> None:
    value = next(each for each in graph.inputs if each.name == name)
    if name != EXIT_THRESHOLDS:
        graph.inputs.remove(value)
    value.const_value = ir.tensor(array, name=name)
    graph.register_initializer(value)
