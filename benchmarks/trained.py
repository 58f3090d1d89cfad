"""The trained models that pruning is judged on: cleaned, with data to fit and held-out data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.budgeted import Damage
from adapass.data import Dataset, load_data
from adapass.driver.clean import split_passes
from adapass.driver.request import Request
from adapass.execution import Session
from adapass.graph.load import load_model
from adapass.moments.batches import Batches, feed_names, spread
from adapass.search.damage import damage_of
from benchmarks.harness import shared_folder

Doubles = npt.NDArray[np.float64]
DATA: Mapping[str, str] = {"minilm-sst2": "sst2", "resnet56-cifar10": "cifar10"}
BATCH = 64


@dataclass(frozen=True, slots=True)
class Trained:
    """A clean model and its data."""

    name: str
    clean: ir.Model
    fit: Dataset
    held: Dataset
    """Evaluation samples that nothing is fitted or chosen on."""

    @classmethod
    def load(cls, name: str, held: int) -> Trained:
        folder = shared_folder()
        model = load_model(folder / "models" / f"{name}.onnx")
        fit, evaluation = (
            load_data(folder / "data" / f"{DATA[name]}_{part}.npz", model) for part in ("fit", "eval")
        )
        steps, _ = split_passes(Request())
        return cls(name, steps.run(model).model, fit, evaluation.subset(spread(len(evaluation), held)))


def outputs(model: ir.Model, samples: Dataset) -> Doubles:
    """The first output of every sample, in order, [N, ...]; samples of similar length run together."""
    name = model.graph.outputs[0].name or ""
    session = Session(model, outputs=[name], optimize=True)
    rows: list[Doubles] = []
    order: list[int] = []
    for selection, feeds in Batches.of(model, samples, size=BATCH, padded=True):
        found = session.run(feed_names(model, feeds))[name]
        rows.append(found[: len(selection.indices)].astype(np.float64))
        order += selection.indices
    return np.concatenate(rows)[np.argsort(order, kind="stable")]


def accuracy(output: Doubles, samples: Dataset) -> float:
    """Share of right answers, of outputs [N, classes]."""
    return float(np.mean(is_right(output, samples)))


def is_right(output: Doubles, samples: Dataset) -> npt.NDArray[np.bool_]:
    """Of outputs [N, classes], which name the class of their sample."""
    labels = samples.labels
    assert labels is not None  # the trained models come with labels
    return np.asarray(output.argmax(axis=-1) == labels.reshape(-1), np.bool_)


@dataclass(frozen=True, slots=True)
class Quality:
    """What became of a model, on held-out samples."""

    damage: Damage
    accuracy: float

    @classmethod
    def of(cls, original: Doubles, output: Doubles, samples: Dataset) -> Quality:
        return cls(damage_of(original, output), accuracy(output, samples))
