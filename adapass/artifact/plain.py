"""Run an ONNX file as it is, in ONNX Runtime: artifacts without a generator, and plain files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from adapass.artifact.external import external_files
from adapass.artifact.manifest import Port
from adapass.budgeted import Array, Feeds
from adapass.errors import DataError, ModelError
from adapass.generator import Outcome
from adapass.ops import EXIT_INDEX

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(string)": "str",
}


class _Arg(Protocol):
    name: str
    type: str
    shape: Sequence[int | str | None]


class _Session(Protocol):
    """The part of ONNX Runtime's session used here."""

    def get_inputs(self) -> Sequence[_Arg]: ...

    def get_outputs(self) -> Sequence[_Arg]: ...

    def get_overridable_initializers(self) -> Sequence[_Arg]: ...

    def run(self, names: Sequence[str], feeds: Mapping[str, Array]) -> Sequence[Array]: ...


class PlainRunner:
    """One ONNX Runtime session over a file, all of ONNX Runtime's own optimizations on."""

    def __init__(self, model_path: Path, *, threads: int) -> None:
        external_files(model_path)  # refuses external data outside the folder before anything opens it
        onnxruntime: Any = import_module("onnxruntime")  # ships no types
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(
                str(model_path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime has no public base class for its errors
            raise ModelError(f"ONNX Runtime cannot open {model_path}: {error}") from error
        self._path = model_path
        self._session = cast("_Session", session)
        self.inputs = (
            *(_port(arg, optional=False) for arg in self._session.get_inputs()),
            *(_port(arg, optional=True) for arg in self._session.get_overridable_initializers()),
        )
        self.outputs = tuple(_port(arg, optional=False) for arg in self._session.get_outputs())
        self._names = [port.name for port in self.outputs]

    def run(self, feeds: Feeds) -> Outcome:
        try:
            values = self._session.run(self._names, dict(feeds))
        except Exception as error:  # see above
            raise DataError(f"{self._path} does not run on these inputs: {error}") from error
        outputs = dict(zip(self._names, values, strict=True))
        taken = outputs.pop(EXIT_INDEX, None)
        return Outcome(outputs, None if taken is None else np.asarray(taken, np.int64).reshape(-1))

    def close(self) -> None:
        del self._session


def _port(arg: _Arg, *, optional: bool) -> Port:
    dtype = _DTYPES.get(arg.type) or arg.type.removeprefix("tensor(").removesuffix(")")
    return Port(name=arg.name, dtype=dtype, shape=tuple(arg.shape), optional=optional)
