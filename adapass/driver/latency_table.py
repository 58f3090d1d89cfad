"""A latency table as a file: what was measured decides, so replaying it makes a run repeat to the bit.

The file stands in for the cache of measurements of one run. What is in it is taken as it is, on whatever
machine; what is missing is measured and added. Its entries are numbers only.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, cast

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from adapass.cache import Cache, Json, canonical, plain_json
from adapass.errors import DataError

MAX_BYTES = 64 << 20


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    format: Literal["adapass-latency-table"] = "adapass-latency-table"
    schema_version: Literal[1] = 1
    machine: str
    entries: dict[str, JsonValue]


class LatencyTable(Cache):
    """``Cache`` over one JSON file, read when it is made and written whole after every new measurement."""

    def __init__(self, file: Path, machine: str) -> None:
        """``machine`` (``Fingerprint.key``) is noted in a new table; a table that exists keeps its own.

        Raises:
            DataError: the file is not a latency table.

        """
        super().__init__(file.parent)
        self.file = file
        self.machine = machine
        self.measured = 0
        """Entries added by this run."""
        self._entries: dict[str, Json] = {}
        if file.is_file():
            self._read()

    def get(self, kind: str, key: Json) -> Json:
        return self._entries.get(_name(kind, key))

    def put(self, kind: str, key: Json, value: Json) -> None:
        self._entries[_name(kind, key)] = value
        self.measured += 1
        self._write()

    @contextmanager
    def locked(self, name: str) -> Generator[None]:
        """Measuring waits for other runs of adapass as it does with the cache."""
        with Cache().locked(name):
            yield

    def _read(self) -> None:
        if self.file.stat().st_size > MAX_BYTES:
            raise DataError(f"{self.file} is larger than {MAX_BYTES} bytes; no latency table is")
        try:
            document: object = json.loads(self.file.read_bytes(), parse_constant=_refuse)
            table = _Table.model_validate(document)
        except (ValueError, RecursionError) as error:
            why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise DataError(
                f"{self.file} is not a latency table ({why}); give another file, or remove it to measure anew"
            ) from error
        self.machine = table.machine
        self._entries = dict(table.entries)

    def _write(self) -> None:
        entries = cast("dict[str, JsonValue]", plain_json(self._entries))
        table = _Table(machine=self.machine, entries=dict(sorted(entries.items())))
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part = self.file.with_name(f"{self.file.name}.{os.getpid()}.part")
        part.write_text(table.model_dump_json(indent=0), encoding="utf-8")
        part.replace(self.file)


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not a number")


def _name(kind: str, key: Json) -> str:
    return f"{kind}:{hashlib.sha256(canonical(key)).hexdigest()}"
