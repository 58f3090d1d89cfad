"""Recipes that do not belong to the model are refused before anything is fitted."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from adapass.driver.optimize import optimize
from adapass.errors import RecipeError
from adapass.facts import FactCache
from adapass.graph.load import load_model
from adapass.ops import EXIT_THRESHOLDS
from adapass.passes.exits.heads import HeadKind
from adapass.passes.exits.insert_exits import InsertExits

ASSETS = Path(str(files("adapass") / "assets"))


def _replay(folder: Path, families: list[dict[str, object]], knobs: dict[str, list[float]]) -> None:
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"schema": 1, "families": families, "knobs": knobs}))
    optimize(
        ASSETS / "demo.onnx",
        data=ASSETS / "demo_fit.npz",
        eval_data=ASSETS / "demo_eval.npz",
        max_drop=0.02,
        mode="quick",
        threads=1,
        workers=0,
        recipe=recipe,
        output=folder / "out.adapass",
    )


def _family(name: str, site: str, setting: str) -> dict[str, object]:
    return {"pass": name, "options": {}, "choices": [{"site": site, "setting": setting}]}


@pytest.mark.parametrize(
    ("families", "message"),
    [
        ([_family("quantize-8bit", "nowhere", "static")], "quantize-8bit:nowhere=static"),
        ([_family("insert-exits", "nowhere", "auto")], "insert-exits:nowhere=auto"),
    ],
)
def test_sites_of_another_model(families: list[dict[str, object]], message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        _replay(tmp_path, families, {})

    assert not (tmp_path / "out.adapass").exists()


def test_a_recipe_with_a_knob_is_repeated(tmp_path: Path) -> None:
    model = load_model(ASSETS / "demo.onnx")
    choice = InsertExits(head=HeadKind.LINEAR).propose(model, FactCache(model)).choices[0]
    family = {**_family("insert-exits", choice.site, "linear"), "options": {"head": "linear"}}

    _replay(tmp_path, [family], {EXIT_THRESHOLDS: [0.9]})

    assert (tmp_path / "out.adapass").is_dir()


def test_a_weight_is_no_knob(tmp_path: Path) -> None:
    model = load_model(ASSETS / "demo.onnx")
    weight = next(iter(model.graph.initializers))
    with pytest.raises(RecipeError, match="which the rewritten model does not have"):
        _replay(tmp_path, [], {weight: [0.5]})
