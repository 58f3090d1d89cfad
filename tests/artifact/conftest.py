"""A small model, and artifacts made from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from adapass.artifact import Contents, Description, Kind, Latency, Original, Port, Trust, write_artifact
from adapass.artifact.files import file_info

TEXT = """
<ir_version: 10, opset_import: ["" : 18]>
tiny (float[N, 3] x) => (float[N, 2] y)
<float[3, 2] w = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}>
{ y = MatMul(x, w) }
"""


def save_tiny(path: Path, *, external: str | None = None) -> Path:
    """The model above; with its weight in the file ``external`` beside it when given."""
    model = onnx.parser.parse_model(TEXT)
    weight = model.graph.initializer[0]
    array = np.array(list(weight.float_data), np.float32)
    del weight.float_data[:]
    if external is None:
        weight.raw_data = array.tobytes()
    else:
        weight.data_location = onnx.TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=external)
        place = path.parent / external
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(array.tobytes())
    path.write_bytes(model.SerializeToString())
    return path


@dataclass(frozen=True)
class Maker:
    """Writes artifacts into a folder of the test."""

    folder: Path
    model: Path

    def contents(self, **changes: object) -> Contents:
        """Contents of a plain original; ``changes`` go into the description."""
        info = file_info(self.model)
        about = Description(
            kind=Kind.ORIGINAL,
            target="cpu",
            task="regression",
            inputs=(Port(name="x", dtype="float32", shape=("N", 3)),),
            outputs=(Port(name="y", dtype="float32", shape=("N", 2)),),
            original=Original(name=self.model.name, sha256=info.sha256, size_bytes=info.size_bytes),
            latency=Latency(
                before_seconds=2e-3, after_seconds=1e-3, trust=Trust.MEASURED, threads=1, batch=1
            ),
        )
        return Contents(
            description=about.model_copy(update=changes),
            model=self.model,
            recipe={"schema": 1, "passes": ["clean"], "options": {"seed": 0}},
            pareto=({"seconds": 1e-3, "damage": 0.0},),
        )

    def write(self, name: str = "tiny.adapass", **changes: object) -> Path:
        return write_artifact(self.folder / name, self.contents(**changes))

    def write_built(self, built: Path, name: str = "tiny.adapass", **changes: object) -> Path:
        """An artifact with the files a generator wrote into ``built``."""
        contents = replace(self.contents(kind=Kind.OPTIMIZED, **changes), generator_folder=built)
        return write_artifact(self.folder / name, contents)


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    source = tmp_path / "source"
    source.mkdir()
    return Maker(tmp_path, save_tiny(source / "my-model.onnx"))


@pytest.fixture
def tiny() -> Callable[..., Path]:
    return save_tiny
