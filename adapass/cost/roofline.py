"""The roofline: an operation takes the longer of its computing and its moving of bytes, plus one launch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from adapass.cost.model import FREE, Cost, Trust, Work
from adapass.target import Target


@dataclass(frozen=True, slots=True)
class Roofline:
    """Prices operations from a target's description alone; never better than ``Trust.MODEL``."""

    efficiency: float = 0.7
    """Share of the peak rate that good kernels reach."""

    def price(self, work: Work, target: Target, threads: int | None = None) -> Cost:
        """The cost of one operation. A number format without a known rate is priced at the rate of f32.

        That is a guess only where computing decides; where moving bytes decides, the rate does not matter.
        """
        moved = work.bytes_read + work.bytes_written
        if not moved and not work.flops:
            return FREE
        traffic = moved / target.bandwidth(threads=threads)
        peak = target.peak(work.dtype, threads=threads)
        rate = peak if peak is not None else target.peak("f32", threads=threads)
        if rate is None:
            raise ValueError(f"target {target.name} has no f32 rate, which its loader should have refused")
        compute = work.flops / (rate * self.efficiency)
        known = peak is not None or compute <= traffic
        return Cost(target.launch_seconds + max(compute, traffic), Trust.MODEL if known else Trust.GUESS)

    def price_all(self, works: Iterable[Work], target: Target, threads: int | None = None) -> Cost:
        """The sum over operations that run one after the other."""
        total = Cost(0.0, Trust.MODEL)
        for work in works:
            total += self.price(work, target, threads)
        return total
