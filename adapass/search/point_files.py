"""Operating points as a JSON file: tuning runs the model on all search samples, so it is not done twice."""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

import numpy as np

from adapass.budgeted import OperatingPoint

MAX_BYTES: Final = 64 << 20
Points = tuple[OperatingPoint, ...]


def write_points(file: Path, points: Points) -> None:
    """Knobs are written as float32 numbers; infinity is how a knob says that it does nothing."""
    file.write_text(json.dumps([_plain(point) for point in points]))


def read_points(file: Path) -> Points:
    """Raises ``ValueError``, ``KeyError`` or ``TypeError`` where the file is damaged."""
    if file.stat().st_size > MAX_BYTES:
        raise ValueError(f"{file} is too large")
    document: object = json.loads(file.read_text())
    if not isinstance(document, list):
        raise TypeError(f"{file} holds no list")
    return tuple(_point(cast("dict[str, Any]", entry)) for entry in cast("list[object]", document))


def _plain(point: OperatingPoint) -> dict[str, object]:
    return {
        "knobs": {name: np.asarray(value, np.float32).tolist() for name, value in point.knobs.items()},
        "sites": sorted(point.sites),
        "expected_seconds": point.expected_seconds,
        "loss": point.loss,
        "changed": point.changed,
        "reach": [list(pair) for pair in point.reach],
        "leaves": list(point.leaves),
        "detail": dict(point.detail),
    }


def _point(entry: dict[str, Any]) -> OperatingPoint:
    return OperatingPoint(
        knobs=MappingProxyType(
            {str(name): np.asarray(value, np.float32) for name, value in entry["knobs"].items()}
        ),
        sites=frozenset(str(site) for site in entry["sites"]),
        expected_seconds=float(entry["expected_seconds"]),
        loss=float(entry["loss"]),
        changed=float(entry["changed"]),
        reach=tuple((float(depth), float(share)) for depth, share in entry["reach"]),
        leaves=tuple(float(share) for share in entry["leaves"]),
        detail=MappingProxyType(dict(entry["detail"])),
    )
