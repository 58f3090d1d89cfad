"""Run a model in ONNX Runtime: the oracle of every numeric check.

By default without graph optimisations and on one thread, so that the numbers are those of the
graph as written. The weights of a large model are not copied.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.errors import UsageError, VerificationError
from adapass.graph.lifted import lift_weights
from adapass.graph.save import EMBEDDED_BYTES, save_model, to_bytes
from adapass.graph.tensors import tensor_bytes

Array = npt.NDArray[np.generic]

ort: Any = import_module("onnxruntime")  # ships no types
_ERRORS_ONLY = 4
LARGE_MODEL_BYTES = 400_000_000
"""Models with more weights than this run with their weights where they lie."""


class Session:
    """A loaded model. ``outputs`` may name any value of the main graph, not only its outputs."""

    def __init__(
        self,
        model: ir.Model,
        *,
        outputs: Sequence[str] | None = None,
        threads: int = 1,
        optimize: bool = False,
        entries: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Load ``model``; ``entries`` are ONNX Runtime's own session configuration entries.

        Raises:
            UsageError: an output name is unknown.
            VerificationError: ONNX Runtime does not take the model.

        """
        names = [value.name or "" for value in model.graph.outputs] if outputs is None else list(outputs)
        self.outputs: tuple[str, ...] = tuple(names)
        shown = _with_outputs(model, self.outputs)
        options = _options(threads, optimize=optimize)
        for key, value in entries.items():
            options.add_session_config_entry(key, value)
        try:
            self._session, self._weights = _open(shown, options)
        except Exception as error:
            raise VerificationError(f"ONNX Runtime cannot load the model: {_first_line(error)}") from error

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute the outputs for one feed.

        Raises:
            VerificationError: the model does not run on this feed.

        """
        try:
            results = self._session.run(list(self.outputs), {**feeds, **self._weights})
        except Exception as error:
            shapes = ", ".join(f"{name}{list(np.shape(array))}" for name, array in feeds.items())
            raise VerificationError(f"the model cannot run on {shapes}: {_first_line(error)}") from error
        return dict(zip(self.outputs, results, strict=True))


def _open(model: ir.Model, options: Any) -> tuple[Any, Mapping[str, Array]]:
    """A session, and the weights it takes beside the feeds."""
    weights: Mapping[str, Array] = {}
    if tensor_bytes(model) > LARGE_MODEL_BYTES:
        lifted = lift_weights(model)
        model, weights = lifted.model, lifted.weights
    if tensor_bytes(model) <= EMBEDDED_BYTES:
        return _load(to_bytes(model), options), weights
    with tempfile.TemporaryDirectory(prefix="adapass-") as folder:
        file = Path(folder) / "model.onnx"
        save_model(model, file)
        return _load(str(file), options), weights


def _load(source: str | bytes, options: Any) -> Any:
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _options(threads: int, *, optimize: bool) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    return options


def _with_outputs(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """``model`` itself, or a copy that also returns the intermediate values among ``names``."""
    present = {value.name for value in model.graph.outputs}
    missing = [name for name in names if name not in present]
    if not missing:
        return model
    copy = model.clone()
    values = ir.convenience.create_value_mapping(copy.graph, include_subgraphs=False)
    for name in missing:
        if name not in values:
            raise UsageError(
                f"the graph has no value '{name}' to return; names are those of the ONNX text form"
            )
        copy.graph.outputs.append(values[name])
    return copy


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
