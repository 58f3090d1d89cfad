"""What ``quantize-8bit`` keeps between its steps: the float model that it laid conversions into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import onnx_ir as ir

from adapass.budgeted import Choice

_OPENED = "adapass.quantize.opened"
_RESCALED = "adapass.quantize.rescaled"
"""Where a graph keeps what is left behind; not serialised."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A model before the conversions, and the choices made in it."""

    original: ir.Model
    choices: tuple[Choice, ...]
    changed: frozenset[str]
    """Values whose channels were rescaled before."""


def keep_opened(model: ir.Model, opened: Opened) -> None:
    """Leave ``opened`` for ``take_opened``."""
    cast("dict[str, object]", model.graph.meta)[_OPENED] = opened


def take_opened(model: ir.Model) -> Opened | None:
    """What ``apply`` left, once; ``None`` for a model that was stored in between."""
    found = cast("dict[str, object]", model.graph.meta).pop(_OPENED, None)
    return found if isinstance(found, Opened) else None


def keep_rescaled(model: ir.Model, rescaled: ir.Model) -> None:
    """Leave the float model with rescaled channels, from which ``model`` was quantized, for ``check``."""
    cast("dict[str, object]", model.graph.meta)[_RESCALED] = rescaled


def rescaled_form(model: ir.Model) -> ir.Model | None:
    """What ``keep_rescaled`` left; ``None`` where nothing was rescaled."""
    found = cast("dict[str, object]", model.graph.meta).get(_RESCALED)
    return found if isinstance(found, ir.Model) else None
