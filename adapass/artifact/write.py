"""Write an artifact: whole or absent.

Everything is written into a hidden folder beside the destination, forced to the disk, and renamed.
An older artifact of the same name is renamed away first and deleted last; leftovers of runs that
were killed on this machine are removed by the next run that writes the same artifact.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from adapass.artifact.external import external_files
from adapass.artifact.files import check_relative, copy_file, file_info, list_files, sync_folder, sync_tree
from adapass.artifact.manifest import (
    FORMAT,
    MANIFEST_FILE,
    MODEL_FILE,
    PARETO_FILE,
    RECIPE_FILE,
    REPORT_FILE,
    RESERVED_FILES,
    Description,
    Kind,
    Manifest,
    manifest_to_bytes,
)
from adapass.artifact.points import check_points
from adapass.artifact.recipe_file import recipe_to_text
from adapass.artifact.report import report_html
from adapass.errors import ArtifactError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What goes into an artifact."""

    description: Description
    model: Path
    """The portable ONNX file, external data beside it. For the kind ``original`` the user's own file."""
    recipe: Mapping[str, object]
    """Plain data, every default written out."""
    pareto: Sequence[Mapping[str, object]] = ()
    """Plain data, one entry a point; the report draws ``seconds`` against ``damage`` where they are given."""
    generator_folder: Path | None = None
    """What ``Generator.build`` wrote; ``None`` exactly when ``description.generator`` is."""


def write_artifact(folder: Path, contents: Contents) -> Path:
    """Write the artifact and return its folder. Same contents, same bytes.

    Raises:
        UsageError: the destination exists and is not an artifact, or its parent is missing.
        ArtifactError: the contents contradict each other (a bug of the caller), or the model changed.

    """
    destination = folder.absolute()
    check_destination(destination)
    _remove_leftovers(destination)
    partial = Path(tempfile.mkdtemp(prefix=_prefix(destination, "partial"), dir=destination.parent))
    try:
        partial.chmod(0o755)
        _fill(partial, contents)
        sync_tree(partial)
        _swap_in(partial, destination)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def check_destination(destination: Path) -> None:
    """Refuse early, before hours of work, to write where an artifact cannot go.

    Raises:
        UsageError: the parent is missing or not writable, or something else than an artifact is there.

    """
    destination = destination.absolute()
    if not destination.parent.is_dir():
        raise UsageError(f"{destination.parent} is no folder; create it, or choose another --output")
    if not os.access(destination.parent, os.W_OK):
        raise UsageError(f"{destination.parent} is not writable; choose another --output")
    if not destination.exists() and not destination.is_symlink():
        return
    if destination.is_symlink() or not destination.is_dir():
        raise UsageError(
            f"{destination} exists and is not an artifact folder; remove it, or choose another --output"
        )
    if any(destination.iterdir()) and not _is_artifact(destination):
        raise UsageError(
            f"{destination} holds files that are not an artifact; remove it, or choose another --output"
        )


def _is_artifact(folder: Path) -> bool:
    """Whether adapass wrote this folder; a damaged artifact may still be replaced."""
    manifest = folder / MANIFEST_FILE
    return manifest.is_file() and f'"{FORMAT}"'.encode() in manifest.read_bytes()


def _fill(partial: Path, contents: Contents) -> None:
    about = contents.description
    check_points(about, "the description of the artifact")
    _copy_model(partial, contents)
    generator_folder = _copy_generated(partial, contents)
    (partial / RECIPE_FILE).write_text(recipe_to_text(contents.recipe), "utf-8")
    pareto = json.dumps(list(contents.pareto), indent=2, sort_keys=True, allow_nan=False)
    (partial / PARETO_FILE).write_text(pareto + "\n", "utf-8")
    report = report_html(about, contents.recipe, contents.pareto)
    (partial / REPORT_FILE).write_text(report, "utf-8")
    manifest = Manifest(
        **dict(about),
        generator_folder=generator_folder,
        files={name: file_info(path) for name, path in list_files(partial).items()},
    )
    if about.kind is Kind.ORIGINAL and manifest.files[MODEL_FILE].sha256 != about.original.sha256:
        raise ArtifactError(
            f"{contents.model} changed while adapass worked on it; run again and leave the file alone"
        )
    (partial / MANIFEST_FILE).write_bytes(manifest_to_bytes(manifest))


def _copy_model(partial: Path, contents: Contents) -> None:
    copy_file(contents.model, partial / MODEL_FILE)
    for name in external_files(contents.model):
        if name in RESERVED_FILES or name == MODEL_FILE:
            raise ArtifactError(
                f"{contents.model}: its external data is called '{name}', a name adapass needs; rename it"
            )
        copy_file(contents.model.parent / name, partial / name)


def _copy_generated(partial: Path, contents: Contents) -> str | None:
    """Copy the generator's files and return their folder.

    A generator that runs the portable model itself shares it: its other files then lie at the top.
    """
    info, built = contents.description.generator, contents.generator_folder
    if (info is None) != (built is None):
        raise ArtifactError("generator and generator_folder of an artifact go together: give both or neither")
    if info is None or built is None:
        return None
    check_relative(info.name, "generator name")
    files = list_files(built)
    shared = _can_share(files, partial)
    for name, path in files.items():
        copy_file(path, partial / name if shared else partial / info.name / name)
    return "." if shared else info.name


def _can_share(files: Mapping[str, Path], partial: Path) -> bool:
    if MODEL_FILE not in files or RESERVED_FILES & files.keys():
        return False
    present = list_files(partial)
    return all(file_info(files[name]) == file_info(present[name]) for name in files.keys() & present.keys())


def _swap_in(partial: Path, destination: Path) -> None:
    if not destination.exists():
        partial.rename(destination)
        sync_folder(destination.parent)
        return
    old = Path(tempfile.mkdtemp(prefix=_prefix(destination, "old"), dir=destination.parent))
    destination.rename(old / destination.name)
    try:
        partial.rename(destination)
    except OSError:
        (old / destination.name).rename(destination)
        raise
    finally:
        sync_folder(destination.parent)
        shutil.rmtree(old, ignore_errors=True)


def _prefix(destination: Path, what: str) -> str:
    return f".{destination.name}.{what}-{platform.node()}-{os.getpid()}-"


def _remove_leftovers(destination: Path) -> None:
    for path in _leftovers(destination):
        shutil.rmtree(path, ignore_errors=True)


def _leftovers(destination: Path) -> Iterator[Path]:
    """Hidden folders of dead writers of this artifact; only this machine's, for others may still be alive."""
    starts = tuple(f".{destination.name}.{what}-{platform.node()}-" for what in ("partial", "old"))
    for path in sorted(destination.parent.iterdir()):
        start = next((s for s in starts if path.name.startswith(s)), None)
        if start is None or path.is_symlink() or not path.is_dir():
            continue
        process = path.name.removeprefix(start).partition("-")[0]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            yield path
