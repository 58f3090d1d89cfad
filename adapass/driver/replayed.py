"""The final comparison, taken once where a latency table is replayed: it decides what ships."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from adapass.artifact.manifest import Latency
from adapass.cache import Json
from adapass.cost.timing import Ratio
from adapass.driver.comparing import Comparison, Final, compare
from adapass.driver.context import Context
from adapass.driver.finals import feeds_digest, file_digest, folder_digest
from adapass.driver.latency_table import LatencyTable
from adapass.driver.points import PointTiming
from adapass.driver.proof import Step
from adapass.errors import DataError

KIND = "comparison"


def compared_once(
    context: Context, final: Final, steps: Sequence[Step], *, most_points: int, max_seconds: float | None
) -> Comparison:
    """Measured now; with a latency table only when the very same build was never compared."""
    table = context.cache
    if not isinstance(table, LatencyTable):
        return compare(context, final, steps, most_points=most_points, max_seconds=max_seconds)
    key = _key(context, final, steps, most_points)
    known = table.get(KIND, key)
    if isinstance(known, Mapping):
        try:
            return _read(cast("Mapping[str, Any]", known))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{table.file}: a comparison is damaged ({error!r}); remove the file") from error
    found = compare(context, final, steps, most_points=most_points, max_seconds=max_seconds)
    table.put(KIND, key, _plain(found))
    return found


def _key(context: Context, final: Final, steps: Sequence[Step], most_points: int) -> Json:
    request = context.request
    return {
        "original": file_digest(context.material.path),
        "build": folder_digest(final.build.folder),
        "feeds": feeds_digest(context.feeds(2)),
        "machine": context.machine,
        "threads": request.threads,
        "batch": request.batch,
        "steps": [_knobs(step) for step in steps],
        "points": most_points,
    }


def _knobs(step: Step) -> Json:
    point = step.contestant.point
    return {} if point is None else {name: repr(value.tolist()) for name, value in point.knobs.items()}


def _plain(found: Comparison) -> Json:
    points: dict[str, Json] = {
        str(index): {"seconds": timing.seconds, "ratio": timing.ratio.to_json()}
        for index, timing in found.points.items()
    }
    return {
        "latency": cast("Mapping[str, Json]", found.latency.model_dump(mode="json")),
        "ratio": None if found.ratio is None else found.ratio.to_json(),
        "points": points,
    }


def _read(known: Mapping[str, Any]) -> Comparison:
    """Raises where a number is missing; pydantic complains about others."""
    return Comparison(
        Latency.model_validate(known["latency"]),
        None if known["ratio"] is None else Ratio(**known["ratio"]),
        {
            int(index): PointTiming(float(timing["seconds"]), Ratio(**timing["ratio"]))
            for index, timing in known["points"].items()
        },
    )
