"""The light models of the onnx wheel: the classics as first exported, weights left out.

They hold ``ConstantOfShape`` where weights were. Equal weights would hide a channel cut at the wrong
place, so random ones are put there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from adapass.graph.constants import constant_array
from adapass.graph.edit import new_initializer, remove_dead_nodes, replace_uses
from adapass.graph.load import load_model

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def light_models() -> tuple[Path, ...]:
    return tuple(sorted(FOLDER.glob("*.onnx")))


def load_light(file: Path) -> ir.Model:
    """The model with random weights: every one-valued tensor that a layer reads is drawn anew."""
    model = load_model(file)
    random = np.random.default_rng(0)
    for node in list(model.graph):
        if node.op_type == "ConstantOfShape" and (shape := constant_array(node.inputs[0])) is not None:
            _draw(model, node.outputs[0], tuple(int(size) for size in shape), random)
    for value in list(model.graph.initializers.values()):
        array = constant_array(value)
        if array is not None and array.dtype == np.float32 and array.size > 1 and np.ptp(array) == 0:
            _draw(model, value, array.shape, random)
    remove_dead_nodes(model)
    return model


def _draw(model: ir.Model, value: ir.Value, shape: tuple[int, ...], random: np.random.Generator) -> None:
    if len(shape) >= 2:
        array = random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    else:
        array = 0.5 + np.abs(random.standard_normal(shape))  # positive: it may be a variance
    drawn = new_initializer(model.graph, f"{value.name}_drawn", array.astype(np.float32))
    replace_uses(value, drawn)
