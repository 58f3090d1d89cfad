"""The artifact: a folder with the model, what runs it, and the proof of what it costs."""

from __future__ import annotations

from adapass.artifact.manifest import (
    CertifiedPoint,
    Description,
    Exits,
    GeneratorInfo,
    Kind,
    Latency,
    Manifest,
    Original,
    PointMeasure,
    Port,
    Quality,
    Trust,
)
from adapass.artifact.points import Point, find_point, points_of
from adapass.artifact.ports import model_ports
from adapass.artifact.read import Artifact, read_artifact
from adapass.artifact.runtime import LoadedArtifact, RunStats, load_artifact
from adapass.artifact.write import Contents, check_destination, write_artifact

__all__ = [
    "Artifact",
    "CertifiedPoint",
    "Contents",
    "Description",
    "Exits",
    "GeneratorInfo",
    "Kind",
    "Latency",
    "LoadedArtifact",
    "Manifest",
    "Original",
    "Point",
    "PointMeasure",
    "Port",
    "Quality",
    "RunStats",
    "Trust",
    "check_destination",
    "find_point",
    "load_artifact",
    "model_ports",
    "points_of",
    "read_artifact",
    "write_artifact",
]
