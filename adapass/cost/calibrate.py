"""A roofline set right by what was measured: few factors, never negative, robust, with an honest interval.

For each class of operations one factor on its roofline time, and one overhead per operation:

    seconds = overhead * operations + sum over classes of factor * roofline seconds of the class

fitted to measured regions with non-negative least squares on relative errors, re-weighted so that single
wild measurements do not bend the rest (Huber 1964). Classes nobody measured share one factor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from adapass.cache import Cache, Json
from adapass.cost.estimate import Estimate
from adapass.cost.model import Trust, Work
from adapass.cost.roofline import Roofline
from adapass.target import Target

KIND: Final = "roofline-calibration"
ROUNDS: Final = 20
HUBER: Final = 0.1
"""Relative error from which a measurement counts less."""
SHRINK: Final = 0.05
"""Weight of the wish that every factor equals the common one; keeps classes nobody measured in bounds."""
UNCALIBRATED_SPREAD: Final = 0.6
"""Half-width of the interval of a plain roofline, relative."""
COVERED: Final = 0.9
PRODUCTS: Final = frozenset({"Conv", "MatMul", "Gemm", "ConvTranspose", "Einsum", "Attention"})

Floats = npt.NDArray[np.float64]


def class_of(work: Work) -> str:
    """The class of operations a factor is shared in."""
    if work.dtype == "i8":
        return "product-i8" if work.op in PRODUCTS or work.op.endswith("Integer") else "other-i8"
    if work.op == "Conv":
        return "convolution"
    return "product" if work.op in PRODUCTS else "other"


@dataclass(frozen=True, slots=True)
class Calibration:
    """Factors by class of operations. Without any it is the plain roofline."""

    factors: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    common: float = 1.0
    """For classes without a factor of their own."""
    overhead_seconds: float | None = None
    """For each operation; ``None``: the target's."""
    low: float = 1.0 - UNCALIBRATED_SPREAD
    """Times the estimate: below it lay (1 - COVERED) / 2 of what was measured."""
    high: float = 1.0 + UNCALIBRATED_SPREAD

    def price(self, works: Iterable[Work], target: Target, threads: int | None) -> Estimate:
        """Seconds of operations that run one after the other; ``Trust.MODEL`` at best."""
        return self.price_of(Features.of(works, target, threads), target)

    def price_of(self, features: Features, target: Target) -> Estimate:
        """Seconds of what the roofline saw."""
        launch = target.launch_seconds if self.overhead_seconds is None else self.overhead_seconds
        seconds = launch * features.count
        seconds += sum(self.factors.get(name, self.common) * part for name, part in features.seconds.items())
        return Estimate(seconds, seconds * self.low, seconds * self.high, features.trust)

    def to_json(self) -> Mapping[str, Json]:
        return {
            "factors": dict(self.factors),
            "common": self.common,
            "overhead_seconds": self.overhead_seconds,
            "low": self.low,
            "high": self.high,
        }


NOT_CALIBRATED: Final = Calibration()


@dataclass(frozen=True, slots=True)
class Features:
    """What the roofline says about some operations, by class, launches apart."""

    seconds: Mapping[str, float]
    count: int
    trust: Trust

    @classmethod
    def of(cls, works: Iterable[Work], target: Target, threads: int | None) -> Features:
        roofline = Roofline()
        seconds: dict[str, float] = {}
        count, trust = 0, Trust.MODEL
        for work in works:
            cost = roofline.price(work, target, threads)
            if cost.seconds:
                name = class_of(work)
                seconds[name] = seconds.get(name, 0.0) + cost.seconds - target.launch_seconds
                count += 1
                trust = min(trust, cost.trust)
        return cls(MappingProxyType(seconds), count, trust)


def calibrate(features: Sequence[Features], measured_seconds: Sequence[float]) -> Calibration:
    """Fit factors to regions that were measured; fewer than three regions calibrate nothing."""
    if len(features) != len(measured_seconds):
        raise ValueError(f"{len(features)} modelled regions but {len(measured_seconds)} measured ones")
    if len(features) < 3:
        return NOT_CALIBRATED
    names = sorted({name for each in features for name in each.seconds})
    measured = np.asarray(measured_seconds, np.float64)
    if not (np.isfinite(measured) & (measured > 0)).all():
        raise ValueError("measured seconds must be finite and above 0")
    rows = np.array([[each.count, *(each.seconds.get(name, 0.0) for name in names)] for each in features])
    solution = _robust(rows / measured[:, None])
    ratios = 1.0 / np.maximum(rows @ solution / measured, 1e-9)
    tail = 100 * (1 - COVERED) / 2
    # Few residuals show too little of their tails: quantiles are widened as for a t distribution.
    widen = 1 + 2 / len(measured)
    low, high = np.percentile(ratios, (tail, 100 - tail))
    return Calibration(
        factors=MappingProxyType({name: float(f) for name, f in zip(names, solution[1:], strict=True)}),
        common=float(np.median(solution[1:])),
        overhead_seconds=float(solution[0]),
        low=float(max(0.0, 1 - (1 - min(low, 1.0)) * widen)),
        high=float(1 + (max(high, 1.0) - 1) * widen),
    )


def _robust(rows: Floats) -> Floats:
    """Non-negative x with ``rows @ x`` near 1, large errors counted by their size and not its square."""
    optimize: Any = import_module("scipy.optimize")
    scale = np.maximum(np.abs(rows).max(axis=0), 1e-300)
    scaled = rows / scale
    weights = np.ones(len(rows))
    common = np.median(1.0 / np.maximum(rows[:, 1:].sum(axis=1), 1e-300))
    prior = np.diag(np.r_[0.0, np.full(rows.shape[1] - 1, SHRINK)])
    wanted = np.r_[0.0, SHRINK * common * scale[1:]]
    solution = np.zeros(rows.shape[1])
    for _ in range(ROUNDS):
        left = np.vstack([scaled * weights[:, None], prior])
        solution, _ = optimize.nnls(left, np.r_[weights, wanted])
        errors = np.abs(scaled @ solution - 1.0)
        weights = np.sqrt(np.minimum(1.0, HUBER / np.maximum(errors, 1e-12)))
    found: Floats = solution / scale
    return found


def store(cache: Cache, key: Mapping[str, Json], calibration: Calibration) -> None:
    """Keep a calibration under what it is true for: generator, target, machine, threads."""
    cache.put(KIND, key, calibration.to_json())


def load(cache: Cache, key: Mapping[str, Json]) -> Calibration:
    """The calibration stored under ``key``; the plain roofline where there is none."""
    entry = cache.get(KIND, key)
    if not isinstance(entry, Mapping):
        return NOT_CALIBRATED
    numbers = [entry.get(name) for name in ("common", "overhead_seconds", "low", "high")]
    factors = entry.get("factors")
    floats = [number for number in numbers if isinstance(number, float)]
    if len(floats) != len(numbers) or not isinstance(factors, Mapping):
        return NOT_CALIBRATED
    named = {name: value for name, value in factors.items() if isinstance(value, float)}
    return Calibration(MappingProxyType(named), *floats)
