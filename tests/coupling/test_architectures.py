"""A handful of real architectures, every prunable group cut by 30 %; all of them are in the benchmark."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs torch to export")
pytest.importorskip("transformers", reason="needs transformers for the architectures")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where exports are kept: ``$ADAPASS_ZOO``, else a folder of this run."""
    kept = os.environ.get("ADAPASS_ZOO")
    return Path(kept) if kept else tmp_path_factory.mktemp("zoo")


@pytest.mark.parametrize(
    ("name", "prunable"),
    [
        pytest.param("shufflenet-v2", 0.9, id="channel-shuffle-and-split"),
        pytest.param("densenet", 0.9, id="nested-concatenation"),
        pytest.param("u-net", 0.9, id="transposed-convolution-and-skips"),
        pytest.param("resnet-bottleneck", 0.9, id="residual-stages"),
        pytest.param("lstm-tagger", 0.9, id="recurrent-states"),
        pytest.param("distilbert", 0.9, id="heads-neurons-and-stream"),
        pytest.param("qwen2", 0.9, id="shared-key-heads-and-rotary-positions"),
    ],
)
def test_what_is_left_computes_the_same(name: str, prunable: float, cache: Path) -> None:
    from tests.coupling.zoo.judge import judge
    from tests.coupling.zoo.specimen import specimen

    found = specimen(name, cache)

    verdict = judge(found.model, found.feeds)

    assert verdict.problems == ()
    assert found.dynamic
    assert verdict.prunable >= prunable
    assert verdict.saved >= 0.2
