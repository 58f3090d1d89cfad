"""Measured traits in plain words, and what to do about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from adapass.passes.quantize.diagnosis.traits import ActivationTraits, Channels
from adapass.passes.quantize.ranges import LEVELS

CHANNEL_RATIO = 10.0
"""A median channel this much smaller than the largest has 3.3 bits less."""
FEW_LEVELS = 32.0
GAP = 0.25
CLIPPED = 0.001
SMALL_ERROR = 0.02
"""A median channel that is off by less is left with 5 bits and more: nobody's reason."""


class Remedy(StrEnum):
    """What to do; the options are those of ``quantize-8bit``."""

    PER_CHANNEL = "per-channel=true gives each channel of the weight its own scale"
    MIGRATE = (
        "migrate=always moves the outlier channel into the weights behind it (auto: only where that clearly "
        'helps); settings=["dynamic"] follows each input'
    )
    PERCENTILE = "ranges=percentile cuts the few numbers that stretch the range"
    WIDEN = "ranges=min-max cuts nothing"
    FLOAT = "keep it in float with skip-sites"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why 8 bits are coarse at one operand of a layer."""

    words: str
    remedy: Remedy
    error: float
    """How far the median channel of this operand is off, relative to its size."""


def weight_reasons(channels: Channels, *, per_channel: bool) -> list[Reason]:
    if per_channel or channels.ratio < CHANNEL_RATIO or channels.error < SMALL_ERROR:
        return []
    words = (
        f"weight: channel {channels.largest} reaches {channels.ratio:.0f}x as far as the median channel, all "
        f"share one scale, and the median channel is off by {channels.error:.1%} of its size"
    )
    return [Reason(words, Remedy.PER_CHANNEL, channels.error)]


def activation_reasons(operand: str, traits: ActivationTraits) -> list[Reason]:
    """Of the ``operand`` ('input' or 'result') that is rounded at one scale."""
    channels, found = traits.channels, list[Reason]()
    off = f"the median channel is off by {channels.error:.1%} of its size"
    if traits.clipped > CLIPPED:
        words = f"{operand}: {traits.clipped:.2%} of the numbers lie outside the range and are cut"
        found.append(Reason(words, Remedy.WIDEN, channels.error))
    if channels.error < SMALL_ERROR:
        return found
    if channels.ratio >= CHANNEL_RATIO:
        words = (
            f"{operand}: channel {channels.largest} reaches {channels.ratio:.0f}x as far as the median "
            f"channel, all share one scale, and {off}"
        )
        found.append(Reason(words, Remedy.MIGRATE, channels.error))
    elif traits.gap >= GAP:
        words = (
            f"{operand}: the numbers begin far from zero, which the range {traits.low:.3g} to "
            f"{traits.high:.3g} has to contain: {traits.gap:.0%} of its levels are never used"
        )
        found.append(Reason(words, Remedy.FLOAT, channels.error))
    elif traits.levels < FEW_LEVELS:
        words = (
            f"{operand}: 99 % of the numbers share {max(traits.levels, 1.0):.0f} of {LEVELS} levels, few "
            f"large ones stretch the range to {traits.low:.3g} .. {traits.high:.3g}, and {off}"
        )
        found.append(Reason(words, Remedy.PERCENTILE, channels.error))
    return found


def nothing_stands_out(errors: Sequence[tuple[str, float]]) -> str:
    """For a layer that is rounded as well as others."""
    parts = ", ".join(f"{operand} {error:.2%}" for operand, error in errors)
    return f"nothing stands out (median channels are off by: {parts}); the outputs depend on it more"
