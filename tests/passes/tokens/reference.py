"""What the token operators mean, sample by sample in NumPy, and single nodes of them to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.execution import Session
from adapass.ops import DOMAIN, add_function

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float32]


def assert_close(found: Array, expected: Array, *, rtol: float, atol: float, what: str = "") -> None:
    """Compare as floats."""
    np.testing.assert_allclose(
        found.astype(np.float64), expected.astype(np.float64), rtol=rtol, atol=atol, err_msg=what
    )


def run_node(
    name: str, inputs: Mapping[str, Array], outputs: Sequence[str], opset: int = 20
) -> dict[str, Array]:
    """The outputs of one adaptive node on ``inputs``, in their order, every dimension unknown in advance."""
    graph_inputs = [
        ir.Value(
            name=key,
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            shape=ir.Shape([f"{key}_{axis}" for axis in range(array.ndim)]),
        )
        for key, array in inputs.items()
    ]
    node = ir.node(name, graph_inputs, domain=DOMAIN, num_outputs=len(outputs))
    for value, output in zip(node.outputs, outputs, strict=True):
        value.name = output
    types = {"kept": ir.DataType.INT64, "valid": ir.DataType.BOOL}
    for value in node.outputs:
        value.type = ir.TensorType(types.get(value.name or "", ir.DataType.FLOAT))
    graph = ir.Graph(graph_inputs, node.outputs, nodes=[node], opset_imports={"": opset}, name="one")
    model = ir.Model(graph, ir_version=10)
    add_function(model, name)
    return Session(model).run(dict(inputs))


def best_tokens(score: Floats, count: int) -> list[int]:
    """Positions of the ``count`` highest of one sample's scores, best first, ties to the lower position."""
    return sorted(range(len(score)), key=lambda place: (-float(score[place]), place))[:count]


def merged(
    x: Floats, key: Floats, size: Floats, kept: Sequence[int], takes: Sequence[bool]
) -> tuple[Floats, Floats]:
    """One sample: the size-weighted means in the places ``kept``, and their sizes."""
    length = np.linalg.norm(key, axis=1, keepdims=True)
    direction = key / np.where(length == 0, 1, length)
    members: list[list[int]] = [[position] for position in kept]
    for position in range(len(x)):
        if position in kept or not any(takes):
            continue
        cosines = [
            float(direction[position] @ direction[place]) if takes[index] else -2.0
            for index, place in enumerate(kept)
        ]
        members[int(np.argmax(cosines))].append(position)
    totals = np.array([size[group].sum() for group in members], np.float32)
    means = [
        (x[group] * size[group, None]).sum(0) / (total or 1.0)
        for group, total in zip(members, totals, strict=True)
    ]
    return np.array(means, np.float32), totals
