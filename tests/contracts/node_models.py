"""The node models of the onnx wheel, in a form ONNX Runtime can be asked to run."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any, cast

import ml_dtypes
import numpy as np
import onnx
from onnx import numpy_helper, shape_inference

checker: Any = import_module("onnx.checker")
ort: Any = import_module("onnxruntime")  # ships no types

NEWEST_IR_VERSION = 13
NEWEST_OPSET = 26
"""What the installed ONNX Runtime reads; newer stamps are lowered where the operators are the same."""
RAW_TYPES = {
    onnx.TensorProto.BFLOAT16: ml_dtypes.bfloat16,
    onnx.TensorProto.FLOAT8E4M3FN: ml_dtypes.float8_e4m3fn,
    onnx.TensorProto.FLOAT8E4M3FNUZ: ml_dtypes.float8_e4m3fnuz,
    onnx.TensorProto.FLOAT8E5M2: ml_dtypes.float8_e5m2,
    onnx.TensorProto.FLOAT8E5M2FNUZ: ml_dtypes.float8_e5m2fnuz,
}
"""Types that ONNX Runtime computes with although NumPy does not know them."""


@cache
def cases() -> tuple[Any, ...]:
    """All node test cases; building them takes seconds, so once a process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_node_model_tests

        found = tuple(load_node_model_tests())
    for case in found:
        assert case.model is not None
        lower_stamps(case.model)
    return found


def lower_stamps(model: onnx.ModelProto) -> None:
    """Stamp ``model`` with versions ONNX Runtime reads, when it is valid under them too.

    The wheel of onnx is ahead of ONNX Runtime: it stamps tests with opsets that are not released.
    """
    model.ir_version = min(model.ir_version, NEWEST_IR_VERSION)
    main = next((opset for opset in model.opset_import if opset.domain == ""), None)
    if main is None or main.version <= NEWEST_OPSET:
        return
    original, main.version = main.version, NEWEST_OPSET
    try:
        checker.check_model(model, full_check=True)
    except (checker.ValidationError, shape_inference.InferenceError):
        main.version = original


def run(model: bytes, data_sets: Sequence[Any]) -> list[list[Any]]:
    """The outputs ONNX Runtime computes, without graph optimisations, one list for each data set."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    signature = [*session.get_inputs(), *session.get_outputs()]
    raw = any("bfloat16" in value.type or "float8" in value.type for value in signature)
    results: list[list[Any]] = []
    for inputs, _ in data_sets:
        feeds = {value.name: _feed(x) for value, x in zip(session.get_inputs(), inputs, strict=True)}
        results.append(_run_raw(session, feeds) if raw else session.run(None, feeds))
    return results


def _feed(value: Any) -> Any:
    if value is None or isinstance(value, list):
        return cast("Any", value)
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def _run_raw(session: Any, feeds: dict[str, Any]) -> list[Any]:
    values = {name: _to_value(array) for name, array in feeds.items()}
    return [_from_value(value) for value in session.run_with_ort_values(None, values)]


def _to_value(array: Any) -> Any:
    for kind, dtype in RAW_TYPES.items():
        if array.dtype == dtype:
            bits = array.view(np.uint16 if array.itemsize == 2 else np.uint8)
            return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, kind)
    return ort.OrtValue.ortvalue_from_numpy(array)


def _from_value(value: Any) -> Any:
    dtype = RAW_TYPES.get(value.element_type())
    if dtype is None:
        return value.numpy()
    buffer = (ctypes.c_uint8 * value.tensor_size_in_bytes()).from_address(value.data_ptr())
    return np.frombuffer(bytes(buffer), dtype).reshape(value.shape())


def assert_close(found: Any, expected: Any, rtol: float, atol: float) -> None:
    """Compare sequences, optional values, strings and arrays."""
    if isinstance(expected, onnx.TensorProto):
        expected = numpy_helper.to_array(expected)
    if isinstance(expected, (list, tuple)):
        expected = cast("Sequence[Any]", expected)
        assert len(found) == len(expected)
        for mine, theirs in zip(found, expected, strict=True):
            assert_close(mine, theirs, rtol, atol)
        return
    if expected is None:
        assert found is None
        return
    a, b = np.asarray(found), np.asarray(expected)
    assert a.shape == b.shape
    if b.dtype.kind in "USO":
        assert a.tolist() == b.tolist()
        return
    if b.dtype.kind == "V" or b.dtype in RAW_TYPES.values():
        assert a.dtype == b.dtype
        a, b = a.astype(np.float64), b.astype(np.float64)
    np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)
