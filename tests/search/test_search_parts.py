"""Pieces of the search: levels, plans as recipes, the store, and what a perfect output scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from adapass.budgeted import Array, Choice, OperatingPoint
from adapass.certify.losses import Metric, losses
from adapass.errors import RecipeError
from adapass.graph.digest import digest, structure_key
from adapass.graph.packed import pack_model, unpack_model
from adapass.graph.text import parse
from adapass.search.damage import damage_of, distortion
from adapass.search.judge import perfect_output, spread_indices
from adapass.search.plan import Part, Plan, plan_from_recipe, plan_to_recipe
from adapass.search.store import Store
from adapass.text_form import parse_pass

MODEL = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[N, 2] x) => (float[N, 2] y) <float[2, 2] w = {WEIGHTS}> { y = MatMul (x, w) }
"""


def _model(weights: str = "1, 2, 3, 4", names: str = "") -> str:
    text = MODEL.replace("WEIGHTS", weights)
    return text.replace("y", names) if names else text


def test_distortion_is_relative() -> None:
    reference = np.array([[3.0, 4.0]])

    assert distortion(reference, reference * 1.1) == pytest.approx(0.1)
    assert distortion(np.zeros((1, 2)), np.zeros((1, 2))) == 0.0


def test_damage_adds_up_over_independent_changes() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(4000, 3))
    one, other = (0.05 * random.normal(size=logits.shape) for _ in range(2))

    def additive(change: npt.NDArray[np.float64], *, classes: bool) -> float:
        return damage_of(logits, logits + change).additive(classes=classes)

    for classes in (True, False):
        apart = additive(one, classes=classes) + additive(other, classes=classes)
        assert additive(one + other, classes=classes) == pytest.approx(apart, rel=0.1)
    assert damage_of(logits[:, :1], logits[:, :1]).divergence is None


def test_probabilities_and_logits_diverge_alike() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 4))
    changed = logits + 0.1
    changed[:, 0] += 0.3
    share = [np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (logits, changed)]

    assert damage_of(*share).divergence == pytest.approx(damage_of(logits, changed).divergence)


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
        assert store.array("outputs", "key").get(array).tolist() == [0, 1, 2]
    for file in (tmp_path / "work").glob("outputs-*.npy"):
        file.write_bytes(file.read_bytes()[:40])
    store.array("outputs", "key").get(array)

    assert calls == ["array", "array"]
    assert not list((tmp_path / "work").glob("*.part"))
    store.clear()
    assert not (tmp_path / "work").exists()


def test_the_store_keeps_what_the_search_works_out(tmp_path: Path) -> None:
    store = Store(tmp_path / "work")
    fits: dict[str, dict[str, Array]] = {
        "site/a": {"kind": np.asarray("linear"), "weight": np.eye(2, dtype=np.float32)},
        "b": {"kind": np.asarray("gda"), "weight": np.zeros((0, 0), np.float32)},
    }
    packed = pack_model(parse(_model()))
    store.numbers("damage", "k").write({"a": (0.5, None), "b": (0.25, 1e-9)})
    store.fits("sites", "k").write(fits)
    store.packed("fitted", "k").write(packed)
    store.packed("fitted", "no").write("loses too much")

    again = store.fits("sites", "k").read()
    assert store.numbers("damage", "k").read() == {"a": (0.5, None), "b": (0.25, 1e-9)}
    assert again is not None
    assert list(again) == ["site/a", "b"]
    assert str(again["b"]["kind"]) == "gda"
    np.testing.assert_array_equal(again["site/a"]["weight"], np.eye(2))
    assert store.packed("fitted", "k").read() == packed
    assert store.packed("fitted", "no").read() == "loses too much"
    assert store.packed("fitted", "other").read() is None


def test_operating_points_survive_the_store(tmp_path: Path) -> None:
    knobs = {"t": np.asarray([0.5, np.inf], np.float32)}
    point = OperatingPoint(
        knobs, frozenset({"b", "a"}), 0.1, -0.01, 0.02, ((0.5, 0.25),), (0.75, 0.0, 0.25), {"leave": [0.75]}
    )
    entry = Store(tmp_path / "work").points("points", "k")
    entry.write((point,))
    again = entry.read()

    assert again is not None
    assert again[0].knobs["t"].dtype == np.float32
    np.testing.assert_array_equal(again[0].knobs["t"], knobs["t"])
    assert (again[0].sites, again[0].reach, again[0].leaves) == (point.sites, point.reach, point.leaves)
    numbers = (again[0].expected_seconds, again[0].loss, again[0].changed)
    assert (numbers, dict(again[0].detail)) == ((0.1, -0.01, 0.02), {"leave": [0.75]})
    assert entry.path is not None
    entry.path.write_text('[{"knobs": []}]')
    assert entry.read() is None


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": 1}', '{"a": ["x", null]}'])
def test_damaged_entries_are_dropped(text: str, tmp_path: Path) -> None:
    entry = Store(tmp_path / "work").numbers("damage", "k")
    entry.write({"a": (0.5, None)})
    assert entry.path is not None
    entry.path.write_text(text)

    assert entry.read() is None
    assert not entry.path.exists()


def test_without_a_folder_nothing_is_kept() -> None:
    entry = Store().numbers("damage", "key")
    entry.write({"a": (1.0, None)})

    assert entry.read() is None


def test_a_model_survives_packing() -> None:
    model = parse(_model())

    assert digest(unpack_model(pack_model(model))) == digest(model)
    assert pack_model(model) == pack_model(unpack_model(pack_model(model)))


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


def test_an_entry_that_was_changed_is_dropped(tmp_path: Path) -> None:
    store = Store(tmp_path / "work")
    entry = store.packed("fitted", "k")
    entry.write(pack_model(parse(_model())))
    assert entry.path is not None
    model = entry.path / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\x00")

    assert entry.read() is None
    assert not entry.path.exists()


def test_other_versions_do_not_share_entries(tmp_path: Path) -> None:
    Store(tmp_path / "work", "1").array("outputs", "k").write(np.arange(3))

    assert Store(tmp_path / "work", "2").array("outputs", "k").read() is None
