"""Which widths a group is offered: shares of its units, rounded to what kernels like."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

SETTING = "keep-"


class Kind(StrEnum):
    """What the units of a group are (see ``adapass.coupling``)."""

    CHANNELS = "channels"
    NEURONS = "neurons"
    HEADS = "heads"
    HEAD_WIDTH = "head-width"
    STREAM = "stream"
    EMBEDDING = "embedding"
    EXPERTS = "experts"
    STATES = "states"


COUNTED = frozenset({Kind.HEADS, Kind.EXPERTS})
"""Kinds whose units are few and wide: every number of them is as good as the next."""

NARROW = 16
"""What one vector register or one tile of a matrix unit holds: kernels fill up to a multiple of it."""


def widths(kind: Kind, units: int, ratios: Sequence[float], multiple: int) -> tuple[int, ...]:
    """How many units may stay, largest first: fewer than there are, and at least one step.

    Widths are multiples of ``multiple``; of its half, quarter, ... in groups less than four times as large,
    down to ``NARROW``; of less only where a group is not twice that. Ratios that round to the same
    width give one.
    """
    step = 1 if kind in COUNTED else multiple
    while step > 1 and (4 if step > NARROW else 2) * step > units:
        step //= 2
    found = {max(round(ratio * units / step), 1) * step for ratio in ratios}
    return tuple(sorted((width for width in found if width < units), reverse=True))


def setting_of(width: int) -> str:
    return f"{SETTING}{width}"


def width_of(setting: str) -> int | None:
    """The inverse of ``setting_of``; ``None`` for any other text."""
    number = setting.removeprefix(SETTING)
    return int(number) if number != setting and number.isascii() and number.isdigit() else None
