"""Open models in OpenVINO: one stream, no more threads than asked for, none of them tied to a core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np

from adapass.budgeted import Array
from adapass.codegen.openvino.plan import Precision
from adapass.errors import DataError, ModelError, UsageError

MISSING: Final = "OpenVINO is not installed: pip install 'adapass[openvino]'"
_NOT_KNOWN: Final = "No conversion rule found for operations: "
_NOISE: Final = ("Exception from ", "FrontEnd API failed", "Model wasn't fully", "Summary:", "Check '")
_WHOLE: Final = np.iinfo(np.int32)


def missing() -> str | None:
    """``None`` when OpenVINO is installed."""
    return None if find_spec("openvino") else MISSING


class OpenVinoSession:
    """A compiled model with one request. Not thread safe."""

    def __init__(
        self, model: Path | bytes, outputs: Sequence[str], *, threads: int, precision: Precision
    ) -> None:
        """Read and compile an ONNX model; ``outputs`` are the names of its outputs in order.

        Raises:
            ModelError: OpenVINO does not take the model; the message names the operator where it can.
            UsageError: OpenVINO is not installed.

        """
        if (why := missing()) is not None:
            raise UsageError(why)
        core = _core()
        self._outputs = tuple(outputs)
        try:
            read = core.read_model(model if isinstance(model, bytes) else str(model))
            self.compiled: Any = core.compile_model(read, "CPU", settings(threads, precision))
            self._request: Any = self.compiled.create_infer_request()
            # With one thread OpenVINO (2026.4) loses what goes wrong in a call that it runs in the caller's.
            self._waits = int(self.compiled.get_property("INFERENCE_NUM_THREADS")) == 1
        except RuntimeError as error:  # the base of all that OpenVINO raises
            raise ModelError(f"OpenVINO does not take the model: {reason(error)}") from error
        self._ports: Mapping[str, Any] = {
            name: port for port in self.compiled.inputs for name in port.get_names()
        }

    def run(self, output_names: Sequence[str], feeds: Mapping[str, Array], /) -> Sequence[Array]:
        """The outputs of these names, as copies of one's own.

        Raises:
            DataError: a whole number does not fit into the 32 bits in which OpenVINO computes.
            ModelError: the model does not run on the feeds.

        """
        for name, array in feeds.items():
            _refuse_wide(name, array)
        given = {self._ports[name]: _in_rows(array) for name, array in feeds.items()}
        try:
            self._infer(given)
        except RuntimeError as error:  # see above
            raise ModelError(reason(error)) from error
        # By place: of two outputs that are the same value, one may have lost its name.
        places = {name: place for place, name in enumerate(self._outputs)}
        return [np.array(self._request.get_output_tensor(places[name]).data) for name in output_names]

    def _infer(self, given: Mapping[Any, Array]) -> None:
        if self._waits:
            self._request.start_async(given, share_inputs=True)
            self._request.wait()
        else:
            self._request.infer(given, share_inputs=True, share_outputs=True)


def settings(threads: int, precision: Precision) -> dict[str, object]:
    """Compile options. Left to itself OpenVINO takes bfloat16 where the processor has it, and every core."""
    exact = precision is Precision.F32
    return {
        "INFERENCE_PRECISION_HINT": str(precision),
        # "accuracy" also forbids to quantize activations or caches that the model has in float.
        "EXECUTION_MODE_HINT": "ACCURACY" if exact else "PERFORMANCE",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_HYPER_THREADING": True,  # else it takes physical cores only, however many are asked for
        "ENABLE_CPU_PINNING": False,  # pinned pools of two sessions would sit on the same cores
        # Its generated kernels for attention compute wrong numbers (2026.4) once a run with one token was
        # followed by one with 16 or more; a test has the case. The other kernels are as fast within a tenth.
        "SNIPPETS_MODE": "DISABLE",
    }


def reason(error: Exception) -> str:
    """The one line of OpenVINO's report that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines()]
    for line in lines:
        if _NOT_KNOWN in line:
            return f"it has no operator {line.partition(_NOT_KNOWN)[2]}"
    telling = [line for line in lines if line and not line.startswith(_NOISE)]
    return telling[0] if telling else type(error).__name__


@cache
def _core() -> Any:
    openvino: Any = import_module("openvino")
    return openvino.Core()


def _in_rows(array: Array) -> Array:
    # ascontiguousarray would give a scalar an axis.
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def _refuse_wide(name: str, array: Array) -> None:
    if array.dtype.kind not in "iu" or array.dtype.itemsize < 4 or array.dtype == np.int32 or not array.size:
        return
    for found in (int(array.max()), int(array.min())):
        if not _WHOLE.min <= found <= _WHOLE.max:
            raise DataError(
                f"input '{name}' holds {found}; OpenVINO computes whole numbers in 32 bits,"
                " use the portable model.onnx for such inputs"
            )
