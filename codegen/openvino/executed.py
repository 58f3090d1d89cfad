"""What OpenVINO really runs: layers after its fusions, with the number format each one computes in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from adapass.codegen.openvino.session import OpenVinoSession

EIGHT_BIT = frozenset({"i8", "u8"})


@dataclass(frozen=True, slots=True)
class Layer:
    """One kernel call of a compiled model."""

    kind: str
    """OpenVINO's name: ``Convolution``, ``FullyConnected``, ``Reorder``, ..."""
    name: str
    precision: str
    """Of what it reads: ``f32``, ``bf16``, ``u8``, ..."""
    kernel: str
    fused: tuple[str, ...]
    """Names of the layers of the model it does the work of."""


def executed_layers(session: OpenVinoSession) -> tuple[Layer, ...]:
    """In order of execution; constants and the model's ports are left out."""
    return tuple(layer for layer in _layers(session.compiled) if layer.kind not in _NO_WORK)


_NO_WORK = frozenset({"Const", "Input", "Output"})


def _layers(compiled: Any) -> Iterator[Layer]:
    for operator in compiled.get_runtime_model().get_ordered_ops():
        info = operator.get_rt_info()
        words = {key: str(info[key].astype(str)) if key in info else "" for key in _KEYS}
        yield Layer(
            kind=words["layerType"],
            name=operator.get_friendly_name(),
            precision=words["runtimePrecision"],
            kernel=words["primitiveType"],
            fused=tuple(name for name in words["originalLayersNames"].split(",") if name),
        )


_KEYS = ("layerType", "runtimePrecision", "primitiveType", "originalLayersNames")
