"""The nine architectures in the onnx wheel (weights left out) through the clean passes: equal outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from adapass.defaults import CLEAN
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.check import check_structure
from adapass.graph.inputs import generate_feeds
from adapass.graph.load import load_model
from adapass.graph.save import to_bytes
from adapass.graph.text import clone
from adapass.registry import pass_class

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
MODELS = sorted(file.name for file in FOLDER.glob("*.onnx"))


def test_there_are_nine() -> None:
    assert len(MODELS) == 9


@pytest.mark.parametrize("name", MODELS)
def test_clean_passes_keep_the_outputs(name: str) -> None:
    original = load_model(FOLDER / name)
    cleaned = clone(original)

    applied = sum(pass_class(step)().run(cleaned, FactCache(cleaned)).applied for step in CLEAN)

    check_structure(cleaned)
    assert applied > 0
    assert len(to_bytes(cleaned)) < 2 * len(to_bytes(original)) + (1 << 20)
    feeds = generate_feeds(original, seed=0, cases=1)[0]
    before, after = Session(original).run(feeds), Session(cleaned).run(feeds)
    assert before.keys() == after.keys()
    for output, expected in before.items():
        found, wanted = np.asarray(after[output], np.float64), np.asarray(expected, np.float64)
        scale = np.sqrt(np.mean(wanted**2))
        assert np.abs(found - wanted).max() <= 1e-4 * scale + 1e-12
