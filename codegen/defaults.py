"""Values of inputs that may be left out, kept exactly in a plan for runtimes that know no defaults."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
from pydantic import BaseModel, ConfigDict, Field

from adapass.budgeted import Array
from adapass.errors import ArtifactError

MAX_DEFAULT_BYTES = 64 * 1024
"""Of one input's default: thresholds of exits have a few bytes."""


class Default(BaseModel):
    """One value. The bytes are little-endian, in base64: exact, and with a place for infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    dtype: str
    shape: tuple[int, ...] = Field(strict=False)
    data: str


def defaults_of(model: ir.Model) -> dict[str, Default]:
    pairs = ((value.name or "", value.const_value) for value in model.graph.inputs)
    return {name: _stored(np.asarray(tensor.numpy())) for name, tensor in pairs if tensor is not None}


def restored(defaults: Mapping[str, Default], file: Path) -> dict[str, Array]:
    """The defaults as arrays; ``file`` is what errors name."""
    try:
        return {name: _array(default) for name, default in defaults.items()}
    except (ValueError, TypeError, binascii.Error) as error:
        raise ArtifactError(f"{file} is damaged at 'defaults': {error}; build it again") from error


def _stored(array: Array) -> Default:
    plain = np.ascontiguousarray(array)
    little = plain.astype(plain.dtype.newbyteorder("<"))
    return Default(
        dtype=plain.dtype.name, shape=array.shape, data=base64.b64encode(little.tobytes()).decode("ascii")
    )


def _array(default: Default) -> Array:
    dtype = np.dtype(default.dtype)
    if dtype.kind not in "biuf":
        raise ValueError(f"type {default.dtype} is not a number")
    data = base64.b64decode(default.data, validate=True)
    return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype).reshape(default.shape)
