"""Attention as ONNX defines it since opset 23, and rotary embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

from adapass.twin.dtypes import torch_type
from adapass.twin.torch_import import Tensor, torch


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int = 0,
    q_num_heads: int = 0,
    qk_matmul_output_mode: int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
    outputs: int = 1,
) -> Tensor:
    """Inputs of rank 3 hold their heads side by side; keys and values repeat over groups of queries."""
    flat = query.ndim == 3
    q = _by_head(query, q_num_heads)
    k, v = _by_head(key, kv_num_heads), _by_head(value, kv_num_heads)
    k = k if past_key is None else torch.cat([past_key, k], 2)
    v = v if past_value is None else torch.cat([past_value, v], 2)
    offset = 0 if past_key is None else past_key.shape[2]
    wide_k, wide_v = _repeated(k, q.shape[1]), _repeated(v, q.shape[1])
    factor = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    # Half of the scale on each side, as ONNX defines it: half precision overflows later.
    scores = torch.matmul(q * math.sqrt(factor), wide_k.mT * math.sqrt(factor))
    raw = scores
    # Capped before the mask, whose -inf has to stay what it is.
    scores = softcap * torch.tanh(scores / softcap) if softcap else scores
    bias = _bias(scores, mask, lengths, offset, causal=bool(is_causal))
    biased = scores if bias is None else scores + bias
    weights = _softmax(biased if softmax_precision is None else biased.to(torch_type(softmax_precision)))
    weights = weights.to(q.dtype)
    y = torch.matmul(weights, wide_v)
    y = y.transpose(1, 2).flatten(2) if flat else y
    if outputs == 1:
        return y
    shown = (raw, scores if softcap else biased, biased, weights)[qk_matmul_output_mode]
    return (y, k, v, shown)[:outputs]


def _by_head(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2) if x.ndim == 3 else x


def _repeated(x: Tensor, heads: int) -> Tensor:
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)


def _softmax(scores: Tensor) -> Tensor:
    """Rows that may look nowhere become zero, not NaN."""
    return (
        torch.nan_to_num(torch.softmax(scores, -1), nan=0.0)
        if scores.isneginf().any()
        else torch.softmax(scores, -1)
    )


def _bias(
    scores: Tensor, mask: Tensor | None, lengths: Tensor | None, offset: int, *, causal: bool
) -> Tensor | None:
    rows, columns = scores.shape[-2:]
    bias: Tensor | None = None
    if mask is not None:
        missing = columns - mask.shape[-1]
        if mask.dtype == torch.bool:
            bias = torch.zeros(mask.shape, dtype=scores.dtype).masked_fill(~mask, -torch.inf)
        else:
            bias = mask.to(scores.dtype)
        if missing > 0:
            bias = torch.nn.functional.pad(bias, (0, missing), value=-torch.inf)
    place = torch.arange(columns)
    if causal:
        past = offset if lengths is None else (lengths - rows).reshape(-1, 1, 1, 1)
        later = place > torch.arange(rows).unsqueeze(1) + past
        bias = _closed(bias, later, scores)
    if lengths is not None:
        bias = _closed(bias, place >= lengths.reshape(-1, 1, 1, 1), scores)
    return bias


def _closed(bias: Tensor | None, where: Tensor, scores: Tensor) -> Tensor:
    shut = torch.zeros(where.shape, dtype=scores.dtype).masked_fill(where, -torch.inf)
    return shut if bias is None else bias + shut


def rotary_embedding(
    x: Tensor,
    cosine: Tensor,
    sine: Tensor,
    positions: Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    flat = x.ndim == 3
    heads = x.unflatten(-1, (num_heads, -1)) if flat else x.transpose(1, 2)
    width = rotary_embedding_dim or heads.shape[-1]
    turned, rest = heads[..., :width], heads[..., width:]
    cos = cosine if positions is None else cosine[positions]
    sin = sine if positions is None else sine[positions]
    cos, sin = cos[..., : width // 2].unsqueeze(2), sin[..., : width // 2].unsqueeze(2)
    first, second = (turned[..., ::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    real, imaginary = cos * first - sin * second, sin * first + cos * second
    joined = (
        torch.stack([real, imaginary], -1).flatten(-2) if interleaved else torch.cat([real, imaginary], -1)
    )
    whole = torch.cat([joined, rest], -1)
    return whole.flatten(2) if flat else whole.transpose(1, 2)


OPERATORS: Final[Mapping[str, Callable[..., Tensor]]] = {
    "Attention": attention,
    "RotaryEmbedding": rotary_embedding,
}
