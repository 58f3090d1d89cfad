"""Open ONNX Runtime sessions. Every session has its own thread pool; the process has one budget.

Not used on purpose: a process-wide pool (``set_global_thread_pool_sizes``). Once set, every session
of the process that wants its own pool fails, sessions of other libraries included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from adapass.budgeted import Array
from adapass.codegen.onnxruntime.plan import Norms, Spin
from adapass.codegen.runner import first_line
from adapass.errors import ModelError

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
_ERRORS_ONLY = 3
_NORM_FUSIONS = ["SkipLayerNormFusion", "BiasSkipLayerNormFusion"]


class OrtValue(Protocol):
    """An input or output of a session."""

    name: str


class OrtSession(Protocol):
    """The part of ``onnxruntime.InferenceSession`` used here."""

    def get_outputs(self) -> Sequence[OrtValue]: ...

    def run(self, output_names: Sequence[str], feeds: Mapping[str, Array], /) -> Sequence[Array]: ...


def providers(*, gpu: bool) -> list[str]:
    """Execution providers to ask for, those that are not installed left out."""
    ort: Any = import_module("onnxruntime")
    present: Sequence[str] = ort.get_available_providers()
    return [CUDA, CPU] if gpu and CUDA in present else [CPU]


def open_session(
    model: Path | bytes,
    *,
    threads: int,
    spin: Spin,
    gpu: bool,
    norms: Norms = Norms.FUSED,
    optimize: bool = True,
) -> OrtSession:
    """A session on its own pool of ``threads`` threads, the calling one included.

    Raises:
        ModelError: ONNX Runtime does not take the model; the message is its own.

    """
    ort: Any = import_module("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    spins = spin is not Spin.NEVER and threads > 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spins else "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.force_spinning_stop", "1" if spin is Spin.RUNNING else "0")
    source = model if isinstance(model, bytes) else str(model)
    without = _NORM_FUSIONS if norms is Norms.APART else []
    try:
        session = ort.InferenceSession(
            source, options, providers=providers(gpu=gpu), disabled_optimizers=without
        )
    except Exception as error:  # ONNX Runtime has no public base class for its errors
        raise ModelError(f"ONNX Runtime does not take the model: {first_line(error)}") from error
    return cast("OrtSession", session)
