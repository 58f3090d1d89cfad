"""What a run has worked out so far, on disk, by content: an interrupted run picks it up again.

Every entry is written whole or not at all (temporary file, then rename), and named by a hash of
everything it depends on, so a stale entry is simply never asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from zipfile import BadZipFile

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array
from adapass.errors import ModelError
from adapass.graph.load import load_model
from adapass.graph.save import save_model


@dataclass(frozen=True, slots=True)
class Store:
    """Entries of one run, in one folder; without a folder nothing is kept."""

    folder: Path | None = None

    def values(self, kind: str, key: str, compute: Callable[[], dict[str, float]]) -> dict[str, float]:
        """A mapping of names to numbers."""
        file = self._file(kind, key, ".json")
        if file is not None and file.is_file():
            known = _read_values(file)
            if known is not None:
                return known
        found = compute()
        if file is not None:
            _write(file, lambda part: part.write_text(json.dumps(found)))
        return found

    def array(self, kind: str, key: str, compute: Callable[[], Array]) -> Array:
        """One array."""
        file = self._file(kind, key, ".npy")
        if file is not None and file.is_file():
            try:
                known: Array = np.load(file, allow_pickle=False)
            except (ValueError, OSError, EOFError, BadZipFile):
                file.unlink()
            else:
                return known
        found = compute()
        if file is not None:
            _write(file, lambda part: _save_array(part, found))
        return found

    def model(self, kind: str, key: str, compute: Callable[[], ir.Model]) -> ir.Model:
        """A model; large weights lie beside it."""
        folder = self._file(kind, key, "")
        if folder is not None and folder.is_dir():
            try:
                return load_model(folder / "model.onnx")
            except ModelError:
                shutil.rmtree(folder)
        found = compute()
        if folder is not None:
            _write(folder, lambda part: _save_model(part, found))
        return found

    def clear(self) -> None:
        """Forget everything."""
        if self.folder is not None and self.folder.is_dir():
            shutil.rmtree(self.folder)

    def _file(self, kind: str, key: str, suffix: str) -> Path | None:
        if self.folder is None:
            return None
        return self.folder / f"{kind}-{hashlib.blake2b(key.encode(), digest_size=12).hexdigest()}{suffix}"


def _read_values(file: Path) -> dict[str, float] | None:
    try:
        document: object = json.loads(file.read_text())
    except ValueError:
        return None
    if not isinstance(document, dict):
        return None
    return {str(name): float(number) for name, number in cast("Mapping[str, Any]", document).items()}


def _save_array(part: Path, array: Array) -> None:
    with part.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)


def _save_model(part: Path, model: ir.Model) -> None:
    part.mkdir()
    save_model(model, part / "model.onnx")


def _write(final: Path, write: Callable[[Path], object]) -> None:
    final.parent.mkdir(parents=True, exist_ok=True)
    part = final.with_name(f"{final.name}.{os.getpid()}.part")
    if part.is_dir():
        shutil.rmtree(part)
    write(part)
    part.rename(final)
