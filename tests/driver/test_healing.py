"""``--heal``: stages of cutting and training in front of the search, in the recipe, and repeatable."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from adapass import optimize
from adapass.driver.report import Result
from adapass.errors import RecipeError, UsageError

pytest.importorskip("torch")

ASSETS = Path(str(files("adapass") / "assets"))
STEPS = 12
"""Enough to help; how many fit into a time is the machine's business."""
CUTTING = ["remove-blocks", "prune-structures", "prune-tokens"]
PASSES = 'remove-dead-code, remove-blocks{settings=["remove"]}'


def _run(folder: Path, name: str, **options: Any) -> Result:
    return optimize(
        ASSETS / "demo.onnx",
        data=ASSETS / "demo_fit.npz",
        eval_data=ASSETS / "demo_eval.npz",
        max_drop=0.08,
        mode="quick",
        threads=1,
        workers=0,
        deterministic=True,
        latency_table=folder / "table.json",
        output=folder / f"{name}.adapass",
        **options,
    )


def test_stages_are_in_the_recipe_and_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fixed(*models: object, **options: object) -> int:
        del models, options
        return STEPS

    monkeypatch.setattr("adapass.healing.heal.steps_within", fixed)
    first = _run(tmp_path, "first", passes=PASSES, heal_seconds=3.0)

    families = cast("list[dict[str, Any]]", first.recipe["families"])
    names = [family["pass"] for family in families]
    assert names[:2] == ["remove-blocks", "heal"], first.report.messages
    assert {family["options"]["steps"] for family in families if family["pass"] == "heal"} == {STEPS}
    cut = [
        choice["site"]
        for family in families
        if family["pass"] == "remove-blocks"
        for choice in family["choices"]
    ]
    assert len(cut) == len(set(cut)) >= 2
    assert first.artifact is not None

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(first.recipe))
    again = _run(tmp_path, "again", recipe=recipe)

    assert again.artifact is not None
    models = [(tmp_path / f"{name}.adapass" / "model.onnx").read_bytes() for name in ("first", "again")]
    assert models[0] == models[1]


def test_healing_needs_something_that_cuts_and_time(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="every pass that cuts is skipped"):
        _run(tmp_path, "none", passes="quantize-8bit", skip_passes=CUTTING, heal_seconds=5.0)
    with pytest.raises(UsageError, match="more than half of the time limit"):
        optimize(ASSETS / "demo.onnx", time_limit_seconds=60.0, heal_seconds=40.0)
    with pytest.raises(RecipeError, match="ask for it with --heal"):
        _run(tmp_path, "family", passes="heal")
