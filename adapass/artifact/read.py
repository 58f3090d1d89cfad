"""Open an artifact: every file checked before anything in it is used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from adapass.artifact.files import check_relative, file_info, list_files
from adapass.artifact.manifest import (
    MANIFEST_FILE,
    MODEL_FILE,
    PARETO_FILE,
    RECIPE_FILE,
    REPORT_FILE,
    FileInfo,
    Kind,
    Manifest,
    manifest_from_bytes,
)
from adapass.artifact.points import check_points
from adapass.artifact.recipe_file import read_recipe
from adapass.errors import ArtifactError

MAX_MANIFEST_BYTES = 16 << 20
MAX_PARETO_BYTES = 64 << 20
_REQUIRED = (MODEL_FILE, RECIPE_FILE, REPORT_FILE, PARETO_FILE)
_AGAIN = "copy the artifact again from where it was made, or rebuild it with `adapass optimize`"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A checked artifact on disk."""

    folder: Path
    manifest: Manifest

    @property
    def model_path(self) -> Path:
        """The portable ONNX file."""
        return self.folder / MODEL_FILE

    @property
    def generator_folder(self) -> Path | None:
        """What the generator loads; ``None`` when the model runs as it is."""
        name = self.manifest.generator_folder
        return None if name is None else self.folder / name

    def recipe(self) -> dict[str, object]:
        return read_recipe(self.folder / RECIPE_FILE)

    def pareto(self) -> tuple[dict[str, object], ...]:
        """What was measured on the way; see ``adapass.driver.front`` for the entries.

        Raises:
            ArtifactError: not a list of objects.

        """
        path = self.folder / PARETO_FILE
        if path.stat().st_size > MAX_PARETO_BYTES:
            raise ArtifactError(f"{path} is larger than {MAX_PARETO_BYTES} bytes; this is no artifact")
        try:
            entries: object = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"{path} is not valid JSON ({error}); {_AGAIN}") from error
        rows = cast("list[object]", entries) if isinstance(entries, list) else [None]
        if not all(isinstance(row, dict) for row in rows):
            raise ArtifactError(f"{path} is not a list of objects; {_AGAIN}")
        return tuple(cast("list[dict[str, object]]", rows))


def read_artifact(path: Path) -> Artifact:
    """Read and verify the whole artifact: schema, every path, every size, every hash.

    Raises:
        ArtifactError: anything missing, unexpected, damaged or too new; the message names the file.

    """
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        raise ArtifactError(f"artifact {path} {found}; expected the folder that `adapass optimize` wrote")
    manifest = _read_manifest(path)
    check_points(manifest, str(path / MANIFEST_FILE))
    _check_paths(manifest, path)
    _check_files(manifest, path)
    return Artifact(path, manifest)


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST_FILE
    if path.is_symlink() or not path.is_file():
        raise ArtifactError(
            f"{folder} has no {MANIFEST_FILE}: it is no artifact, or an incomplete copy of one; {_AGAIN}"
        )
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise ArtifactError(f"{path} is larger than {MAX_MANIFEST_BYTES} bytes; this is no artifact")
    return manifest_from_bytes(path.read_bytes(), str(path))


def _check_paths(manifest: Manifest, folder: Path) -> None:
    where = str(folder / MANIFEST_FILE)
    for name in manifest.files:
        check_relative(name, where)
    for name in _REQUIRED:
        if name not in manifest.files:
            raise ArtifactError(f"{where} does not list {name}, which every artifact has; {_AGAIN}")
    if (manifest.generator is None) != (manifest.generator_folder is None):
        raise ArtifactError(f"{where}: generator and generator_folder go together; {_AGAIN}")
    generated = manifest.generator_folder
    if generated is not None and generated != ".":
        check_relative(generated, where)
        if not any(name.startswith(f"{generated}/") for name in manifest.files):
            raise ArtifactError(
                f"{where} lists no file under '{generated}', where its generator's are; {_AGAIN}"
            )
    if manifest.kind is Kind.ORIGINAL and manifest.files[MODEL_FILE].sha256 != manifest.original.sha256:
        raise ArtifactError(
            f"{where}: says it returns the original, but {MODEL_FILE} is another file; {_AGAIN}"
        )


def _check_files(manifest: Manifest, folder: Path) -> None:
    present = list_files(folder)
    for name in present:
        if name not in manifest.files and name != MANIFEST_FILE:
            raise ArtifactError(f"{folder / name} does not belong to the artifact; remove it")
    for name, expected in sorted(manifest.files.items()):
        _check_file(name, expected, present, folder)


def _check_file(name: str, expected: FileInfo, present: Mapping[str, Path], folder: Path) -> None:
    if name not in present:
        raise ArtifactError(f"{folder / name} is missing; {_AGAIN}")
    size_bytes = present[name].stat().st_size
    if size_bytes != expected.size_bytes:
        raise ArtifactError(
            f"{folder / name} has {size_bytes} bytes, expected {expected.size_bytes}; {_AGAIN}"
        )
    found = file_info(present[name])
    if found != expected:
        raise ArtifactError(
            f"{folder / name} is damaged: its sha256 is {found.sha256[:12]}…, "
            f"expected {expected.sha256[:12]}…; {_AGAIN}"
        )
