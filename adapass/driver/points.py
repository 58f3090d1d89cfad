"""The certified steps of the shipped build as the operating points of its artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from pydantic import JsonValue

from adapass.artifact.manifest import CertifiedPoint, Exits, PointMeasure
from adapass.artifact.points import BALANCED, FAST, SAFE, plain_knobs
from adapass.budgeted import OperatingPoint
from adapass.cost.timing import Ratio
from adapass.driver.depth import exits_record
from adapass.driver.proof import Step, expected_seconds
from adapass.ops import EXIT_THRESHOLDS


@dataclass(frozen=True, slots=True)
class PointTiming:
    """A point timed in turns with the original."""

    seconds: float
    ratio: Ratio


def aliases_of(steps: Sequence[Step]) -> Mapping[int, tuple[str, ...]]:
    """``safe`` and ``fast`` are the ends; ``balanced``, of three or more, is nearest to half way.

    Half way by expected latency, where it is known, so that the names are there before anything is timed.
    """
    if not steps:
        return {}
    last = len(steps) - 1
    found: dict[int, tuple[str, ...]] = {0: (SAFE, FAST)} if last == 0 else {0: (SAFE,), last: (FAST,)}
    if last >= 2:
        found[_balanced(steps)] = (BALANCED,)
    return found


def points_to_measure(steps: Sequence[Step], most: int) -> tuple[int, ...]:
    """Positions of at most ``most`` points worth timing: what ships first, then the other names.

    The second point last: it is the safest one where the first turns out to be no faster than the original.
    """
    named = aliases_of(steps)
    ranked = sorted(named, key=lambda i: (FAST not in named[i], BALANCED not in named[i], i))
    ranked += [1] if len(steps) > 1 and 1 not in named else []
    return tuple(sorted(ranked[:most]))


def first_faster(points: Mapping[int, PointTiming]) -> int:
    """Position of the safest point to offer: behind all that were timed and are no faster than the original.

    An exit that nobody takes costs its head; whoever picks the safest point must not get a slower model.
    """
    slow = max((index for index, timing in points.items() if timing.ratio.value >= 1.0), default=-1)
    faster = [index for index in points if index > slow]
    return min(faster) if slow >= 0 and faster else 0


def manifest_points(steps: Sequence[Step]) -> tuple[CertifiedPoint, ...]:
    return tuple(
        CertifiedPoint(
            name=f"p{index}",
            knobs={} if step.contestant.point is None else plain_knobs(step.contestant.point.knobs),
            certified_drop=step.certified_drop,
            p_value=step.p_value,
            certificate=cast("dict[str, JsonValue]", step.certificate.to_dict()),
        )
        for index, step in enumerate(steps)
    )


def point_measures(
    model: ir.Model, steps: Sequence[Step], timings: Mapping[int, PointTiming]
) -> tuple[PointMeasure, ...]:
    """What is known of each point; ``model`` is the adaptive graph, ``timings`` are by position."""
    named = aliases_of(steps)
    return tuple(
        PointMeasure(
            name=f"p{index}",
            aliases=named.get(index, ()),
            expected_seconds=expected_seconds(step.contestant.point),
            seconds=timings[index].seconds if index in timings else None,
            ratio=_ends(timings[index].ratio) if index in timings else None,
            score=step.score,
            exits=exits_of(model, step.contestant.point, step.exits),
        )
        for index, step in enumerate(steps)
    )


def exits_of(
    model: ir.Model, point: OperatingPoint | None, taken: npt.NDArray[np.int64] | None
) -> Exits | None:
    """How often each exit was taken at ``point``; ``None`` for a model without exits."""
    record = exits_record(model)
    if record is None or taken is None:
        return None
    knobs = {} if point is None else plain_knobs(point.knobs)
    depths = [*record.depths, 1.0]
    shares = np.bincount(taken, minlength=len(depths)) / len(taken)
    built_in = plain_knobs({EXIT_THRESHOLDS: np.array(record.thresholds)})
    return Exits(
        rule=record.rule,
        shares=tuple(float(share) for share in shares),
        thresholds=knobs.get(EXIT_THRESHOLDS, built_in[EXIT_THRESHOLDS]),
        mean_depth=float(np.dot(shares, depths)),
    )


def _balanced(steps: Sequence[Step]) -> int:
    expected = [expected_seconds(step.contestant.point) for step in steps]
    known = [seconds for seconds in expected if seconds is not None]
    middle = (known[0] + known[-1]) / 2 if known else 0.0
    inner = range(1, len(steps) - 1)
    return min(inner, key=lambda i: (abs((expected[i] or middle) - middle), abs(2 * i - len(steps) + 1)))


def _ends(ratio: Ratio) -> tuple[float, float, float]:
    return (ratio.value, ratio.low, ratio.high)
