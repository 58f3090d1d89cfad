"""Pieces of the search: levels, plans as recipes, the store, and what a perfect output scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adapass.budgeted import Array, Choice
from adapass.certify.losses import Metric, losses
from adapass.errors import RecipeError
from adapass.graph.digest import digest, structure_key
from adapass.graph.text import parse
from adapass.search.damage import distortion, levels
from adapass.search.judge import perfect_output, spread_indices
from adapass.search.plan import Part, Plan, plan_from_recipe, plan_to_recipe
from adapass.search.store import Store
from adapass.text_form import parse_pass

CHOICES = tuple(Choice("f", name, "on") for name in "abcde")
DAMAGE = {choice.key: float(place) for place, choice in enumerate(CHOICES)}

MODEL = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[N, 2] x) => (float[N, 2] y) <float[2, 2] w = {WEIGHTS}> { y = MatMul (x, w) }
"""


def _model(weights: str = "1, 2, 3, 4", names: str = "") -> str:
    text = MODEL.replace("WEIGHTS", weights)
    return text.replace("y", names) if names else text


def test_levels_spare_the_most_damaging_sites_first() -> None:
    found = levels(CHOICES, DAMAGE, (0.0, 0.2, 0.21, 0.6, 1.0))

    assert ["".join(c.site for c in level) for level in found] == ["abcde", "abcd", "ab"]


def test_distortion_is_relative() -> None:
    reference = np.array([[3.0, 4.0]])

    assert distortion(reference, reference * 1.1) == pytest.approx(0.1)
    assert distortion(np.zeros((1, 2)), np.zeros((1, 2))) == 0.0


def test_a_plan_survives_the_recipe() -> None:
    step = parse_pass("quantize-8bit{per-channel=false}")
    plan = Plan((Part(step, (Choice("quantize-8bit", "conv", "static"),)),))  # type: ignore[arg-type]  # pyright: ignore

    again = plan_from_recipe(plan_to_recipe(plan))

    assert again.parts[0].step == step
    assert [(c.site, c.setting) for c in again.parts[0].choices] == [("conv", "static")]


NO_CHOICES: list[object] = []


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        pytest.param({"pass": "x"}, "must be a list", id="not-a-list"),
        pytest.param([{"pass": "quantize-8bit"}], "'choices'", id="no-choices"),
        pytest.param([{"pass": "quantize-8bit", "choices": [1]}], "choices.0", id="choice-is-a-number"),
        pytest.param(
            [{"pass": "fold-constants", "choices": NO_CHOICES}], "no budgeted pass", id="exact-pass"
        ),
        pytest.param([{"pass": "nothing", "choices": NO_CHOICES}], "unknown pass", id="unknown-pass"),
    ],
)
def test_bad_recipes_say_what_is_wrong(entries: object, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        plan_from_recipe(entries)


def test_the_store_computes_once_and_again_after_damage(tmp_path: Path) -> None:
    store, calls = Store(tmp_path / "work"), list[str]()

    def array() -> Array:
        calls.append("array")
        return np.arange(3)

    for _ in range(2):
        assert store.array("outputs", "key", array).tolist() == [0, 1, 2]
    assert store.values("damage", "key", lambda: {"a": 1.0}) == {"a": 1.0}
    assert store.values("damage", "key", dict) == {"a": 1.0}
    model = parse(_model())
    assert digest(store.model("fitted", "key", lambda: model)) == digest(
        store.model("fitted", "key", lambda: model)
    )
    for file in (tmp_path / "work").glob("outputs-*.npy"):
        file.write_bytes(file.read_bytes()[:40])
    store.array("outputs", "key", array)

    assert calls == ["array", "array"]
    assert not list((tmp_path / "work").glob("*.part"))
    store.clear()
    assert not (tmp_path / "work").exists()


def test_without_a_folder_nothing_is_kept() -> None:
    calls = list[int]()

    def compute() -> dict[str, float]:
        calls.append(1)
        return {}

    Store().values("damage", "key", compute)
    Store().values("damage", "key", compute)

    assert len(calls) == 2


def test_structure_ignores_names_and_large_weights_and_nothing_else() -> None:
    wide = "float[9, 9] w = {" + ", ".join(["W"] * 81) + "}"
    head = '<ir_version: 10, opset_import: ["" : 20]> g (float[N, 9] x) => (float[N, 9] y)'
    text = f"{head} <WIDE> {{ y = MatMul (x, w) }}"
    one = parse(text.replace("WIDE", wide.replace("W", "1")))
    other = parse(text.replace("WIDE", wide.replace("W", "2")).replace("y", "z"))

    assert structure_key(one) == structure_key(other)
    assert digest(one) != digest(other)
    assert structure_key(parse(_model())) != structure_key(parse(_model("1, 2, 3, 5")))


@pytest.mark.parametrize(
    ("labels", "shape", "metric"),
    [
        pytest.param(np.array([2, 0, 1]), (3, 3), Metric.ACCURACY, id="classes"),
        pytest.param(np.array([1, 0, 1]), (3, 1), Metric.ACCURACY, id="one-logit"),
        pytest.param(np.array([[1, 0], [0, 0], [1, 1]]), (3, 2), Metric.MULTI_LABEL_ACCURACY, id="marks"),
        pytest.param(np.array([[1, -1], [0, 0], [1, 1]]), (3, 2, 2), Metric.TOKEN_ACCURACY, id="tokens"),
    ],
)
def test_a_perfect_output_has_no_error(labels: Array, shape: tuple[int, ...], metric: Metric) -> None:
    worst = np.random.default_rng(0).normal(size=shape)
    right = perfect_output(labels, worst, metric, 0.0)

    assert losses(right, right, labels, metric).mean == 0.0
    assert (losses(right, worst, labels, metric).values >= 0).all()


def test_spread_indices() -> None:
    assert list(spread_indices(3, 9)) == [0, 1, 2]
    assert list(spread_indices(9, 3)) == [0, 4, 8]
