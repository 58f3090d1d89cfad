"""Operators that pick, place, rank or search elements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from adapass.twin.torch_import import Tensor, torch


def gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    place = _counted_from_front(indices, x.shape[axis])
    at = axis % x.ndim
    flat = x.index_select(at, place.reshape(-1))
    return flat.reshape((*x.shape[:at], *indices.shape, *x.shape[at + 1 :]))


def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    return x.gather(axis, _counted_from_front(indices, x.shape[axis]))


def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    depth = indices.shape[-1]
    if not batch_dims:
        return x[tuple(indices.long().unbind(-1))] if depth else x
    rows = indices.reshape(-1, *indices.shape[batch_dims:])
    samples = x.reshape(-1, *x.shape[batch_dims:])
    picked = torch.stack([s[tuple(r.long().unbind(-1))] for s, r in zip(samples, rows, strict=True)])
    return picked.reshape(*indices.shape[:batch_dims], *picked.shape[1:])


_REDUCE: Final[Mapping[str, str]] = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def scatter_elements(
    x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none"
) -> Tensor:
    place = _counted_from_front(indices, x.shape[axis])
    if reduction == "none":
        return x.scatter(axis, place, updates)
    return x.scatter_reduce(axis, place, updates, _REDUCE[reduction], include_self=True)


def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """Through flat positions: a row of ``indices`` names a whole slice of ``x``."""
    depth = indices.shape[-1]
    lengths = x.shape[:depth]
    rest = x[(0,) * depth].numel() if x.numel() else 1
    flat = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for i, n in enumerate(lengths):
        flat = flat * n + _counted_from_front(indices[..., i], n)
    place = flat.reshape(-1, 1).expand(-1, rest)
    table = x.reshape(-1, rest)
    new = updates.reshape(-1, rest)
    return scatter_elements(table, place, new, axis=0, reduction=reduction).reshape(x.shape)


def tensor_scatter(
    past: Tensor,
    update: Tensor,
    write_indices: Tensor | None = None,
    *,
    axis: int = -2,
    mode: str = "linear",
) -> Tensor:
    """Writes a run of rows into each sample of a cache, wrapping around where it is circular."""
    at = axis % past.ndim
    begin = torch.zeros(past.shape[0], dtype=torch.int64) if write_indices is None else write_indices
    rows = begin.reshape(-1, 1) + torch.arange(update.shape[at])
    if mode == "circular":
        rows = rows % past.shape[at]
    shape = [past.shape[0], *(1,) * (past.ndim - 1)]
    shape[at] = update.shape[at]
    return past.scatter(at, rows.reshape(shape).expand(update.shape), update)


def one_hot(indices: Tensor, depth: Tensor, values: Tensor, *, axis: int = -1) -> Tensor:
    count = int(depth.reshape(()).item())
    place = indices.long() % count
    inside = (indices >= -count) & (indices < count)
    hot = (place.unsqueeze(-1) == torch.arange(count)) & inside.unsqueeze(-1)
    return torch.where(hot, values[1], values[0]).movedim(-1, axis)


def nonzero(x: Tensor) -> Tensor:
    return x.nonzero().t()


def compress(x: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    kept = condition.nonzero().reshape(-1)
    return x.reshape(-1).index_select(0, kept) if axis is None else x.index_select(axis, kept)


def top_k(
    x: Tensor,
    count: Tensor | None = None,
    *,
    axis: int = -1,
    k: int = 0,
    largest: int = 1,
    sorted: int = 1,  # noqa: A002  (name of the attribute)
) -> tuple[Tensor, Tensor]:
    """Ties go to the smaller index, as ``torch.topk`` does not promise; ``k`` is opset 9's ``count``."""
    del sorted
    most = k if count is None else int(count.reshape(()).item())
    values, order = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, most), order.narrow(axis, 0, most)


def arg_max(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return _first_or_last(torch.argmax, x, axis, keepdims, select_last_index)


def arg_min(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return _first_or_last(torch.argmin, x, axis, keepdims, select_last_index)


def _first_or_last(search: Callable[..., Tensor], x: Tensor, axis: int, keepdims: int, last: int) -> Tensor:
    found = search(x.flip(axis) if last else x, dim=axis, keepdim=bool(keepdims))
    return x.shape[axis] - 1 - found if last else found


def cumulative_sum(x: Tensor, axis: Tensor, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    return _cumulative(torch.cumsum, 0, x, int(axis.reshape(()).item()), exclusive, reverse)


def cumulative_product(x: Tensor, axis: Tensor, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    return _cumulative(torch.cumprod, 1, x, int(axis.reshape(()).item()), exclusive, reverse)


def _cumulative(
    scan: Callable[..., Tensor], neutral: int, x: Tensor, axis: int, exclusive: int, reverse: int
) -> Tensor:
    along = x.flip(axis) if reverse else x
    total = scan(along, axis, dtype=x.dtype)
    if exclusive:
        first = torch.full_like(along.narrow(axis, 0, 1), neutral)
        total = torch.cat([first, total.narrow(axis, 0, x.shape[axis] - 1)], axis)
    return total.flip(axis) if reverse else total


def _counted_from_front(indices: Tensor, extent: int) -> Tensor:
    place = indices.long()
    return torch.where(place < 0, place + extent, place)


OPERATORS: Final[Mapping[str, Callable[..., Tensor]]] = {
    "ArgMax": arg_max,
    "ArgMin": arg_min,
    "Compress": compress,
    "CumProd": cumulative_product,
    "CumSum": cumulative_sum,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "NonZero": nonzero,
    "OneHot": one_hot,
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "TensorScatter": tensor_scatter,
    "TopK": top_k,
}
