"""What a run has worked out so far, on disk, by content: an interrupted run picks it up again.

Every entry is written whole or not at all (temporary file, then rename), and named by a hash of
everything it depends on, so a stale entry is simply never asked for. Nothing in it can run code; an
entry that cannot be read is dropped and worked out again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast
from zipfile import BadZipFile

import numpy as np

from adapass.budgeted import Array
from adapass.graph.packed import FILE, PackedModel
from adapass.search.point_files import Points, read_points, write_points

T = TypeVar("T")
MAX_JSON_BYTES = 64 << 20
DAMAGED = (ValueError, KeyError, TypeError, AttributeError, OSError, EOFError, BadZipFile)
"""What reading a damaged entry raises: files of another program, cut short, or of another version."""


@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """One place in the store, for a value of one kind."""

    path: Path | None
    decode: Callable[[Path], T]
    encode: Callable[[Path, T], object]

    def read(self) -> T | None:
        """The value, or ``None``: never written, or damaged."""
        if self.path is None or not self.path.exists():
            return None
        try:
            _check_sum(self.path)
            return self.decode(self.path)
        except DAMAGED:
            _remove(self.path)
            return None

    def write(self, value: T) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        _remove(part)
        self.encode(part, value)
        _remove(self.path)
        _sum_file(self.path).write_text(_sum(part))
        part.rename(self.path)

    def get(self, compute: Callable[[], T]) -> T:
        """The stored value, else what ``compute`` gives, stored."""
        known = self.read()
        if known is not None:
            return known
        found = compute()
        self.write(found)
        return found


Numbers = dict[str, tuple[float, float | None]]
Fits = dict[str, dict[str, Array]]


@dataclass(frozen=True, slots=True)
class Store:
    """Entries of one run, in one folder; without a folder nothing is kept."""

    folder: Path | None = None
    versions: str = ""
    """Of everything that has a say in the results: part of every key."""

    def numbers(self, kind: str, key: str) -> Entry[Numbers]:
        """Pairs of numbers by name; the second may be absent."""
        return Entry(self._path(kind, key, ".json"), _read_numbers, _write_json)

    def array(self, kind: str, key: str) -> Entry[Array]:
        return Entry(self._path(kind, key, ".npy"), _read_array, _write_array)

    def fits(self, kind: str, key: str) -> Entry[Fits]:
        """Arrays by site and name."""
        return Entry(self._path(kind, key, ".npz"), _read_fits, _write_fits)

    def points(self, kind: str, key: str) -> Entry[Points]:
        """Operating points of a fitted model."""
        return Entry(self._path(kind, key, ".json"), read_points, write_points)

    def packed(self, kind: str, key: str) -> Entry[PackedModel | str]:
        """A model, or a text that says why there is none."""
        return Entry(self._path(kind, key, ""), _read_packed, _write_packed)

    def clear(self) -> None:
        """Forget everything."""
        if self.folder is not None and self.folder.is_dir():
            shutil.rmtree(self.folder)

    def _path(self, kind: str, key: str, suffix: str) -> Path | None:
        if self.folder is None:
            return None
        named = hashlib.blake2b(f"{self.versions}|{key}".encode(), digest_size=12).hexdigest()
        return self.folder / f"{kind}-{named}{suffix}"


def _sum_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sum")


def _sum(path: Path) -> str:
    """Of the bytes of a file, or of all files of a folder."""
    found = hashlib.blake2b(digest_size=16)
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        data = file.read_bytes()
        found.update(f"{file.name if path.is_dir() else ''}|{len(data)}|".encode())
        found.update(data)
    return found.hexdigest()


def _check_sum(path: Path) -> None:
    if _sum_file(path).read_text() != _sum(path):
        raise ValueError(f"{path} is not what was written")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _read_numbers(file: Path) -> Numbers:
    if file.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"{file} is too large")
    loaded: object = json.loads(file.read_text())
    if not isinstance(loaded, dict):
        raise TypeError(f"{file} holds no mapping")
    document = cast("Mapping[str, Any]", loaded)
    return {
        str(name): (float(first), None if second is None else float(second))
        for name, (first, second) in document.items()
    }


def _write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value))


def _read_array(file: Path) -> Array:
    with file.open("rb") as stream:
        found: Array = np.load(stream, allow_pickle=False)
    return found


def _write_array(file: Path, array: Array) -> None:
    with file.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)


def _read_fits(file: Path) -> Fits:
    with np.load(file, allow_pickle=False) as archive:
        sites = [str(site) for site in archive["sites"]]
        names = [str(name) for name in archive["names"]]
        return {site: {n: archive[f"{i}.{n}"] for n in names} for i, site in enumerate(sites)}


def _write_fits(file: Path, fits: Fits) -> None:
    names = sorted({name for fit in fits.values() for name in fit})
    arrays = {f"{i}.{name}": fit[name] for i, fit in enumerate(fits.values()) for name in names}
    arrays |= {"sites": np.asarray(list(fits), np.str_), "names": np.asarray(names, np.str_)}
    with file.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)


def _read_packed(folder: Path) -> PackedModel | str:
    why = folder / "why.txt"
    if why.is_file():
        return why.read_text()
    files = {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
    if FILE not in files:
        raise ValueError(f"{folder} holds no model")
    return files


def _write_packed(folder: Path, value: PackedModel | str) -> None:
    folder.mkdir()
    if isinstance(value, str):
        (folder / "why.txt").write_text(value)
        return
    for name, data in value.items():
        (folder / name).write_bytes(data)
