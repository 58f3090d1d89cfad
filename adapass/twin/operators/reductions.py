"""Reductions over axes, which come as an attribute or, since opset 13 or 18, as an input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from adapass.twin.dtypes import integers
from adapass.twin.torch_import import Tensor, torch

Reduce = Callable[[Tensor, tuple[int, ...], bool], Tensor]


def _reduction(
    name: str, reduce: Reduce, single: Callable[[Tensor], Tensor] | None = None
) -> Callable[..., Tensor]:
    """``single`` is what a reduction over no axes at all does to each element; nothing, by default."""

    def apply(
        x: Tensor,
        where: Tensor | None = None,
        *,
        axes: Sequence[int] | None = None,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Tensor:
        listed = tuple(axes or ()) if where is None else tuple(integers(where))
        if not listed and noop_with_empty_axes:
            return x if single is None else single(x)
        along = tuple(a % x.ndim for a in listed) if listed else tuple(range(x.ndim))
        if not along:
            return x if single is None else single(x)
        return reduce(x, along, bool(keepdims)).to(x.dtype)

    apply.__name__ = name
    return apply


def _extreme(pick: Callable[..., Tensor], *, largest: bool) -> Reduce:
    def reduce(x: Tensor, along: tuple[int, ...], keep: bool) -> Tensor:
        if all(x.shape[axis] for axis in along):
            return pick(x.to(torch.uint8), along, keep) if x.dtype == torch.bool else pick(x, along, keep)
        if x.dtype == torch.bool:
            return torch.full_like(x.sum(along, keepdim=keep), not largest)
        # Nothing to choose from: the neutral element.
        limits = torch.finfo(x.dtype) if x.is_floating_point() else torch.iinfo(x.dtype)
        none = (
            (-torch.inf if largest else torch.inf)
            if x.is_floating_point()
            else (limits.min if largest else limits.max)
        )
        return x.sum(along, keepdim=keep).to(x.dtype) * 0 + none

    return reduce


def _product(x: Tensor, along: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted(along, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _mean(x: Tensor, along: tuple[int, ...], keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(along, keepdim=keep)
    return x.double().mean(along, keepdim=keep)


OPERATORS: Final[Mapping[str, Callable[..., Tensor]]] = {
    "ReduceL1": _reduction("norm_1", lambda x, along, keep: x.abs().sum(along, keepdim=keep), torch.abs),
    "ReduceL2": _reduction(
        "norm_2", lambda x, along, keep: torch.linalg.vector_norm(x, 2, along, keep), torch.abs
    ),
    "ReduceLogSum": _reduction("log_sum", lambda x, along, keep: x.sum(along, keepdim=keep).log(), torch.log),
    "ReduceLogSumExp": _reduction("log_sum_exp", lambda x, along, keep: torch.logsumexp(x, along, keep)),
    "ReduceMax": _reduction("largest", _extreme(torch.amax, largest=True)),
    "ReduceMean": _reduction("mean_over", _mean),
    "ReduceMin": _reduction("smallest", _extreme(torch.amin, largest=False)),
    "ReduceProd": _reduction("product_over", _product),
    "ReduceSum": _reduction("sum_over", lambda x, along, keep: x.sum(along, keepdim=keep)),
    "ReduceSumSquare": _reduction(
        "sum_of_squares", lambda x, along, keep: x.square().sum(along, keepdim=keep), torch.square
    ),
}
