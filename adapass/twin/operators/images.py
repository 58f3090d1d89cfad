"""Resampling of images. Resize is a product with one small matrix an axis, which every mode fits into."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from adapass.twin.dtypes import integers
from adapass.twin.torch_import import Tensor, functional, torch


@dataclass(frozen=True, slots=True)
class _Sampling:
    """How Resize reads along an axis (its attributes)."""

    mode: str
    coordinates: str
    nearest: str
    cubic: float
    exclude_outside: bool
    antialias: bool


def resize(
    x: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
    *,
    antialias: int = 0,
    axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
    opset: int = 11,
) -> Tensor:
    """Opset 10 has no ``roi`` (its second input is ``scales``) and other coordinates."""
    if opset < 11:
        roi, scales, coordinate_transformation_mode, nearest_mode = None, roi, "asymmetric", "floor"
    along = [a % x.ndim for a in axes] if axes is not None else list(range(x.ndim))
    factors, wanted = _targets(x, along, scales, sizes, keep_aspect_ratio_policy)
    crop = [0.0] * len(along) + [1.0] * len(along) if roi is None or not roi.numel() else roi.tolist()
    how = _Sampling(
        mode,
        coordinate_transformation_mode,
        nearest_mode,
        cubic_coeff_a,
        bool(exclude_outside),
        bool(antialias),
    )
    outside = torch.zeros((), dtype=torch.bool)
    for i, axis in enumerate(along):
        if factors[i] == 1.0 and wanted[i] == x.shape[axis] and how.coordinates != "tf_crop_and_resize":
            continue
        places = _coordinates(
            how.coordinates, wanted[i], x.shape[axis], factors[i], crop[i], crop[len(along) + i]
        )
        if how.coordinates == "tf_crop_and_resize":
            beyond = (places < 0) | (places > x.shape[axis] - 1)
            outside = outside | beyond.reshape(-1, *(1,) * (x.ndim - 1 - axis))
        matrix = _matrix(how, places, x.shape[axis], factors[i])
        wide = torch.promote_types(x.dtype, torch.float32)
        resampled = torch.movedim(x, axis, -1).to(wide) @ matrix.to(wide).t()
        x = torch.movedim(resampled, -1, axis).to(x.dtype)
    return torch.where(outside, torch.tensor(extrapolation_value, dtype=x.dtype), x) if outside.any() else x


def _targets(
    x: Tensor, along: Sequence[int], scales: Tensor | None, sizes: Tensor | None, policy: str
) -> tuple[list[float], list[int]]:
    if sizes is None or not sizes.numel():
        assert scales is not None
        factors = [float(s) for s in scales.tolist()]
        return factors, [math.floor(x.shape[a] * f) for a, f in zip(along, factors, strict=True)]
    wanted = [int(n) for n in integers(sizes)]
    factors = [n / x.shape[a] for a, n in zip(along, wanted, strict=True)]
    if policy != "stretch":
        one = min(factors) if policy == "not_larger" else max(factors)
        factors = [one] * len(along)
        wanted = [math.floor(x.shape[a] * one + 0.5) for a in along]
    return factors, wanted


def _coordinates(mode: str, wanted: int, extent: int, factor: float, start: float, end: float) -> Tensor:
    place = torch.arange(wanted, dtype=torch.float64)
    if mode == "asymmetric":
        return place / factor
    if mode == "align_corners":
        return place * (extent - 1) / (wanted - 1) if wanted > 1 else place * 0
    if mode == "tf_crop_and_resize":
        step = (end - start) * (extent - 1) / (wanted - 1) if wanted > 1 else 0.0
        first = start * (extent - 1) if wanted > 1 else 0.5 * (start + end) * (extent - 1)
        return first + place * step
    if mode == "pytorch_half_pixel" and wanted == 1:
        return place * 0 - 0.5
    if mode == "half_pixel_symmetric":
        adjustment = wanted / (factor * extent)
        return extent / 2 * (1 - adjustment) + (place + 0.5) / factor - 0.5
    return (place + 0.5) / factor - 0.5


def _matrix(how: _Sampling, places: Tensor, extent: int, factor: float) -> Tensor:
    """[wanted, extent]: how much each input position gives to each output position."""
    if how.mode == "nearest":
        nearest = _nearest(how.nearest, places).clamp(0, extent - 1).long()
        return functional.one_hot(nearest, extent)
    stretch = min(factor, 1.0) if how.antialias else 1.0
    reach = (1 if how.mode == "linear" else 2) / stretch
    first = (
        torch.floor(places - reach).long() + 1
        if how.antialias
        else torch.floor(places).long() + 1 - int(reach)
    )
    taps = first.unsqueeze(1) + torch.arange(2 * math.ceil(reach) + (1 if how.antialias else 0))
    weight = _kernel(how, (places.unsqueeze(1) - taps) * stretch)
    if how.exclude_outside:
        weight = weight * ((taps >= 0) & (taps < extent))
    if how.exclude_outside or how.antialias:
        weight = weight / weight.sum(1, keepdim=True)
    matrix = torch.zeros(len(places), extent, dtype=torch.float64)
    return matrix.scatter_add(1, taps.clamp(0, extent - 1), weight)


def _kernel(how: _Sampling, distance: Tensor) -> Tensor:
    d = distance.abs()
    if how.mode == "linear":
        return (1 - d).clamp(min=0)
    a = how.cubic
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


def _nearest(mode: str, places: Tensor) -> Tensor:
    if mode == "floor":
        return torch.floor(places)
    if mode == "ceil":
        return torch.ceil(places)
    return torch.ceil(places - 0.5) if mode == "round_prefer_floor" else torch.floor(places + 0.5)


def upsample(
    x: Tensor,
    factors: Tensor | None = None,
    *,
    mode: str = "nearest",
    scales: Sequence[float] | None = None,
) -> Tensor:
    """Deprecated since opset 10."""
    given = torch.tensor(scales) if factors is None else factors
    return resize(
        x, None, given, mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )


_MODES: Final[Mapping[str, str]] = {
    "bilinear": "bilinear",
    "linear": "bilinear",
    "cubic": "bicubic",
    "bicubic": "bicubic",
    "nearest": "nearest",
}


def grid_sample(
    x: Tensor,
    grid: Tensor,
    *,
    align_corners: int = 0,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
) -> Tensor:
    return functional.grid_sample(
        x, grid, mode=_MODES[mode], padding_mode=padding_mode, align_corners=bool(align_corners)
    )


def affine_grid(theta: Tensor, size: Tensor, *, align_corners: int = 0) -> Tensor:
    return functional.affine_grid(theta, integers(size), align_corners=bool(align_corners))


OPERATORS: Final[Mapping[str, Callable[..., Tensor]]] = {
    "AffineGrid": affine_grid,
    "GridSample": grid_sample,
    "Resize": resize,
    "Upsample": upsample,
}
