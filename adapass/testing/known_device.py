"""For tests of predictions: small networks with exits, and a generator whose latencies are known exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.budgeted import Feeds
from adapass.cache import Cache
from adapass.cost.measure import Clock
from adapass.cost.predict import Predictor
from adapass.cost.table import RegionTable
from adapass.generator import Options, Outcome, Runner, Support, Variant
from adapass.graph.edit import constant_array
from adapass.graph.shapes import infer_shapes
from adapass.ops import EXIT_SELECT, EXIT_THRESHOLDS, add_function, read_exits
from adapass.search.stopwatch import Stopwatch
from adapass.target import Target, load_target

WIDTH, CLASSES = 8, 3
CALL, ENTER, NODE, WEIGHT = 5e-6, 20e-6, 1e-6, 1e-8
"""Seconds: a call, a section after an exit, an operation, one weight used for one sample."""


@dataclass(frozen=True)
class Network:
    """A layer, residual blocks ``x + w relu(v x)``, a classifier; exits after the first blocks."""

    hidden: tuple[int, ...]
    exits: int = 0

    def build(self) -> ir.Model:
        random = np.random.default_rng(0)
        weights: dict[str, npt.NDArray[np.generic]] = {}
        weights["stem"] = random.standard_normal((WIDTH, WIDTH)).astype(np.float32)
        body = "stemmed = MatMul(x, stem)\n"
        state = "stemmed"
        for k, hidden in enumerate(self.hidden):
            weights[f"v_{k}"] = random.standard_normal((WIDTH, hidden)).astype(np.float32)
            weights[f"w_{k}"] = random.standard_normal((hidden, WIDTH)).astype(np.float32)
            body += f"u_{k} = MatMul({state}, v_{k})\n a_{k} = Relu(u_{k})\n d_{k} = MatMul(a_{k}, w_{k})\n"
            body += f"s_{k} = Add({state}, d_{k})\n x_{k} = Relu(s_{k})\n"
            state = f"x_{k}"
            body += _head(k, state, weights) if k < self.exits else ""
        weights["last"] = random.standard_normal((WIDTH, CLASSES)).astype(np.float32)
        body += f"{'whole' if self.exits else 'logits'} = MatMul({state}, last)\n"
        return _finish(body + _selects(self.exits, weights), weights, self.exits)


def _head(k: int, state: str, weights: dict[str, npt.NDArray[np.generic]]) -> str:
    weights[f"h_{k}"] = np.ones((WIDTH, CLASSES), np.float32)
    weights[f"exit_{k}"] = np.array(k, np.int64)
    weights["one"] = np.array([1], np.int64)
    return f"""
    said_{k} = MatMul({state}, h_{k})
    sure_{k} = ReduceMax<keepdims = 0>(said_{k}, one)
    limit_{k} = Gather({EXIT_THRESHOLDS}, exit_{k})
    stop_{k} = GreaterOrEqual(sure_{k}, limit_{k})
    """


def _selects(exits: int, weights: dict[str, npt.NDArray[np.generic]]) -> str:
    if not exits:
        return ""
    weights[f"exit_{exits}"] = np.array(exits, np.int64)
    lines = ""
    rest, index = "whole", f"exit_{exits}"
    for k in reversed(range(exits)):
        chosen, number = ("logits", "adapass_exit") if k == 0 else (f"sel_{k}", f"num_{k}")
        lines += f"{chosen} = adapass.ExitSelect(stop_{k}, said_{k}, {rest})\n"
        lines += f"{number} = adapass.ExitSelect(stop_{k}, exit_{k}, {index})\n"
        rest, index = chosen, number
    return lines


def _finish(body: str, weights: dict[str, npt.NDArray[np.generic]], exits: int) -> ir.Model:
    inputs, outputs = f"float[B, {WIDTH}] x", f"float[B, {CLASSES}] logits"
    if exits:
        inputs += f", float[{exits}] {EXIT_THRESHOLDS}"
        outputs += ", int64[B] adapass_exit"
        weights[EXIT_THRESHOLDS] = np.full(exits, np.inf, np.float32)
    types = {name: "float" if array.dtype == np.float32 else "int64" for name, array in weights.items()}
    declared = [
        f"{types[name]}[{','.join(map(str, array.shape))}] {name}" if array.shape else f"{types[name]} {name}"
        for name, array in weights.items()
        if name != EXIT_THRESHOLDS
    ]
    header = '<ir_version: 10, opset_import: ["" : 20, "adapass" : 1]>'
    model = ir.from_onnx_text(f"{header}\nnet ({', '.join([inputs, *declared])}) => ({outputs}) {{{body}}}")
    for value in list(model.graph.inputs):
        if value.name in weights:
            value.const_value = ir.tensor(weights[value.name], name=value.name)
            if value.name != EXIT_THRESHOLDS:
                model.graph.inputs.remove(value)
            model.graph.register_initializer(value)
    if exits:
        add_function(model, EXIT_SELECT)
    infer_shapes(model)
    return model


def cost_of(model: ir.Model, rows: int) -> float:
    """What a call takes on the made-up device: additive, so that sums of pieces must be exact."""
    seconds = CALL + ENTER * len(read_exits(model))
    for node in model.graph:
        if node.domain or node.op_type in ("Constant", "Identity"):
            continue
        array = next((a for v in node.inputs if v is not None and (a := constant_array(v)) is not None), None)
        weights = prod(array.shape) if array is not None and array.ndim == 2 else 0
        seconds += NODE + WEIGHT * weights * rows
    return seconds


@dataclass
class KnownDevice:
    """Builds nothing; runs take ``cost_of`` on a clock of its own."""

    name: ClassVar[str] = "known"
    price: Callable[[ir.Model, int], float] = cost_of
    present: bool = True
    time: float = 0.0
    built: list[ir.Model] = field(default_factory=list[ir.Model])
    options: list[Options] = field(default_factory=list[Options])

    def available(self) -> str | None:
        return None

    def supports(self, model: ir.Model, target: Target) -> Support:
        del model, target
        return Support()

    def variants(self, model: ir.Model, target: Target, *, threads: int, batch: int) -> Sequence[Variant]:
        del target, threads, batch
        lowering = "if" if read_exits(model) else "none"
        return (Variant("only", MappingProxyType({"lowering": lowering})),)

    def build(self, model: ir.Model, target: Target, folder: Path, options: Options) -> None:
        del target
        (folder / "number").write_text(str(len(self.built)))
        self.built.append(model)
        self.options.append(options)

    def load(self, folder: Path, *, threads: int) -> Runner:
        del threads
        return KnownRunner(self, self.built[int((folder / "number").read_text())])

    def device_present(self, target: Target) -> bool:
        del target
        return self.present

    @property
    def clock(self) -> Clock:
        return Clock(
            now=lambda: self.time, sleep=lambda _: None, processor=lambda: self.time, load=lambda: 0.0
        )


@dataclass
class KnownRunner:
    device: KnownDevice
    model: ir.Model

    def run(self, feeds: Feeds) -> Outcome:
        rows = next(array.shape[0] for array in feeds.values() if array.ndim == 2)
        self.device.time += self.device.price(self.model, rows)
        return Outcome({})

    def close(self) -> None:
        pass


def feeds_of(batch: int) -> list[Feeds]:
    return [{"x": np.zeros((batch, WIDTH), np.float32)} for _ in range(2)]


def predictor_on(device: KnownDevice, folder: Path) -> Predictor:
    target = load_target("x86-64-vnni")
    table = RegionTable(Cache(folder), clock=device.clock)
    watch = Stopwatch(device, target, 1, feeds_of(1), table, "machine")
    return Predictor(watch, {"lowering": "none"}, feeds_of=feeds_of)
