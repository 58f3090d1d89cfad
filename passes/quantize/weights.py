"""Signed 8-bit weights: one scale a tensor or an output channel.

A weight is about ``(q - zero_point) * scale``. The error is at most ``scale / 2``, or ``scale`` where there
are zero points (they are rounded too).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Int8s = npt.NDArray[np.int8]

FULL_LIMIT = 127
REDUCED_LIMIT = 64
"""Largest magnitude with 7-bit weights. On x86 without VNNI two products u8 * s8 are added in 16 bits
with saturation: 2 * 255 * 64 = 32 640 fits, 2 * 255 * 127 does not."""


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """Integers with their scales; ``axis`` is ``None`` for one scale (scalars in the other two fields)."""

    values: Int8s
    scale: Floats
    zero_point: Int8s
    axis: int | None

    @property
    def symmetric(self) -> bool:
        return not self.zero_point.any()

    def dequantized(self) -> Floats:
        scale = _aligned(self.scale, self.axis, self.values.ndim)
        zero = _aligned(self.zero_point, self.axis, self.values.ndim)
        return ((self.values.astype(np.int32) - zero.astype(np.int32)) * scale).astype(np.float32)


def quantize_weight(
    weight: Floats, *, axis: int | None, symmetric: bool, reduce_range: bool
) -> QuantizedWeight:
    """Round a finite weight to 8 bits; ``axis`` is the output channel, or ``None`` for one scale in all.

    A channel of zeros (or of subnormal numbers, whose scale would underflow) gets scale 1 and zeros.
    """
    limit = REDUCED_LIMIT if reduce_range else FULL_LIMIT
    low, high = _extremes(weight.astype(np.float64), axis)
    scale = np.maximum(-low, high) / limit if symmetric else (high - low) / (2 * limit)
    scale = np.where(scale < np.finfo(np.float32).tiny, 1.0, scale)
    scale = scale.astype(np.float32)
    zero = np.zeros(scale.shape) if symmetric else np.clip(np.rint(-limit - low / scale), -limit, limit)
    wide_scale = _aligned(scale.astype(np.float64), axis, weight.ndim)
    values = np.clip(np.rint(weight / wide_scale) + _aligned(zero, axis, weight.ndim), -limit, limit)
    return QuantizedWeight(values.astype(np.int8), scale.astype(np.float32), zero.astype(np.int8), axis)


def widen_for_bias(weight: QuantizedWeight, bias: Floats, input_scale: float) -> QuantizedWeight:
    """Enlarge the scales of channels whose bias would not fit into 32 bits at scale ``input_scale * scale``.

    Such a channel's weights are tiny beside its bias, so rounding them coarser does not matter. The
    same goes for scales so small that the product would underflow.
    """
    smallest = np.maximum(np.abs(bias.astype(np.float64)) / 2.0**30, np.finfo(np.float32).tiny) / input_scale
    smallest = smallest if weight.axis is not None else smallest.max(initial=0.0)
    scale = np.maximum(weight.scale, smallest).astype(np.float32)
    if np.array_equal(scale, weight.scale):
        return weight
    zero = _aligned(weight.zero_point, weight.axis, weight.values.ndim).astype(np.float64)
    ratio = _aligned(weight.scale.astype(np.float64) / scale, weight.axis, weight.values.ndim)
    values = np.rint((weight.values - zero) * ratio) + zero
    return QuantizedWeight(values.astype(np.int8), scale, weight.zero_point, weight.axis)


def _extremes(weight: Doubles, axis: int | None) -> tuple[Doubles, Doubles]:
    """Least and greatest value per channel, zero included so that it is always representable."""
    others = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis % weight.ndim)
    return np.asarray(weight.min(others, initial=0.0)), np.asarray(weight.max(others, initial=0.0))


def _aligned(per_channel: npt.NDArray[np.generic], axis: int | None, rank: int) -> npt.NDArray[np.float64]:
    """Reshape so that it broadcasts along ``axis`` of an array of this rank."""
    if axis is None:
        return per_channel.astype(np.float64)
    shape = [1] * rank
    shape[axis] = -1
    return per_channel.astype(np.float64).reshape(shape)
