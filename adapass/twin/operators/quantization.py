"""8-bit operators. Rounding has no slope, so gradients pass it as if it were not there.

A quantized value is an integer tensor, which carries no gradient: QuantizeLinear therefore returns whole
numbers in floating point where its input asks for a gradient, and DequantizeLinear takes either
(Bengio et al. 2013, the straight-through estimator).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from adapass.twin.dtypes import torch_type
from adapass.twin.operators.convolutions import convolve
from adapass.twin.torch_import import Tensor, torch


def quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> Tensor:
    del precision, saturate
    dtype = torch.uint8 if not output_dtype else torch_type(output_dtype)
    dtype = dtype if zero_point is None else zero_point.dtype
    step = _aligned(scale, x, axis, block_size)
    shift = 0.0 if zero_point is None else _aligned(zero_point.to(x.dtype), x, axis, block_size)
    limits = torch.iinfo(dtype)
    exact = torch.clamp(x / step.to(x.dtype) + shift, limits.min, limits.max)
    # Rounded before the shift: half goes to the even multiple of the scale.
    whole = torch.clamp((x / step.to(x.dtype)).round() + shift, limits.min, limits.max)
    if not x.requires_grad:
        return whole.to(dtype)
    return exact + (whole - exact).detach()


def dequantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Tensor:
    step = _aligned(scale, x, axis, block_size)
    plain = x.to(torch.float32)
    if zero_point is not None:
        plain = plain - _aligned(zero_point.to(torch.float32), x, axis, block_size)
    result = plain * step.to(torch.float32)
    return result.to(torch_type(output_dtype) if output_dtype else scale.dtype)


def _aligned(parameter: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """A scale or zero point so that it broadcasts: for the tensor, for each slice or for each block."""
    if parameter.ndim == 0 or (parameter.numel() == 1 and not block):
        return parameter.reshape(())
    if block:
        at = axis % x.ndim
        return parameter.repeat_interleave(block, at).narrow(at, 0, x.shape[at])
    shape = [1] * x.ndim
    shape[axis] = -1
    return parameter.reshape(shape)


def quantize_dynamically(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """To unsigned 8 bits by the range of ``x``, widened to hold 0."""
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = (high - low) / 255
    zero = torch.clamp((-low / scale).round(), 0, 255)
    return quantize(x, scale, zero.to(torch.uint8)), scale, zero.to(torch.uint8)


def integer_matmul(
    a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    left = _shifted(a, a_zero, rows=True)
    right = _shifted(b, b_zero, rows=False)
    return torch.matmul(left, right).to(torch.int32)


def _shifted(x: Tensor, zero: Tensor | None, *, rows: bool) -> Tensor:
    wide = x.to(torch.int64)
    if zero is None:
        return wide
    shift = zero.to(torch.int64)
    return wide - (shift.unsqueeze(-1) if rows and shift.ndim == 1 and shift.numel() > 1 else shift)


def quantized_matmul(
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
) -> Tensor:
    product = torch.matmul(_shifted(a, a_zero, rows=True), _shifted(b, b_zero, rows=False))
    real = product.to(torch.float32) * (a_scale.float() * b_scale.float())
    return quantize(real, y_scale.float(), y_zero)


def integer_convolution(
    x: Tensor,
    weight: Tensor,
    x_zero: Tensor | None = None,
    weight_zero: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """In double precision, which holds every sum of products of bytes exactly."""
    left = x.double() - (0 if x_zero is None else x_zero.double())
    shift = 0 if weight_zero is None else weight_zero.double().reshape(-1, *(1,) * (weight.ndim - 1))
    right = weight.double() - shift
    total = convolve(
        left,
        right,
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    return total.round().to(torch.int32)


def quantized_convolution(
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    weight_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    total = integer_convolution(
        x,
        weight,
        x_zero,
        weight_zero,
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    ).double()
    shape = (-1, *(1,) * (x.ndim - 2))
    if bias is not None:
        total = total + bias.double().reshape(shape)
    step = (x_scale.double() * weight_scale.double()).reshape(shape if weight_scale.numel() > 1 else ())
    return quantize((total * step).float(), y_scale, y_zero)


OPERATORS: Final[Mapping[str, Callable[..., Tensor]]] = {
    "ConvInteger": integer_convolution,
    "DequantizeLinear": dequantize,
    "DynamicQuantizeLinear": quantize_dynamically,
    "MatMulInteger": integer_matmul,
    "QLinearConv": quantized_convolution,
    "QLinearMatMul": quantized_matmul,
    "QuantizeLinear": quantize,
}
