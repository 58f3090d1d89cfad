"""What other tools make of a model in 8 bits: ONNX Runtime's own quantizer, and NNCF for OpenVINO.

Every peer gets the same model file and the same calibration samples as we do, and its own recommended ways.
ONNX Runtime's tools stop at models whose ``value_info`` names tensors they have renamed, so they are given
the file without ``value_info`` (``cleaned``); their own ``quant_pre_process`` runs first, as their
documentation asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import onnx

from adapass.budgeted import Array, Feeds, Samples
from adapass.search.judge import spread_indices

CALIBRATION_SAMPLES = 256


@dataclass(frozen=True, slots=True)
class Peer:
    """A model a tool has made, or why it made none."""

    name: str
    path: Path | None
    told: str = ""


def cleaned(source: Path, target: Path) -> Path:
    """The file without the shapes of intermediate values, which keep ONNX Runtime's tools from working."""
    model = onnx.ModelProto.FromString(source.read_bytes())
    del model.graph.value_info[:]
    target.write_bytes(model.SerializeToString())
    return target


class _Reader:
    """Calibration samples the way ONNX Runtime's tools read them: one after the other, then ``None``."""

    def __init__(self, feeds: Sequence[Feeds]) -> None:
        self._feeds, self._next = feeds, 0

    def get_next(self) -> Feeds | None:
        self._next += 1
        return self._feeds[self._next - 1] if self._next <= len(self._feeds) else None

    def rewind(self) -> None:
        self._next = 0


def onnxruntime_peers(model: Path, data: Samples, folder: Path) -> list[Peer]:
    """Dynamic and static 8 bits, in all the layouts ONNX Runtime's tools offer for a processor."""
    quantization: Any = import_module("onnxruntime.quantization")
    shapes: Any = import_module("onnxruntime.quantization.shape_inference")
    ready = folder / "preprocessed.onnx"
    # Symbolic shape inference gives up on transformers with dynamic sizes; ONNX's own runs instead of it.
    shapes.quant_pre_process(
        str(cleaned(model, folder / "cleaned.onnx")), str(ready), skip_symbolic_shape=True
    )
    feeds = calibration(data)
    kinds, layouts = quantization.QuantType, quantization.QuantFormat
    ways: dict[str, Callable[[Path], None]] = {}
    for kind in ("QInt8", "QUInt8"):
        for per_channel in (False, True):
            name = f"ort-dynamic-{kind[1:].lower()}{'-channel' if per_channel else ''}"
            ways[name] = _dynamic(quantization, ready, weight_type=kinds[kind], per_channel=per_channel)
    for layout in ("QDQ", "QOperator"):
        for activations in ("QUInt8", "QInt8"):
            name = f"ort-static-{layout.lower()}-{activations[1:].lower()}"
            ways[name] = _static(
                quantization,
                ready,
                feeds,
                quant_format=layouts[layout],
                activation_type=kinds[activations],
                weight_type=kinds["QInt8"],
                per_channel=True,
            )
    return [_made(name, way, folder / f"{name}.onnx") for name, way in ways.items()]


def _dynamic(quantization: Any, model: Path, **options: object) -> Callable[[Path], None]:
    return lambda target: quantization.quantize_dynamic(str(model), str(target), **options)


def _static(
    quantization: Any, model: Path, feeds: Sequence[Feeds], **options: object
) -> Callable[[Path], None]:
    return lambda target: quantization.quantize_static(str(model), str(target), _Reader(feeds), **options)


def _made(name: str, way: Callable[[Path], None], target: Path) -> Peer:
    try:
        way(target)
    # A peer may fail in any way; the table then says so in its own words.
    except Exception as error:
        return Peer(name, None, f"{type(error).__name__}: {str(error).splitlines()[0][:160]}")
    return Peer(name, target)


def calibration(data: Samples) -> list[Feeds]:
    """Evenly spaced samples, one at a time as both tools read them."""
    return [data.feeds(index) for index in spread_indices(len(data), CALIBRATION_SAMPLES)]


def nncf_peers(model: Path, data: Samples, folder: Path, *, transformer: bool) -> list[Peer]:
    """NNCF's post-training 8 bits of the model as OpenVINO reads it, in both presets.

    Raises:
        ModuleNotFoundError: ``nncf`` (``pip install nncf``) or ``openvino`` is missing.

    """
    nncf: Any = import_module("nncf")
    openvino: Any = import_module("openvino")
    feeds = calibration(data)
    kind = nncf.ModelType.TRANSFORMER if transformer else None

    def way(preset: object) -> Callable[[Path], None]:
        def run(target: Path) -> None:
            read = openvino.Core().read_model(str(model))
            made = nncf.quantize(
                read, nncf.Dataset(feeds), preset=preset, model_type=kind, subset_size=len(feeds)
            )
            openvino.save_model(made, str(target), compress_to_fp16=False)

        return run

    presets = {"performance": nncf.QuantizationPreset.PERFORMANCE, "mixed": nncf.QuantizationPreset.MIXED}
    return [
        _made(f"nncf-{name}", way(preset), folder / f"nncf-{name}.xml") for name, preset in presets.items()
    ]


class OpenVinoFile:
    """An OpenVINO model file (or an ONNX file), compiled for one answer at a time."""

    def __init__(self, path: Path, *, threads: int) -> None:
        openvino: Any = import_module("openvino")
        core = openvino.Core()
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        self._request: Any = core.compile_model(str(path), "CPU", settings).create_infer_request()

    def run(self, feeds: Feeds) -> Mapping[str, Array]:
        found = self._request.infer(dict(feeds), share_inputs=True, share_outputs=False)
        return {value.get_any_name(): found[value] for value in found}

    def close(self) -> None:
        self._request = None
