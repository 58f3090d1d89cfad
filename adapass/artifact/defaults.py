"""Change what an ONNX file has built in for its run-time knobs, and nothing else.

A knob is an input with an initializer of the same name. Only that initializer is replaced, so the result is,
byte for byte, what a build with this default would have written, and weights outside the file stay there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from adapass.artifact.external import read_proto
from adapass.budgeted import Array
from adapass.errors import ArtifactError


def set_defaults(path: Path, knobs: Mapping[str, Array]) -> int:
    """Give the knobs of the ONNX file at ``path`` these defaults; how many of them it has.

    Raises:
        ArtifactError: not an ONNX file, or a knob of another type or size than the value.

    """
    model = read_proto(path)
    inputs = {value.name for value in model.graph.input}
    found = [t for t in model.graph.initializer if t.name in knobs and t.name in inputs]
    for tensor in found:
        _replace(tensor, knobs[tensor.name], path)
    if found:
        path.write_bytes(model.SerializeToString(deterministic=True))
    return len(found)


def _replace(tensor: onnx.TensorProto, value: Array, path: Path) -> None:
    stored = np.float32 if tensor.data_type == onnx.TensorProto.FLOAT else None
    if stored is None or list(tensor.dims) != list(value.shape) or tensor.data_location == tensor.EXTERNAL:
        raise ArtifactError(
            f"{path}: knob '{tensor.name}' is not float32 of shape {list(value.shape)}; "
            "the artifact was not written by adapass"
        )
    tensor.ClearField("float_data")
    tensor.raw_data = np.ascontiguousarray(value, "<f4").tobytes()
