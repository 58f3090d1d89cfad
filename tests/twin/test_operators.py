"""Operators of the twin: ONNX Runtime's numbers on onnx's own node models, and gradients that are slopes."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from adapass.errors import ModelError
from adapass.graph.load import from_proto

torch: Any = pytest.importorskip("torch", reason="torch is an extra")

from adapass.twin.build import build_twin  # noqa: E402
from adapass.twin.operators import (  # noqa: E402
    attention,
    convolutions,
    elementwise,
    images,
    indexing,
    normalisation,
    pools,
    products,
    quantization,
    recurrent,
    reductions,
    shapes,
)
from adapass.twin.registry import FAMILIES, REGISTRY  # noqa: E402

EVERY = 1 if os.environ.get("ADAPASS_ALL_NODE_MODELS") else 15
"""All of the 1,900 node models take a minute; by default every fifteenth is checked."""
TOLERANCE = {"float16": 2e-3, "bfloat16": 2e-2}
CHECKED_AT_LEAST = 90 if EVERY == 15 else 1450


@cache
def node_models() -> ModuleType:
    path = Path(__file__).parents[1] / "contracts" / "node_models.py"
    spec = importlib.util.spec_from_file_location("twin_node_models", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["twin_node_models"] = module
    spec.loader.exec_module(module)
    return module


def test_node_models_give_the_numbers_of_onnx_runtime() -> None:
    wrong: list[str] = []
    checked = 0
    for case in sorted(node_models().cases(), key=lambda case: case.name)[::EVERY]:
        try:
            model = from_proto(case.model, origin=case.name)
            twin = build_twin(model)
        except ModelError:
            continue  # said to be untranslatable
        checked += 1
        expected = reference(case)
        for (inputs, declared), outputs in zip(case.data_sets, expected, strict=True):
            feeds = {v.name or "": array_of(x) for v, x in zip(model.graph.inputs, inputs, strict=False)}
            try:
                found = twin.run(feeds).values()
            except ModelError as error:
                assert "drops at random" in str(error)  # dropout of training  # noqa: PT017
                continue
            # Where ONNX's reference and ONNX Runtime differ, either will do.
            for name, found_, runtime, ideal in zip(twin.outputs, found, outputs, declared, strict=True):
                if not (agrees(found_, array_of(runtime)) or agrees(found_, array_of(ideal))):
                    wrong.append(f"{case.name}: {name}")
    assert not wrong
    assert checked >= CHECKED_AT_LEAST


def reference(case: Any) -> list[Any]:
    try:
        result: list[Any] = node_models().run(case.model.SerializeToString(), case.data_sets)
    except Exception:  # noqa: BLE001, RUF100  (ONNX Runtime lacks some operators, in its own ways)
        return [outputs for _, outputs in case.data_sets]
    return result


def array_of(x: Any) -> Any:
    return numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else np.asarray(x)


def agrees(found: Any, wanted: Any) -> bool:
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return False
    if found.dtype.kind in "biu":
        return bool(np.array_equal(found, wanted))
    bound = TOLERANCE.get(str(wanted.dtype), 1e-5)
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return False
    largest = np.abs(b[finite]).max(initial=0.0)
    return bool((np.abs(a[finite] - b[finite]) <= bound * (np.abs(b[finite]) + largest)).all())


def test_no_operator_has_two_translations() -> None:
    assert sum(len(family) for family in FAMILIES) == len(REGISTRY)


def double(*shape: int, seed: int = 0, low: float = -2.0) -> Any:
    values = np.random.default_rng([seed, *shape]).uniform(low, 2.0, shape)
    return torch.from_numpy(values).requires_grad_()


POSITIVE = 0.3
Case: TypeAlias = tuple[Any, Any, Any]
"""What computes, what is differentiated, and the attributes."""


def largest_two(x: Any) -> Any:
    return indexing.top_k(x, torch.tensor([2]))[0]


whole: Callable[..., Any] = torch.tensor
SMOOTH: Mapping[str, Case] = {
    "conv, strided, padded, grouped": (
        convolutions.convolve,
        (double(2, 4, 5, 6), double(6, 2, 3, 3), double(6)),
        {"strides": (2, 1), "pads": (1, 0, 1, 2), "group": 2},
    ),
    "transposed conv": (
        convolutions.convolve_transposed,
        (double(1, 2, 3, 4), double(2, 3, 3, 3), double(3)),
        {"strides": (2, 2), "pads": (1, 1, 0, 1), "output_padding": (1, 0)},
    ),
    "gemm": (
        products.gemm,
        (double(3, 2), double(4, 3), double(4)),
        {"transA": 1, "transB": 1, "alpha": 0.5},
    ),
    "layer norm": (normalisation.layer_norm, (double(2, 3, 4), double(4), double(4)), {"stash_type": 11}),
    "layer norm over two axes": (
        normalisation.layer_norm,
        (double(2, 3, 4), double(3, 4)),
        {"axis": 1, "stash_type": 11},
    ),
    "RMS norm": (normalisation.rms_norm, (double(2, 5), double(5)), {"stash_type": 11}),
    "group norm": (
        normalisation.group_norm,
        (double(2, 4, 3), double(4), double(4)),
        {"num_groups": 2, "stash_type": 11},
    ),
    "batch norm": (
        normalisation.batch_norm,
        (
            double(2, 3, 4),
            double(3),
            double(3),
            torch.tensor([0.1, 0.2, 0.3]).double(),
            torch.tensor([1.0, 2.0, 3.0]).double(),
        ),
        {},
    ),
    "local response": (normalisation.local_response, (double(1, 5, 3),), {"size": 3, "alpha": 0.5}),
    "softmax of opset 11": (normalisation.softmax, (double(2, 3, 2),), {"axis": 1, "opset": 11}),
    "gelu": (elementwise.gelu, (double(7),), {}),
    "gelu by tanh": (elementwise.gelu, (double(7),), {"approximate": "tanh"}),
    "softplus": (elementwise.softplus, (double(7),), {}),
    "power": (elementwise.power, (double(4, low=POSITIVE), whole(3.0)), {}),
    "average pool": (
        pools.average_pool,
        (double(1, 2, 5, 5),),
        {"kernel_shape": (3, 2), "pads": (1, 0, 1, 1), "strides": (2, 2), "ceil_mode": 1},
    ),
    "max pool": (pools.max_pool, (double(1, 2, 5, 5),), {"kernel_shape": (2, 2), "pads": (0, 1, 1, 0)}),
    "norm pool": (pools.norm_pool, (double(1, 2, 6),), {"kernel_shape": (3,), "strides": (2,)}),
    "norm over axes": (reductions.OPERATORS["ReduceL2"], (double(2, 3, 4),), {"axes": (0, 2)}),
    "log sum exp": (reductions.OPERATORS["ReduceLogSumExp"], (double(2, 3), whole([1])), {}),
    "product over": (reductions.OPERATORS["ReduceProd"], (double(2, 3),), {"axes": (1,)}),
    "gather": (indexing.gather, (double(4, 3), whole([[0, -1], [2, 0]])), {"axis": 1}),
    "gather nd": (indexing.gather_nd, (double(2, 3, 4), whole([[1, 2], [0, 0]])), {}),
    "scatter nd, adding": (
        indexing.scatter_nd,
        (double(4, 3), whole([[1], [1], [3]]), double(3, 3, seed=1)),
        {"reduction": "add"},
    ),
    "top k": (largest_two, (double(3, 5),), {}),
    "cumulative sum": (indexing.cumulative_sum, (double(3, 4), whole(1)), {"exclusive": 1, "reverse": 1}),
    "reflected padding": (shapes.pad, (double(2, 4), whole([0, 2, 0, 1])), {"mode": "reflect"}),
    "slice backwards": (
        shapes.slice_,
        (double(5, 4), whole([4, 0]), whole([-9, 4]), whole([0, 1]), whole([-2, 3])),
        {},
    ),
    "cubic resize": (
        images.resize,
        (double(1, 1, 4, 4), None, torch.tensor([1.0, 1.0, 1.5, 0.75])),
        {"mode": "cubic", "antialias": 1},
    ),
    "attention with groups and a mask": (
        attention.attention,
        (double(1, 4, 3, 2), double(1, 2, 5, 2), double(1, 2, 5, 2), double(3, 5)),
        {"is_causal": 1, "softcap": 2.0},
    ),
    "rotary embedding": (
        attention.rotary_embedding,
        (double(1, 2, 3, 4), double(3, 2)[None], double(3, 2, seed=2)[None]),
        {"interleaved": 1},
    ),
    "LSTM both ways": (
        recurrent.lstm,
        (double(3, 2, 2), double(2, 8, 2), double(2, 8, 2), double(2, 16), whole([3, 2])),
        {"hidden_size": 2, "direction": "bidirectional"},
    ),
    "GRU": (
        recurrent.gru,
        (double(3, 2, 2), double(1, 6, 2), double(1, 6, 2), double(1, 12)),
        {"hidden_size": 2, "linear_before_reset": 1},
    ),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_are_the_slopes(name: str) -> None:
    compute, inputs, settings = SMOOTH[name]

    def settled(*given: Any) -> Any:
        return compute(*given, **settings)

    assert torch.autograd.gradcheck(settled, inputs)


def test_rounding_lets_gradients_pass_and_keeps_the_numbers() -> None:
    x = torch.tensor([0.26, -3.0, 0.9], requires_grad=True)
    scale, zero = torch.tensor(0.1), torch.tensor(3, dtype=torch.int8)

    back = quantization.dequantize(quantization.quantize(x, scale, zero), scale, zero)
    back.sum().backward()

    plain = quantization.dequantize(quantization.quantize(x.detach(), scale, zero), scale, zero)
    assert torch.allclose(back.detach(), plain)
    assert x.grad.tolist() == pytest.approx([1.0, 1.0, 1.0])


def test_what_is_clipped_has_no_gradient() -> None:
    x = torch.tensor([50.0, 1.0], requires_grad=True)

    quantization.dequantize(quantization.quantize(x, torch.tensor(0.1)), torch.tensor(0.1)).sum().backward()

    assert x.grad.tolist() == pytest.approx([0.0, 1.0])
