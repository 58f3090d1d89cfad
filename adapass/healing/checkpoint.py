"""The state of an interrupted run in one ``.npz`` file: plain numbers, nothing that could be code."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array
from adapass.data.archive import read_npz
from adapass.errors import DataError
from adapass.graph.digest import digest
from adapass.healing.settings import Settings

_META = "meta"


@dataclass(frozen=True, slots=True)
class State:
    """Where a run is: arrays by name, and numbers that say how far it got."""

    arrays: Mapping[str, Array]
    numbers: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A file that belongs to one run: other models, settings or seeds are refused."""

    path: Path
    key: str

    def load(self) -> State | None:
        """The state saved last; ``None`` where there is none.

        Raises:
            DataError: the file is damaged, or of another run.

        """
        if not self.path.is_file():
            return None
        found = read_npz(self.path)
        meta = _parsed(self.path, found.pop(_META, np.zeros(0, np.uint8)))
        if meta.get("key") != self.key:
            raise DataError(
                f"{self.path} belongs to another healing run (other models, settings or seed); "
                "delete it or name another file"
            )
        numbers = {name: float(cast("float", value)) for name, value in meta.items() if name != "key"}
        return State(found, numbers)

    def save(self, state: State) -> None:
        """Whole or not at all."""
        meta = json.dumps({"key": self.key, **state.numbers}).encode()
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        try:
            with temporary.open("wb") as file:
                np.savez(file, **{**state.arrays, _META: np.frombuffer(meta, np.uint8)})  # type: ignore[arg-type]
            temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def steps_of(path: Path) -> int | None:
    """The number of steps that the run of a checkpoint was planned with; ``None`` where there is no file.

    Raises:
        DataError: the file is no checkpoint.

    """
    if not path.is_file():
        return None
    meta = _parsed(path, read_npz(path).pop(_META, np.zeros(0, np.uint8)))
    planned = meta.get("planned")
    if not isinstance(planned, float | int) or planned < 1:
        raise DataError(f"{path} is no checkpoint of a healing run; delete it or name another file")
    return int(planned)


def run_key(original: ir.Model, pruned: ir.Model, settings: Settings, seed: int) -> str:
    """What a checkpoint must agree in. The time limit may change: it only says when to stop."""
    chosen = {name: value for name, value in asdict(settings).items() if name != "max_seconds"}
    return json.dumps([digest(original), digest(pruned), chosen, seed])


def _parsed(path: Path, data: Array) -> dict[str, object]:
    try:
        meta: object = json.loads(bytes(data.astype(np.uint8)))
    except ValueError as error:
        raise DataError(
            f"{path} is no checkpoint of a healing run; delete it or name another file"
        ) from error
    if not isinstance(meta, dict):
        raise DataError(f"{path} is no checkpoint of a healing run; delete it or name another file")
    return cast("dict[str, object]", meta)
