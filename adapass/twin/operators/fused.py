"""Operators that ONNX Runtime adds (domain ``com.microsoft``) and models fused for it contain."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

from adapass.twin.operators.normalisation import layer_norm, rms_norm
from adapass.twin.torch_import import Tensor, functional, torch


def skip_layer_norm(
    x: Tensor,
    skip: Tensor,
    gamma: Tensor,
    beta: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    epsilon: float = 1e-12,
    outputs: int = 1,
) -> Tensor:
    total = x + skip if bias is None else x + skip + bias
    y = layer_norm(total, gamma, beta, epsilon=epsilon)
    return y if outputs == 1 else (y, None, None, total)[:outputs]


def skip_rms_norm(
    x: Tensor,
    skip: Tensor,
    gamma: Tensor,
    bias: Tensor | None = None,
    *,
    epsilon: float = 1e-12,
    outputs: int = 1,
) -> Tensor:
    total = x + skip if bias is None else x + skip + bias
    y = rms_norm(total, gamma, epsilon=epsilon)
    return y if outputs == 1 else (y, None, None, total)[:outputs]


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    return functional.gelu(x + bias)


def plain_gelu(x: Tensor) -> Tensor:
    return functional.gelu(x)


def fast_gelu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    return functional.gelu(x if bias is None else x + bias, approximate="tanh")


def quick_gelu(x: Tensor, *, alpha: float = 1.702) -> Tensor:
    return x * torch.sigmoid(alpha * x)


def packed_attention(
    x: Tensor,
    weights: Tensor,
    bias: Tensor | None = None,
    mask_index: Tensor | None = None,
    *,
    num_heads: int,
    scale: float = 0.0,
    mask_filter_value: float = -10000.0,
    unidirectional: int = 0,
) -> Tensor:
    """Queries, keys and values in one product; ``mask_index`` is a mask [batch, tokens] of ones and zeros."""
    packed = torch.matmul(x, weights)
    packed = packed if bias is None else packed + bias
    return _heads(
        *packed.chunk(3, -1),
        num_heads=num_heads,
        scale=scale,
        mask=mask_index,
        fill=mask_filter_value,
        causal=bool(unidirectional),
    )


def multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    attention_bias: Tensor | None = None,
    *,
    num_heads: int,
    scale: float = 0.0,
    mask_filter_value: float = -10000.0,
    unidirectional: int = 0,
) -> Tensor:
    """Separate queries, keys and values of shape [batch, tokens, heads * width]."""
    if bias is not None:
        width = query.shape[-1]
        query = query + bias[:width]
        key, value = key + bias[width : 2 * width], value + bias[2 * width :]
    return _heads(
        query,
        key,
        value,
        num_heads=num_heads,
        scale=scale,
        mask=key_padding_mask,
        fill=mask_filter_value,
        causal=bool(unidirectional),
        more=attention_bias,
    )


def _heads(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    num_heads: int,
    scale: float,
    mask: Tensor | None,
    fill: float,
    causal: bool,
    more: Tensor | None = None,
) -> Tensor:
    q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    scores = torch.matmul(q, k.mT) * (scale or 1 / math.sqrt(q.shape[-1]))
    if mask is not None:
        scores = scores + (1 - mask.to(scores.dtype))[:, None, None, :] * fill
    if more is not None:
        scores = scores + more
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    return torch.matmul(torch.softmax(scores, -1), v).transpose(1, 2).flatten(2)


def simplified_layer_norm(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    return rms_norm(x, scale, axis=axis, epsilon=epsilon, stash_type=stash_type)


OPERATORS: Final[Mapping[str, Callable[..., Tensor]]] = {
    "SimplifiedLayerNormalization": simplified_layer_norm,
    "com.microsoft::Attention": packed_attention,
    "com.microsoft::BiasGelu": bias_gelu,
    "com.microsoft::FastGelu": fast_gelu,
    "com.microsoft::Gelu": plain_gelu,
    "com.microsoft::MultiHeadAttention": multi_head_attention,
    "com.microsoft::QuickGelu": quick_gelu,
    "com.microsoft::SkipLayerNormalization": skip_layer_norm,
    "com.microsoft::SkipSimplifiedLayerNormalization": skip_rms_norm,
}
