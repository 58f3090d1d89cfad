"""The on-disk cache: JSON values under content keys, safe against crashes, other processes, flipped bytes.

One entry is one file ``KIND/AB/ABCD....json`` that carries its key and a checksum. Files are written
beside their place and renamed, so readers see a whole entry or none. A damaged entry counts as absent,
is reported in the log, and is overwritten by the next ``put``. Nothing here is ever needed for a
correct result: a cache that cannot be written only costs time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias, cast

from platformdirs import user_cache_path

from adapass.errors import UsageError

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"

FOLDER_VARIABLE: Final = "ADAPASS_CACHE"
SCHEMA: Final = 1
MAX_ENTRY_BYTES: Final = 64 << 20
_KIND: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_ENTRY: Final = re.compile(r"[0-9a-f]{64}\.json")
_SCRAP_SUFFIX: Final = ".partial"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KindInfo:
    """What the cache holds of one kind."""

    entries: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """What the cache holds, by kind."""

    folder: Path
    kinds: Mapping[str, KindInfo]

    @property
    def entries(self) -> int:
        return sum(kind.entries for kind in self.kinds.values())

    @property
    def size_bytes(self) -> int:
        return sum(kind.size_bytes for kind in self.kinds.values())


def default_folder() -> Path:
    """``$ADAPASS_CACHE``, or the user's cache folder of the platform."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named).expanduser() if named else user_cache_path("adapass", appauthor=False)


class Cache:
    """A folder of JSON entries. Kinds are lower-case words (``region-latency``); keys are any JSON value."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = default_folder() if folder is None else folder

    def get(self, kind: str, key: Json) -> Json:
        """The value stored under ``key``, or ``None``: never stored, damaged, or unreadable."""
        path = self._path(kind, key)
        try:
            with path.open("rb") as file:
                data = file.read(MAX_ENTRY_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("cache entry %s cannot be read (%s); it is ignored", path, error)
            return None
        value, fault = _decode(data, key)
        if fault:
            logger.warning("cache entry %s is damaged (%s); it is ignored and will be rewritten", path, fault)
        return value

    def put(self, kind: str, key: Json, value: Json) -> None:
        """Store ``value``, replacing what was there. A folder that cannot be written is only logged.

        ``None`` cannot be told from an absent entry, so it is refused.
        """
        if value is None:
            raise ValueError("the cache cannot store None")
        path = self._path(kind, key)
        data = _encode(key, value)
        try:
            _write(path, data)
        except OSError as error:
            logger.warning("cache entry %s cannot be written (%s); going on without it", path, error)

    def info(self) -> CacheInfo:
        """Count entries and bytes by kind."""
        kinds: dict[str, KindInfo] = {}
        for folder in self._kind_folders():
            sizes = [size for path in _files(folder) if _ENTRY.fullmatch(path.name) for size in _sizes(path)]
            kinds[folder.name] = KindInfo(entries=len(sizes), size_bytes=sum(sizes))
        return CacheInfo(folder=self.folder, kinds=MappingProxyType(kinds))

    def clear(self, kind: str | None = None) -> int:
        """Remove all entries (of one kind) and say how many. Files the cache did not write stay."""
        removed = 0
        for folder in self._kind_folders():
            if kind is None or folder.name == kind:
                removed += _clear(folder)
        return removed

    @contextmanager
    def locked(self, name: str) -> Generator[None]:
        """Hold a lock that other processes using this folder wait for.

        For measuring: two processes that measure at once disturb each other. Where the folder
        cannot be written, and on Windows, nothing is held.
        """
        _check_kind(name)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / f"{name}.lock").open("ab")
        except OSError as error:
            logger.warning("no lock in %s (%s); going on without it", self.folder, error)
            yield
            return
        with file:
            _lock(file.fileno())
            yield

    def _path(self, kind: str, key: Json) -> Path:
        _check_kind(kind)
        digest = hashlib.sha256(canonical(key)).hexdigest()
        return self.folder / kind / digest[:2] / f"{digest}.json"

    def _kind_folders(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        # A link is not ours: the cache makes folders only, and clearing must not leave its own folder.
        return sorted(p for p in self.folder.iterdir() if _KIND.fullmatch(p.name) and _is_own_folder(p))


def _check_kind(kind: str) -> None:
    if _KIND.fullmatch(kind) is None:
        raise UsageError(f"'{kind}' is not a kind of cache entry; expected lower-case words joined by dashes")


def _is_own_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def canonical(value: Json) -> bytes:
    """The same bytes for equal values."""
    return json.dumps(plain_json(value), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def plain_json(value: Json) -> object:
    """The value in dicts and lists only."""
    # json knows dict, list and tuple only; read-only mappings become dicts.
    if isinstance(value, Mapping):
        return {key: plain_json(part) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain_json(part) for part in value]
    return value


def _encode(key: Json, value: Json) -> bytes:
    checksum = hashlib.sha256(canonical(value)).hexdigest()
    return canonical({"schema": SCHEMA, "key": key, "checksum": checksum, "value": value})


def _decode(data: bytes, key: Json) -> tuple[Json, str]:
    """The value, and what is wrong with the entry (empty when nothing is)."""
    if len(data) > MAX_ENTRY_BYTES:
        return None, f"larger than {MAX_ENTRY_BYTES} bytes"
    try:
        return _checked(cast("object", json.loads(data, parse_constant=_refuse_constant)), key)
    except (ValueError, RecursionError) as error:
        return None, f"not JSON: {error}"


def _checked(entry: object, key: Json) -> tuple[Json, str]:
    if not isinstance(entry, dict):
        return None, "not an entry"
    fields = cast("dict[str, Json]", entry)
    if fields.get("schema") != SCHEMA:
        return None, f"schema {fields.get('schema')!r}, expected {SCHEMA}"
    if canonical(fields.get("key")) != canonical(key):
        return None, "the entry of another key"
    value = fields.get("value")
    if fields.get("checksum") != hashlib.sha256(canonical(value)).hexdigest():
        return None, "the checksum does not match"
    return value, ""


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scrap = tempfile.mkstemp(suffix=_SCRAP_SUFFIX, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(scrap).replace(path)
    except BaseException:
        Path(scrap).unlink(missing_ok=True)
        raise


def _files(kind: Path) -> list[Path]:
    folders = (folder for folder in kind.iterdir() if _is_own_folder(folder))
    return sorted(path for folder in folders for path in folder.iterdir())


def _sizes(path: Path) -> tuple[int, ...]:
    try:
        return (path.stat().st_size,)
    except FileNotFoundError:  # another process cleared it
        return ()


def _clear(kind: Path) -> int:
    removed = 0
    for path in _files(kind):
        is_entry = _ENTRY.fullmatch(path.name) is not None
        if is_entry or path.name.endswith(_SCRAP_SUFFIX):
            path.unlink(missing_ok=True)
            removed += is_entry
    return removed


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        return
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_EX)
