"""Normalisations, soft maxima and dropout (which does nothing at inference)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from adapass.errors import ModelError
from adapass.twin.dtypes import torch_type
from adapass.twin.torch_import import Tensor, functional, torch


def batch_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
    spatial: int = 1,
    outputs: int = 1,
) -> Tensor:
    """By the stored statistics; with ``training_mode`` by those of the batch, new ones returned too."""
    del spatial
    if not training_mode:
        return functional.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)
    axes = (0, *range(2, x.ndim))
    here, spread = x.mean(axes), x.var(axes, correction=0)
    y = functional.batch_norm(x, here, spread, scale, bias, False, 0.0, epsilon)
    if outputs == 1:
        return y
    return y, mean * momentum + here * (1 - momentum), variance * momentum + spread * (1 - momentum)


def instance_norm(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    return functional.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


def layer_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    outputs: int = 1,
) -> Tensor:
    """``stash_type`` is the precision of the statistics."""
    shape = x.shape[axis:] if axis < 0 else x.shape[axis % x.ndim :]
    if outputs == 1 and torch_type(stash_type) == x.dtype and scale.shape == shape:
        return functional.layer_norm(x, tuple(shape), scale, bias, epsilon)
    wide = x.to(torch.promote_types(x.dtype, torch_type(stash_type)))
    along = tuple(range(x.ndim - len(shape), x.ndim))
    mean = wide.mean(along, keepdim=True)
    inverse = (wide.var(along, correction=0, keepdim=True) + epsilon).rsqrt()
    y = ((wide - mean) * inverse).to(x.dtype) * scale
    y = y if bias is None else y + bias
    return y if outputs == 1 else (y, mean, inverse)[:outputs]


def rms_norm(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch_type(stash_type)))
    along = tuple(range(axis % x.ndim, x.ndim))
    return (wide * (wide.square().mean(along, keepdim=True) + epsilon).rsqrt()).to(x.dtype) * scale


def group_norm(
    x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """Until opset 20 scale and bias are one a group, later one a channel."""
    wide = x.to(torch.promote_types(x.dtype, torch_type(stash_type)))
    plain = functional.group_norm(wide, num_groups, eps=epsilon).to(x.dtype)
    repeat = x.shape[1] // scale.shape[0]
    shape = (1, -1, *(1,) * (x.ndim - 2))
    return plain * scale.repeat_interleave(repeat).reshape(shape) + bias.repeat_interleave(repeat).reshape(
        shape
    )


def lp_norm(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """A vector of zeros stays as it is."""
    length = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return x / torch.where(length == 0, torch.ones_like(length), length)


def local_response(
    x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Tensor:
    squares = functional.pad(x.square(), (*(0, 0) * (x.ndim - 2), (size - 1) // 2, size // 2))
    total = squares.unfold(1, size, 1).sum(-1)
    return x / (bias + alpha / size * total) ** beta


def standardise(x: Tensor, *, axes: Sequence[int] = (0, 2, 3)) -> Tensor:
    along = tuple(axes)
    mean = x.mean(along, keepdim=True)
    return (x - mean) / ((x.square().mean(along, keepdim=True) - mean.square()).sqrt() + 1e-9)


def softmax(x: Tensor, *, axis: int | None = None, opset: int = 13) -> Tensor:
    return _over_classes(torch.softmax, x, axis, opset)


def log_softmax(x: Tensor, *, axis: int | None = None, opset: int = 13) -> Tensor:
    return _over_classes(torch.log_softmax, x, axis, opset)


def hardmax(x: Tensor, *, axis: int | None = None, opset: int = 13) -> Tensor:
    return _over_classes(_hard, x, axis, opset)


def _hard(x: Tensor, axis: int) -> Tensor:
    best = x.argmax(axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, best, 1.0)


def _over_classes(
    compute: Callable[[Tensor, int], Tensor], x: Tensor, axis: int | None, opset: int
) -> Tensor:
    """Before opset 13 over all axes from ``axis`` on, together."""
    if opset >= 13:
        return compute(x, -1 if axis is None else axis)
    at = 1 if axis is None else axis % x.ndim
    return compute(x.flatten(at) if at < x.ndim else x, at).reshape(x.shape)


def dropout(
    x: Tensor,
    share: Tensor | None = None,
    training_mode: Tensor | None = None,
    *,
    is_test: int = 1,
    ratio: float = 0.5,
    seed: int = 0,
    outputs: int = 1,
) -> Tensor:
    """Nothing is dropped: a twin computes what inference computes."""
    del is_test, ratio, seed
    if training_mode is not None and bool(training_mode) and (share is None or float(share)):
        raise ModelError(
            "Dropout with training_mode drops at random, which has no twin; export for inference"
        )
    return x if outputs == 1 else (x, torch.ones_like(x, dtype=torch.bool))


OPERATORS: Final[Mapping[str, Callable[..., Tensor]]] = {
    "BatchNormalization": batch_norm,
    "Dropout": dropout,
    "GroupNormalization": group_norm,
    "Hardmax": hardmax,
    "InstanceNormalization": instance_norm,
    "LRN": local_response,
    "LayerNormalization": layer_norm,
    "LogSoftmax": log_softmax,
    "LpNormalization": lp_norm,
    "MeanVarianceNormalization": standardise,
    "RMSNormalization": rms_norm,
    "Softmax": softmax,
}
