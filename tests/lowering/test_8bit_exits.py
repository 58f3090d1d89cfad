"""What crosses an exit in 8 bits stays so, and runtimes fuse behind the exit what they fuse before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest

from adapass.execution import Session
from adapass.lowering.branches import lower_to_if
from adapass.lowering.masked import lower_to_masked
from adapass.lowering.stages import lower_to_stages
from adapass.lowering.wiring import run_stages
from adapass.ops import EXIT_INDEX, EXIT_THRESHOLDS
from tests.lowering.drafts import CLASSES, WIDTH, Draft

STEP = 0.05
"""Of every 8-bit value."""


def images(exits: int) -> ir.Model:
    """Residual convolutions in 8 bits [B, C, 6, 6]; heads and later parts read the restored values."""
    draft = Draft(f"float[B, {WIDTH}, 6, 6] image")
    draft.weights |= {
        "step": np.array(STEP, np.float32),
        "small_step": np.array(0.02, np.float32),
        "middle": np.array(128, np.uint8),
        "zero_8": np.array(0, np.int8),
    }
    draft.weights["axes"] = np.array([2, 3], np.int64)
    draft.body = "q = QuantizeLinear(image, step, middle)\nx = DequantizeLinear(q, step, middle)\n"
    for k in range(exits + 1):
        draft.weights[f"w8_{k}"] = np.floor_divide(draft.integers(WIDTH, WIDTH, 3, 3), 4, dtype=np.int8)
        draft.body += f"""
        w_{k} = DequantizeLinear(w8_{k}, small_step, zero_8)
        conv_{k} = Conv<pads = [1, 1, 1, 1]>({draft.state}, w_{k})
        cq_{k} = QuantizeLinear(conv_{k}, step, middle)
        cd_{k} = DequantizeLinear(cq_{k}, step, middle)
        sum_{k} = Add({draft.state}, cd_{k})
        q_{k} = QuantizeLinear(sum_{k}, step, middle)
        x_{k} = DequantizeLinear(q_{k}, step, middle)
        pooled_{k} = ReduceMean<keepdims = 0>(x_{k}, axes)
        """
        draft.state = f"x_{k}"
        if k < exits:
            draft.head(k, f"pooled_{k}")
            draft.body += f"logits_taken_{k} = Identity(head_{k})\n"
    draft.weight("wo", WIDTH, CLASSES)
    draft.body += f"original = MatMul(pooled_{exits}, wo)\n"
    draft.select(exits, {"logits": "original"})
    return draft.finish(exits)


@pytest.fixture(scope="module")
def model() -> ir.Model:
    return images(2)


def nodes(graph: onnx.GraphProto, level: int = 0) -> Iterator[tuple[int, onnx.NodeProto]]:
    for node in graph.node:
        yield level, node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from nodes(attribute.g, level + 1)


def test_only_8bit_values_are_gathered(model: ir.Model) -> None:
    lowered = lower_to_if(model)
    gathered = [
        value
        for node in lowered.graph.all_nodes()
        if node.op_type == "Gather" and (value := node.inputs[0]) is not None
        if value.shape is not None and len(value.shape) == 4
    ]

    assert [value.dtype for value in gathered] == [ir.DataType.UINT8] * 2


def test_stages_hand_on_8bit_values(model: ir.Model) -> None:
    stages = lower_to_stages(model).models
    images_in = [
        v for stage in stages[1:] for v in stage.graph.inputs if v.shape is not None and len(v.shape) == 4
    ]

    assert [value.dtype for value in images_in] == [ir.DataType.UINT8] * 2


def test_behind_an_exit_all_is_fused_and_nothing_transposed(model: ir.Model, tmp_path: Path) -> None:
    ort: Any = import_module("onnxruntime")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(ir.to_proto(lower_to_if(model)).SerializeToString(), options)
    found = Counter(
        (level, node.op_type)
        for level, node in nodes(onnx.ModelProto.FromString((tmp_path / "optimized.onnx").read_bytes()).graph)
    )

    assert found[1, "QLinearConv"] == found[2, "QLinearConv"] == 1
    assert found[1, "QLinearAdd"] == found[2, "QLinearAdd"] == 1
    # One for the rows to scatter to, one at most in front of the head.
    assert max(found[1, "Transpose"], found[2, "Transpose"]) <= 2
    assert not any(op in ("Conv", "Add") for _, op in found)


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_results_are_those_of_the_definition(model: ir.Model, batch: int, share: float) -> None:
    rng = np.random.default_rng(batch)
    feeds: dict[str, npt.NDArray[np.generic]] = {
        "image": rng.standard_normal((batch, WIDTH, 6, 6)).astype(np.float32)
    }
    certain = Session(model, outputs=["prob_0", "prob_1"]).run(
        {**feeds, EXIT_THRESHOLDS: np.zeros(2, np.float32)}
    )
    limits = [np.quantile(certain[name].astype(np.float64), 1 - share) for name in ("prob_0", "prob_1")]
    nobody = np.full(2, np.inf) if share == 0.0 else np.asarray(limits) - 1e-4
    feeds[EXIT_THRESHOLDS] = nobody.astype(np.float32)
    expected = Session(lower_to_masked(model), optimize=False).run(feeds)

    stages = lower_to_stages(model)
    runners = [
        Session(stage, outputs=part.outputs)
        for stage, part in zip(stages.models, stages.wiring.stages, strict=True)
    ]
    staged = run_stages(
        stages.wiring,
        [lambda _, given, own=own: list(own.run(given).values()) for own in runners],
        feeds,
        batch,
    ).outputs
    for found in (Session(lower_to_if(model)).run(feeds), staged):
        np.testing.assert_array_equal(found[EXIT_INDEX], expected[EXIT_INDEX])
        # An 8-bit step more or less where a sum falls between two.
        difference = found["logits"].astype(np.float64) - expected["logits"].astype(np.float64)
        assert np.abs(difference).max() <= 4 * STEP
