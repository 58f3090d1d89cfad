"""quantize-8bit on trained models; skipped where they are not at hand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from adapass.budgeted import Array, Feeds
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.load import load_model
from adapass.graph.save import to_bytes
from adapass.passes.quantize.quantize_8bit import Quantize8bit

SHARED = Path(os.environ.get("ADAPASS_SHARED", Path(__file__).parents[4] / "shared"))

pytestmark = [
    pytest.mark.real_models,
    pytest.mark.skipif(not (SHARED / "models").is_dir(), reason=f"no trained models in {SHARED}"),
]


@dataclass(frozen=True)
class Rows:
    """Samples of an archive, trimmed to the length of their mask."""

    arrays: dict[str, Array]
    labels: Array | None = None

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def feeds(self, index: int) -> Feeds:
        return self.batch([index])

    def batch(self, indices: Sequence[int]) -> Feeds:
        rows = {name: array[list(indices)] for name, array in self.arrays.items()}
        if "attention_mask" not in rows:
            return rows
        length = int(rows["attention_mask"].astype(np.int64).sum(1).max())
        return {name: array[:, :length].astype(np.int64) for name, array in rows.items()}


def rows(name: str) -> Rows:
    with np.load(SHARED / "data" / f"{name}.npz", allow_pickle=False) as archive:
        return Rows({key: archive[key] for key in archive.files if key != "labels"})


@pytest.mark.parametrize(
    ("name", "data", "share_of_bytes"),
    [("minilm-sst2", "sst2", 0.66), ("resnet20-cifar10", "cifar10", 0.33)],
)
def test_agrees_with_the_float_model(name: str, data: str, share_of_bytes: float) -> None:
    model = load_model(SHARED / "models" / f"{name}.onnx")
    step = Quantize8bit(calibration_samples=64)
    after = model.clone()
    assert step.run(after, FactCache(after)).applied in {37, 19}
    step.fit(after, rows(f"{data}_fit"))

    samples = rows(f"{data}_eval")
    output = model.graph.outputs[0].name or ""
    answers: list[list[int]] = []
    for each in (model, after):
        session = Session(each, optimize=True)
        answers.append([int(session.run(samples.feeds(i))[output].argmax()) for i in range(200)])

    assert np.mean(np.array(answers[0]) == np.array(answers[1])) >= 0.98
    assert len(to_bytes(after)) < share_of_bytes * len(to_bytes(model))
    step.check(model, after, [samples.feeds(0), samples.batch(range(4))])
