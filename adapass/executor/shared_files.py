"""Shared values of local processes: one file each."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path


class SharedFiles:
    """A folder that only this user can read, made when it is first needed."""

    def __init__(self) -> None:
        self.path: str | None = None
        self._names: set[str] = set()

    def known(self, name: str) -> bool:
        return name in self._names

    def write(self, name: str, data: bytes) -> None:
        if self.known(name):
            return
        if self.path is None:
            self.path = tempfile.mkdtemp(prefix="adapass-shared-")
        Path(self.path, name).write_bytes(data)
        self._names.add(name)

    def remove(self) -> None:
        if self.path is not None:
            shutil.rmtree(self.path, ignore_errors=True)
