"""Files of an artifact on disk: safe relative paths, listing without links, hashing, durable copies."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from adapass.artifact.manifest import FileInfo
from adapass.errors import ArtifactError

MAX_FILES = 10_000
MAX_DEPTH = 8


def check_relative(path: str, where: str) -> PurePosixPath:
    """The path, if it stays inside its folder on every system.

    Raises:
        ArtifactError: absolute, with a drive or backslash, empty, or with ``.`` or ``..`` in it.

    """
    parts = path.split("/")
    bad_part = any(part in {"", ".", ".."} for part in parts)
    if bad_part or len(parts) > MAX_DEPTH or any(c in path for c in "\\:\0"):
        raise ArtifactError(
            f"{where}: '{path}' is not a plain path inside the artifact; do not use this artifact"
        )
    return PurePosixPath(path)


def list_files(folder: Path) -> dict[str, Path]:
    """Every file under ``folder`` by its relative path, in order.

    Raises:
        ArtifactError: a link, a device, an empty folder, or too many files: nothing adapass writes.

    """
    found: dict[str, Path] = {}
    for path in _walk(folder, 0):
        found[path.relative_to(folder).as_posix()] = path
        if len(found) > MAX_FILES:
            raise ArtifactError(f"{folder} holds more than {MAX_FILES} files; this is no artifact")
    return dict(sorted(found.items()))


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    if depth > MAX_DEPTH:
        raise ArtifactError(f"{folder} is nested deeper than {MAX_DEPTH} folders; this is no artifact")
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    if not entries and depth:
        raise ArtifactError(f"{folder} is an unexpected empty folder; remove it")
    for entry in entries:
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            yield from _walk(folder / entry.name, depth + 1)
        elif stat.S_ISREG(mode):
            yield folder / entry.name
        else:
            kind = "a link" if stat.S_ISLNK(mode) else "not a regular file"
            raise ArtifactError(
                f"{folder / entry.name} is {kind}; an artifact holds regular files only, remove it"
            )


def file_info(path: Path) -> FileInfo:
    """Size and hash of a file, read in pieces."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileInfo(size_bytes=file.tell(), sha256=digest)


def copy_file(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, destination)


def sync_tree(folder: Path) -> None:
    """Force everything under ``folder`` to the disk, so that the rename after it is not ahead of its data."""
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync(Path(root) / name)
        sync_folder(Path(root))


def sync_folder(folder: Path) -> None:
    if os.name == "posix":  # other systems cannot open a folder
        _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
