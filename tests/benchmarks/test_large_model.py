"""The benchmark of a large model, on a small one."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.large_model import cut
from benchmarks.large_model_encoder import Sizes, write_encoder


def test_cuts_fits_checks_and_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every weight treated as a large one."""
    monkeypatch.setattr("adapass.coupling.remove.LARGE_BYTES", 1)
    monkeypatch.setattr("adapass.execution.LARGE_MODEL_BYTES", 1)
    monkeypatch.setattr("adapass.graph.lifted.LARGE_BYTES", 1 << 12)
    sizes = Sizes(layers=1, width=256)
    write_encoder(sizes, tmp_path)

    record = cut(tmp_path, sizes, samples=16, ridge=0.1)

    assert list(record.seconds) == ["load", "find", "remove", "fit", "check", "save"]
    assert (record.sites, record.refused) == (2, 1)
    assert record.after_bytes < 0.85 * record.before_bytes
    assert 0 < record.error < record.error_unfitted
    assert (tmp_path / "cut.onnx").is_file()
