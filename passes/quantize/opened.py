"""What ``quantize-8bit`` keeps between ``apply`` and ``fit``: the float model it laid conversions into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import onnx_ir as ir

from adapass.budgeted import Choice

_OPENED = "adapass.quantize.opened"
"""Where a graph keeps it; not serialised."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A model before the conversions, and the choices made in it."""

    original: ir.Model
    choices: tuple[Choice, ...]


def keep_opened(model: ir.Model, opened: Opened) -> None:
    """Leave ``opened`` for ``take_opened``."""
    cast("dict[str, object]", model.graph.meta)[_OPENED] = opened


def take_opened(model: ir.Model) -> Opened | None:
    """What ``apply`` left, once; ``None`` for a model that was stored in between."""
    found = cast("dict[str, object]", model.graph.meta).pop(_OPENED, None)
    return found if isinstance(found, Opened) else None
