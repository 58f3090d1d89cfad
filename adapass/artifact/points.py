"""The certified operating points of an artifact: looked up by name, checked on reading, fed on running."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adapass.artifact.manifest import CertifiedPoint, Description, Exits, PointMeasure, Trust
from adapass.budgeted import Array
from adapass.errors import ArtifactError, UsageError

SAFE, BALANCED, FAST = "safe", "balanced", "fast"
"""The most careful point, the one in the middle by latency, the most aggressive one."""


@dataclass(frozen=True, slots=True)
class Point:
    """A certified setting of the run-time knobs, and what is known of it."""

    name: str
    aliases: tuple[str, ...]
    knobs: Mapping[str, tuple[float | None, ...]]
    """``None`` is infinite: an exit that is never taken."""
    certified_drop: float
    """The smallest budget at which it is certified, with the confidence of the certificate."""
    loss: float | None
    """Mean paired loss on the certify samples."""
    seconds: float | None
    """Per batch; ``None`` where nothing is known."""
    trust: Trust
    ratio: tuple[float, float, float] | None
    """Measured time over the original's, and its interval."""
    score: float | None
    exits: Exits | None
    is_default: bool

    @property
    def title(self) -> str:
        return " = ".join((self.name, *self.aliases))

    def to_dict(self) -> dict[str, object]:
        """JSON values only."""
        return {
            "name": self.name,
            "aliases": list(self.aliases),
            "default": self.is_default,
            "certified_drop": self.certified_drop,
            "loss": self.loss,
            "seconds": self.seconds,
            "trust": str(self.trust),
            "ratio": None if self.ratio is None else list(self.ratio),
            "score": self.score,
            "shares": None if self.exits is None else list(self.exits.shares),
            "knobs": {name: list(values) for name, values in self.knobs.items()},
        }


def points_of(about: Description) -> tuple[Point, ...]:
    """The points of an artifact, from the most careful to the most aggressive."""
    estimates = estimated_seconds(about.point_measures)
    rows = zip(about.points, about.point_measures, estimates, strict=True)
    return tuple(_point(about, point, measure, guess) for point, measure, guess in rows)


def find_point(about: Description, name: str, where: str) -> Point:
    """The point of that name or alias.

    Raises:
        UsageError: there is none; the message lists what there is.

    """
    points = points_of(about)
    for point in points:
        if name == point.name or name in point.aliases:
            return point
    if not points:
        raise UsageError(f"{where} has no certified operating points; run it without a point")
    known = ", ".join(point.title for point in points)
    raise UsageError(f"{where} has no operating point '{name}'; it has {known}")


def knob_arrays(knobs: Mapping[str, Sequence[float | None]]) -> dict[str, Array]:
    """The knobs as the model takes them."""
    return {
        name: np.array([math.inf if value is None else value for value in values], np.float32)
        for name, values in knobs.items()
    }


def plain_knobs(knobs: Mapping[str, Array]) -> dict[str, tuple[float | None, ...]]:
    """Arrays as the manifest holds them.

    Raises:
        ArtifactError: a value is neither finite nor plus infinity.

    """
    for name, values in knobs.items():
        numbers = np.asarray(values, np.float64)
        if bool(np.isnan(numbers).any()) or bool(np.isneginf(numbers).any()):
            raise ArtifactError(f"knob '{name}' is {numbers.tolist()}; numbers or plus infinity expected")
    return {
        name: tuple(float(v) if np.isfinite(v) else None for v in np.asarray(values, np.float64).reshape(-1))
        for name, values in sorted(knobs.items())
    }


def estimated_seconds(measures: Sequence[PointMeasure]) -> tuple[float | None, ...]:
    """Seconds of every point: measured where it was, else expected, put on the scale of the measurements.

    Expected times are sums of parts and lack what the parts share. Their ratio to the measured times of the
    neighbours carries over.
    """
    pairs = sorted((m.expected_seconds, m.seconds) for m in measures if m.expected_seconds and m.seconds)
    known = [expected for expected, _ in pairs]
    factors = [measured / expected for expected, measured in pairs]

    def one(measure: PointMeasure) -> float | None:
        if measure.seconds is not None or measure.expected_seconds is None or not known:
            return measure.expected_seconds if measure.seconds is None else measure.seconds
        return measure.expected_seconds * float(np.interp(measure.expected_seconds, known, factors))

    return tuple(one(measure) for measure in measures)


def check_points(about: Description, where: str) -> None:
    """Refuse points that contradict each other or the model.

    Raises:
        ArtifactError: the first thing that is wrong.

    """
    wrong = next(_contradictions(about), None)
    if wrong is not None:
        raise ArtifactError(f"{where}: {wrong}; the artifact was not written by adapass")


def _contradictions(about: Description) -> Iterator[str]:
    points, measures = about.points, about.point_measures
    names = [point.name for point in points]
    if names != [f"p{index}" for index in range(len(points))]:
        yield f"operating points are called {names}, expected p0, p1 and so on in order"
    if [measure.name for measure in measures] != names:
        yield "point_measures are not those of the operating points"
    aliases = [alias for measure in measures for alias in measure.aliases]
    if len(set(aliases)) != len(aliases) or set(aliases) & set(names):
        yield f"aliases of operating points are {aliases}, expected different ones"
    if (about.default_point is None) != (not points) or (points and about.default_point not in names):
        yield f"default_point is {about.default_point!r}, expected one of {names or 'none'}"
    drops = [point.certified_drop for point in points]
    if drops != sorted(drops):
        yield f"certified_drop is {drops}, expected never to fall"
    for point in points:
        yield from _bad_knobs(about, point)


def _bad_knobs(about: Description, point: CertifiedPoint) -> Iterator[str]:
    ports = {port.name: port for port in about.inputs if port.optional}
    if point.knobs.keys() != about.points[0].knobs.keys():
        yield f"operating point {point.name} sets {sorted(point.knobs)}, p0 {sorted(about.points[0].knobs)}"
    for name, values in point.knobs.items():
        port = ports.get(name)
        if port is None or port.dtype != "float32" or port.shape != (len(values),):
            yield f"operating point {point.name} sets '{name}' to {len(values)} numbers; no such knob"


def _point(about: Description, point: CertifiedPoint, measure: PointMeasure, seconds: float | None) -> Point:
    loss = point.certificate.get("estimate")
    return Point(
        name=point.name,
        aliases=measure.aliases,
        knobs=point.knobs,
        certified_drop=point.certified_drop,
        loss=float(loss) if isinstance(loss, int | float) else None,
        seconds=seconds,
        trust=Trust.MODELLED if measure.seconds is None else Trust.MEASURED,
        ratio=measure.ratio,
        score=measure.score,
        exits=measure.exits,
        is_default=point.name == about.default_point,
    )
