"""With a latency table a run repeats to the bit: again, on workers, and after an interruption."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from adapass.artifact import Kind, read_artifact
from adapass.driver.optimize import optimize
from adapass.errors import UsageError
from adapass.progress import Silent

ASSETS = Path(str(files("adapass") / "assets"))


class _Interrupt(Silent):
    """Presses Ctrl-C when the search has tuned its first plan."""

    def best(self, text: str) -> None:
        raise KeyboardInterrupt(text)


def _run(folder: Path, name: str, **options: object) -> str:
    """Optimize the demo and return the content hash of the artifact."""
    output = folder / f"{name}.adapass"
    result = optimize(  # type: ignore[call-overload, unused-ignore]
        ASSETS / "demo.onnx",
        data=ASSETS / "demo_fit.npz",
        eval_data=ASSETS / "demo_eval.npz",
        max_drop=0.02,
        mode="quick",
        threads=1,
        deterministic=True,
        latency_table=folder / "table.json",
        output=output,
        **options,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    )
    assert result.artifact == output
    manifest = read_artifact(output).manifest
    assert manifest.kind is Kind.ORIGINAL or manifest.certificate is not None
    return manifest.content_hash


def test_the_same_hash_again_on_workers_and_after_an_interruption(tmp_path: Path) -> None:
    first = _run(tmp_path, "first", workers=0)
    table = (tmp_path / "table.json").read_bytes()

    on_workers = _run(tmp_path, "workers", workers=2)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path, "interrupted", workers=0, progress=_Interrupt())
    work = tmp_path / "interrupted.adapass.work"
    kept = {file.name for file in work.iterdir()}
    resumed = _run(tmp_path, "interrupted", workers=0, resume=True)

    # Decisions first: where they differ, this says which.
    recipes = [(tmp_path / f"{name}.adapass" / "recipe.yaml").read_text() for name in ("first", "workers")]
    assert recipes[0] == recipes[1]
    assert recipes[0] == (tmp_path / "interrupted.adapass" / "recipe.yaml").read_text()
    assert first == on_workers == resumed
    assert (tmp_path / "table.json").read_bytes() == table
    assert any(name.startswith("damage-") for name in kept)
    assert not work.exists()


def test_a_time_limit_cannot_be_repeated(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--deterministic with --time-limit"):
        _run(tmp_path, "limited", time_limit_seconds=60.0)
