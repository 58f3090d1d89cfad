"""From a torch module to a model: ``torch.export``, then torch's ONNX exporter."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import onnx_ir as ir

from adapass.errors import ModelError, UsageError
from adapass.graph.load import from_proto

if TYPE_CHECKING:
    import torch

OPSET = 20
"""New enough for Gelu and LayerNormalization, old enough for every runtime of the last years."""


def trace(
    module: torch.nn.Module,
    example_inputs: Sequence[torch.Tensor] | Mapping[str, torch.Tensor],
    *,
    dynamic_shapes: Mapping[str, object] | Sequence[object] | None = None,
    opset: int = OPSET,
) -> ir.Model:
    """The ONNX model of a torch module, at inference.

    ``example_inputs`` are positional (a sequence) or by name (a mapping). ``dynamic_shapes`` says
    which dimensions stay open, as in ``torch.export``: for each input a mapping from axis to a name
    or a ``torch.export.Dim``. Without it every shape is fixed to that of the examples. The module
    is exported in evaluation mode and put back into its mode afterwards.

    Raises:
        UsageError: torch is not installed, or an argument makes no sense.
        ModelError: torch cannot export the module; the message holds torch's reason.

    """
    torch_module = _import_torch()
    if not isinstance(module, torch_module.nn.Module):
        raise UsageError(f"expected a torch.nn.Module, found {type(module).__name__}")
    args, kwargs = _arguments(example_inputs)
    training = bool(module.training)
    module.eval()
    try:
        with _quiet():
            program = torch_module.onnx.export(
                module,
                args,
                kwargs=kwargs,
                dynamic_shapes=_named(dynamic_shapes, torch_module),
                opset_version=opset,
                dynamo=True,
                verbose=False,
                optimize=True,
            )
    except Exception as error:
        raise ModelError(f"torch cannot export {type(module).__name__}: {_reason(error)}") from error
    finally:
        module.train(training)
    if program is None:
        raise ModelError(f"torch exported nothing for {type(module).__name__}")
    return from_proto(program.model_proto, origin=type(module).__name__)


def _import_torch() -> Any:
    try:
        return import_module("torch")
    except ImportError as error:
        raise UsageError("tracing needs torch, which is not installed: pip install adapass[torch]") from error


def _arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, Mapping):
        named = cast("Mapping[str, Any]", example_inputs)
        return (), dict(named)
    if isinstance(example_inputs, (tuple, list)):
        return tuple(cast("Sequence[Any]", example_inputs)), {}
    return (example_inputs,), {}


def _named(shapes: Any, torch_module: Any) -> Any:
    """Names of dimensions as ``Dim`` objects, one for each name; anything else as it is."""
    if isinstance(shapes, str):
        return torch_module.export.Dim(shapes)
    if isinstance(shapes, Mapping):
        axes = cast("Mapping[object, object]", shapes)
        return {key: _named(value, torch_module) for key, value in axes.items()}
    if isinstance(shapes, (tuple, list)):
        return tuple(_named(value, torch_module) for value in cast("Sequence[object]", shapes))
    return shapes


@contextmanager
def _quiet() -> Generator[None]:
    """Keep the exporter's progress and warnings out of the user's log; its errors come through."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """The innermost cause, first line: the outer ones only say that a step failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
