"""torch, which is an extra, or an error that says how to get it."""

from __future__ import annotations

from importlib import import_module
from typing import Any, TypeAlias

from adapass.errors import UsageError

Tensor: TypeAlias = Any
"""A ``torch.Tensor``. torch's own annotations are too partial for strict checking."""


def _import_torch() -> Any:
    try:
        return import_module("torch")
    except ImportError as error:
        raise UsageError(
            "the FX twin and healing need torch, which is not installed: pip install adapass[torch]"
        ) from error


torch: Any = _import_torch()
functional: Any = torch.nn.functional
