"""Export as users do: ``torch.onnx.export(dynamo=True)``, as many dynamic dimensions as the exporter takes.

What it cannot do is tried again with less (the batch alone, then nothing dynamic; eager attention for
the default), and the concession is recorded beside the model.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import logging
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx

from tests.coupling.zoo.architecture import SIZES, Architecture, feeds
from tests.coupling.zoo.parts import Module, torch

FORMAT = 1
"""Raise to make cached exports stale."""
CONCESSIONS: tuple[tuple[tuple[str, str], ...], ...] = (
    (),
    (("attn", "eager"),),
    (("experts", "batched_mm"),),
    (("kernel", "math"),),
)
"""What is tried in turn where the defaults of ``transformers`` cannot be exported."""


@dataclass(frozen=True, slots=True)
class Export:
    """A model file and what had to be given up for it."""

    file: Path
    dynamic: tuple[str, ...]
    notes: tuple[str, ...]


class ExportFailedError(RuntimeError):
    """No attempt led to a model; the message is the first line of the first failure."""


class _Positional(Module):
    """Positional inputs in the order of the ports; the named outputs only, as a tuple."""

    def __init__(self, model: Any, architecture: Architecture) -> None:
        super().__init__()
        self.model = model
        self.ports = tuple(port.name for port in architecture.ports)
        self.outputs = architecture.outputs
        self.arguments = dict(architecture.arguments)

    def forward(self, *inputs: Any) -> Any:
        if not self.outputs:
            return self.model(*inputs)
        named = dict(zip(self.ports, inputs, strict=True))
        result = self.model(**named, **self.arguments)
        return tuple(getattr(result, output) for output in self.outputs)


def exported(architecture: Architecture, folder: Path) -> Export:
    """The ONNX file of ``architecture`` in ``folder``, exported now unless it is there already.

    Raises:
        ExportFailedError: no attempt worked.

    """
    file = folder / f"{architecture.name}-{_key(architecture)}.onnx"
    record = file.with_suffix(".json")
    if not record.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        dynamic, notes = _export(architecture, file)
        record.write_text(json.dumps({"dynamic": dynamic, "notes": notes}), encoding="utf-8")
    known = json.loads(record.read_text("utf-8"))
    return Export(file, tuple(known["dynamic"]), tuple(known["notes"]))


def _key(architecture: Architecture) -> str:
    """Changes with what the module is built from, the sizes, and the exporting libraries."""
    source = inspect.getsourcefile(architecture.make)
    built_from = architecture.identity or (Path(source).read_text("utf-8") if source else "")
    libraries = [version(library) for library in ("torch", "transformers", "onnxscript")]
    parts = (FORMAT, libraries, architecture.ports, architecture.outputs, built_from, SIZES)
    return hashlib.blake2b(repr(parts).encode(), digest_size=6).hexdigest()


def _export(architecture: Architecture, file: Path) -> tuple[list[str], list[str]]:
    words = tuple(
        dict.fromkeys(size for port in architecture.ports for size in port.shape if isinstance(size, str))
    )
    failures: list[str] = []
    for dynamic in dict.fromkeys((words, words[:1], ())):
        for concession in CONCESSIONS:
            try:
                _attempt(architecture, file, concession, dynamic)
            except Exception as error:  # whatever the exporter raises is its answer
                failures.append(_first_line(error))
                continue
            given_up = [f"{word} fixed" for word in words if word not in dynamic]
            given_up += [f"{how} {what}" for what, how in concession]
            return list(dynamic), [f"{', '.join(given_up)} ({failures[0]})"] if given_up else []
    raise ExportFailedError(failures[0])


def _attempt(
    architecture: Architecture, file: Path, concession: Sequence[tuple[str, str]], dynamic: Sequence[str]
) -> None:
    torch.manual_seed(0)
    model = architecture.make().eval()
    plain = ("kernel", "math") in concession
    for what, how in concession:
        if what != "kernel":
            getattr(model, f"set_{what}_implementation")(how)
    randomize(model)
    arrays = feeds(architecture.ports, SIZES[0], seed=0)
    inputs = tuple(torch.from_numpy(array) for array in arrays.values())
    dims = {word: torch.export.Dim(word, min=2, max=4096) for word in dynamic}
    shapes = tuple(
        {axis: dims[size] for axis, size in enumerate(port.shape) if size in dims}
        for port in architecture.ports
    )
    backends = torch.nn.attention.SDPBackend
    kernel = torch.nn.attention.sdpa_kernel(backends.MATH) if plain else nullcontext()
    with _silence(), kernel:
        torch.onnx.export(
            _Positional(model, architecture).eval(),
            inputs,
            str(file),
            dynamo=True,
            input_names=list(arrays),
            output_names=list(architecture.outputs) or ["output"],
            dynamic_shapes=(shapes,),
            verbose=False,
            external_data=False,
        )
    _require_dynamic(file, architecture, dynamic)


def randomize(model: Any) -> None:
    """Weights that leave no term without effect: no zero biases, no scales of one, no vanishing layers."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=random)
            if "running_var" in name:
                tensor.copy_(0.5 + noise.abs())
            elif isinstance(tensor, torch.nn.Parameter) or "running_mean" in name:
                _shake(tensor, noise)


def _shake(tensor: Any, noise: Any) -> None:
    vanishing = float(tensor.std()) < 0.05 if tensor.numel() > 1 else False
    if tensor.ndim >= 2 and vanishing:
        fan_in = tensor[0].numel()
        tensor.copy_(noise / fan_in**0.5)
    elif tensor.ndim < 2:
        tensor.add_(0.2 * noise)


@contextmanager
def _silence() -> Generator[None]:
    """The exporter talks a lot, and warns about its own parts."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    cause = error.__cause__
    line = (str(cause).strip() or type(cause).__name__) if cause is not None else text
    return f"{type(cause or error).__name__}: {line.splitlines()[0]}"[:200]


def _require_dynamic(file: Path, architecture: Architecture, dynamic: Sequence[str]) -> None:
    """The exporter may fix a size without a word where the module's own code does."""
    model = onnx.load_model_from_string(file.read_bytes())
    declared = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}
    for port in architecture.ports:
        for axis, size in enumerate(port.shape):
            if size in dynamic and port.name in declared and not declared[port.name][axis].dim_param:
                raise ValueError(f"'{size}' of '{port.name}' is fixed in the exported model")
