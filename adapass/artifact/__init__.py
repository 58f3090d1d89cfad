"""The artifact: a folder with the model, what runs it, and the proof of what it costs."""

from __future__ import annotations

from adapass.artifact.manifest import (
    Description,
    Exits,
    GeneratorInfo,
    Kind,
    Latency,
    Manifest,
    Original,
    Port,
    Quality,
    Trust,
)
from adapass.artifact.ports import model_ports
from adapass.artifact.read import Artifact, read_artifact
from adapass.artifact.runtime import LoadedArtifact, RunStats, load_artifact
from adapass.artifact.write import Contents, check_destination, write_artifact

__all__ = [
    "Artifact",
    "Contents",
    "Description",
    "Exits",
    "GeneratorInfo",
    "Kind",
    "Latency",
    "LoadedArtifact",
    "Manifest",
    "Original",
    "Port",
    "Quality",
    "RunStats",
    "Trust",
    "check_destination",
    "load_artifact",
    "model_ports",
    "read_artifact",
    "write_artifact",
]
