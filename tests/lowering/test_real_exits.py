"""Exits in a real transformer: all lowerings agree on real sentences of several lengths and batch sizes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from adapass.codegen.onnxruntime.generator import OnnxRuntime
from adapass.execution import Session
from adapass.graph.load import load_model
from adapass.graph.shapes import infer_shapes
from adapass.ops import EXIT_INDEX, EXIT_SELECT, EXIT_THRESHOLDS, add_function
from adapass.target import load_target

Array = npt.NDArray[np.generic]
SHARED = Path(os.environ.get("ADAPASS_SHARED", Path(__file__).parents[2].parent / "shared"))
MODEL, DATA = SHARED / "models" / "minilm-sst2.onnx", SHARED / "data" / "sst2_eval.npz"
TOLERANCE = 2e-5

pytestmark = [
    pytest.mark.real_models,
    pytest.mark.skipif(not MODEL.is_file(), reason=f"{MODEL} is not here"),
]


@pytest.fixture(scope="module")
def model() -> ir.Model:
    """Two invented heads, on the class token behind the second and the fourth block."""
    model = load_model(MODEL)
    graph = model.graph
    norms = [node.outputs[0] for node in graph if node.op_type == "LayerNormalization"]
    logits = graph.outputs[0]
    limits = _initializer(graph, EXIT_THRESHOLDS, np.full(2, np.inf, np.float32))
    graph.inputs.append(limits)
    add_function(model, EXIT_SELECT)
    heads = [_head(graph, index, norms[depth], limits) for index, depth in enumerate((4, 8))]
    chosen, index = logits, _initializer(graph, "index_2", np.array(2))
    for (stop, head), own in zip(reversed(heads), (1, 0), strict=True):
        chosen = _add(graph, "ExitSelect", [stop, head, chosen], domain="adapass")
        number = _initializer(graph, f"index_{own}", np.array(own))
        index = _add(graph, "ExitSelect", [stop, number, index], domain="adapass")
    logits.name, chosen.name, index.name = "original", logits.name, EXIT_INDEX
    chosen.type, chosen.shape = logits.type, logits.shape
    index.type, index.shape = (
        ir.TensorType(ir.DataType.INT64),
        ir.Shape([logits.shape[0] if logits.shape else None]),
    )
    graph.outputs[:] = [chosen, index]
    infer_shapes(model)
    return model


@pytest.fixture(scope="module")
def samples() -> dict[str, Array]:
    with np.load(DATA, allow_pickle=False) as data:
        return {
            name: data[name][:48].astype(np.int64)
            for name in ("input_ids", "attention_mask", "token_type_ids")
        }


@pytest.fixture(scope="module")
def definition(model: ir.Model) -> Session:
    """Also returns how certain the heads are."""
    names = ["logits", EXIT_INDEX, "confidence_0", "confidence_1"]
    return Session(model, outputs=names, optimize=True)


@pytest.mark.parametrize("lowering", ["if", "staged"])
def test_lowerings_agree_with_the_definition(
    model: ir.Model, definition: Session, samples: dict[str, Array], lowering: str, tmp_path: Path
) -> None:
    limits = _limits(definition, samples)
    backend = OnnxRuntime()
    backend.build(model, load_target("x86-64-generic"), tmp_path, {"lowering": lowering})
    runner = backend.load(tmp_path, threads=1)
    taken: set[int] = set()

    for rows in (slice(0, 1), slice(1, 3), slice(3, 10), slice(0, 32)):
        feeds = _batch(samples, rows) | {EXIT_THRESHOLDS: limits}
        expected = definition.run(feeds)
        found = runner.run(feeds)

        assert found.exits is not None
        assert found.exits.tolist() == expected[EXIT_INDEX].tolist()
        pair = (found.outputs["logits"].astype(np.float64), expected["logits"].astype(np.float64))
        np.testing.assert_allclose(*pair, atol=TOLERANCE, rtol=0)
        taken.update(found.exits.tolist())
    assert taken == {0, 1, 2}


def _batch(samples: dict[str, Array], rows: slice) -> dict[str, Array]:
    """Padding is cut to the longest sentence."""
    length = int(samples["attention_mask"][rows].sum(1).max())
    return {name: array[rows, :length] for name, array in samples.items()}


def _limits(definition: Session, samples: dict[str, Array]) -> Array:
    found = definition.run(samples)
    ordered = [np.sort(found[f"confidence_{index}"].astype(np.float32)) for index in range(2)]
    return np.array([(each[31] + each[32]) / 2 for each in ordered], np.float32)


def _head(graph: ir.Graph, index: int, hidden: ir.Value, limits: ir.Value) -> tuple[ir.Value, ir.Value]:
    weight = np.random.default_rng(index).standard_normal((384, 2)).astype(np.float32) * 0.1
    first = _add(graph, "Gather", [hidden, _initializer(graph, f"first_{index}", np.array(0))], {"axis": 1})
    head = _add(graph, "MatMul", [first, _initializer(graph, f"weight_{index}", weight)])
    soft = _add(graph, "Softmax", [head], {"axis": -1})
    axis = _initializer(graph, f"axis_{index}", np.array([1]))
    certain = _add(graph, "ReduceMax", [soft, axis], {"keepdims": 0})
    certain.name = f"confidence_{index}"
    limit = _add(graph, "Gather", [limits, _initializer(graph, f"place_{index}", np.array(index))])
    return _add(graph, "GreaterOrEqual", [certain, limit]), head


def _add(
    graph: ir.Graph,
    op: str,
    inputs: list[ir.Value],
    attributes: dict[str, int] | None = None,
    domain: str = "",
) -> ir.Value:
    node = ir.node(op, inputs, attributes, domain=domain)
    graph.append(node)
    return node.outputs[0]


def _initializer(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor
    )
    graph.register_initializer(value)
    return value
