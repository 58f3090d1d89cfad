"""A data set for a model nobody gave data for: its roles are right, its content is noise.

Good for asking whether something runs, and roughly for comparing layers; ranges of activations on noise are
not those on real data. Whoever shows results says where the data came from (``Dataset.source``).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array
from adapass.data.dataset import Dataset
from adapass.data.load import load_data
from adapass.graph.inputs import generate_feeds

GENERATED = "generated inputs (noise): give --data for figures that hold on real inputs"
SEEDS = 1_000_003
"""Apart so far that samples of neighbouring seeds do not repeat each other."""


def generated_data(model: ir.Model, *, count: int, seed: int = 0) -> Dataset:
    """``count`` samples of one shape.

    Raises:
        ModelError: an input is not a tensor, or its rank is unknown.
        DataError: an input has no leading sample axis.

    """
    cases = [generate_feeds(model, seed=seed * SEEDS + index, cases=1)[0] for index in range(count)]
    arrays: dict[str, Array] = {name: np.concatenate([case[name] for case in cases]) for name in cases[0]}
    return replace(load_data(arrays, model, trim=False), source=GENERATED)
