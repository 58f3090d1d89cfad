"""What is worth trying: promises that are known for models made for it, and the way from them to advice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from typer.testing import Result

from adapass.budgeted import Array
from adapass.data import Dataset, load_data
from adapass.errors import DataError
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.save import save_model
from adapass.graph.text import clone, parse
from adapass.passes.prospects.exits import look_at_exits
from adapass.passes.prospects.plans import Mechanism, look_at_plans
from adapass.passes.prospects.prospect import Material, Place, Prospect, oracle_of
from adapass.passes.prospects.survey import (
    BLOCKS,
    DROPPING,
    MERGING,
    Survey,
    advice,
    recipe_of,
    survey,
    to_try,
)
from adapass.progress import Silent
from adapass.text_form import parse_passes

WIDTH, TOKENS, CLASSES = 8, 9, 3
MECHANISMS = ("early exits", "token pruning", "token merging", "feed-forward skipping", "block skipping")


def literal(name: str, array: Array) -> str:
    sizes = ",".join(map(str, array.shape))
    return f"float[{sizes}] {name} = {{{', '.join(repr(float(number)) for number in array.ravel())}}}"


def transformer(*, blocks: int = 3, attends: bool = True, last_block: float = 1.0, seed: int = 0) -> ir.Model:
    """Blocks of two heads and a feed-forward part on nine tokens; the answer is read at the first.

    Without ``attends`` the attentions pass nothing on; ``last_block`` scales what blocks but the first add.
    """
    random = np.random.default_rng(seed)
    stored: dict[str, Array] = {}
    lines: list[str] = []

    def product(source: str, name: str, rows: int, columns: int, scale: float) -> str:
        stored[f"{name}_w"] = (scale * random.standard_normal((rows, columns)) / np.sqrt(rows)).astype(
            np.float32
        )
        stored[f"{name}_b"] = (0.1 * scale * random.standard_normal(columns)).astype(np.float32)
        lines.extend([f"{name}_p = MatMul ({source}, {name}_w)", f"{name} = Add ({name}_p, {name}_b)"])
        return name

    value = product("x", "e", WIDTH, WIDTH, 1.5)
    for b in range(blocks):
        strength = 1.0 if b == 0 else last_block
        for role in "qkv":
            product(value, f"{role}{b}", WIDTH, WIDTH, 1.5)
            lines.append(f"{role}r{b} = Reshape ({role}{b}, heads)")
        lines += [
            f"qt{b} = Transpose <perm = [0,2,1,3]> (qr{b})",
            f"kt{b} = Transpose <perm = [0,2,3,1]> (kr{b})",
            f"vt{b} = Transpose <perm = [0,2,1,3]> (vr{b})",
            f"s{b} = MatMul (qt{b}, kt{b})",
            f"a{b} = Softmax <axis = -1> (s{b})",
            f"c{b} = MatMul (a{b}, vt{b})",
            f"ct{b} = Transpose <perm = [0,2,1,3]> (c{b})",
            f"cr{b} = Reshape (ct{b}, joined)",
        ]
        product(f"cr{b}", f"o{b}", WIDTH, WIDTH, strength if attends else 0.0)
        lines.append(f"m{b} = Add ({value}, o{b})")
        product(f"m{b}", f"f{b}", WIDTH, 32, 1.5)
        lines.append(f"g{b} = Relu (f{b})")
        product(f"g{b}", f"h{b}", 32, WIDTH, 0.7 * strength)
        lines.append(f"y{b} = Add (m{b}, h{b})")
        value = f"y{b}"
    stored["head"] = (2.0 * random.standard_normal((WIDTH, CLASSES))).astype(np.float32)
    lines += [f"first = Gather <axis = 1> ({value}, zero)", "scores = MatMul (first, head)"]
    constants = ", ".join(literal(name, array) for name, array in stored.items())
    return parse(
        f"""<ir_version: 8, opset_import: ["" : 18]>
        vit (float[N,{TOKENS},{WIDTH}] x) => (float[N,{CLASSES}] scores)
        <{constants}, int64 zero = {{0}}, int64[4] heads = {{0, 0, 2, 4}}, int64[3] joined = {{0, 0, 8}}>
        {{ {chr(10).join(lines)} }}"""
    )


def dataset(path: Path, model: ir.Model, *, count: int = 160, labels: bool = False) -> Dataset:
    x = np.random.default_rng(5).standard_normal((count, TOKENS, WIDTH)).astype(np.float32)
    arrays: dict[str, Array] = {"x": x}
    if labels:
        arrays["labels"] = Session(model).run({"x": x})["scores"].argmax(axis=1).astype(np.int64)
    np.savez(path / "data.npz", allow_pickle=False, **arrays)
    return load_data(path / "data.npz", model)


@pytest.fixture
def material(tmp_path: Path) -> Callable[..., Material]:
    def make(model: ir.Model, *, tolerance: float = 0.02) -> Material:
        return Material.of(
            model,
            dataset(tmp_path, model),
            fit_samples=100,
            check_samples=50,
            tolerance=tolerance,
            progress=Silent(),
        )

    return make


def test_the_oracle_gives_each_sample_the_least_work_that_does_no_harm() -> None:
    losses: list[npt.NDArray[np.float64]] = [
        np.asarray([0.0, 0.0, 0.0, 0.0]),
        np.asarray([0.0, 1.0, 0.0, -1.0]),
        np.asarray([1.0, 1.0, 0.0, 0.0]),
    ]
    assert oracle_of(losses, [1.0, 0.5, 0.2]) == pytest.approx(1 - (0.5 + 1.0 + 0.2 + 0.2) / 4)


def test_fit_and_check_samples_are_apart(material: Callable[..., Material]) -> None:
    given = material(transformer())

    assert len(given.check) == 50
    assert len(given.fit) == 100
    assert given.tolerance == 0.02
    assert not set(given.fit.rows.tolist()) & set(given.check.rows.tolist())


def test_tokens_that_nothing_reads_can_all_go(material: Callable[..., Material]) -> None:
    found = look_at_plans(DROPPING, material(transformer(attends=False)))

    assert [place.site for place in found.places] == ["m0", "m1", "m2", "together"]
    assert found.lost == 0.0
    assert found.divergence == pytest.approx(0.0, abs=1e-9)
    # Four tenths of nine tokens are four, and so on; the most that these settings can save.
    assert found.oracle == pytest.approx(found.achievable)
    assert (found.achievable or 0.0) > 0.45
    assert found.places[0].setting == "keep-0.4"
    assert (found.places[0].achievable or 0.0) > (found.places[2].achievable or 1.0)


@pytest.mark.parametrize("mechanism", [DROPPING, MERGING, BLOCKS], ids=["dropping", "merging", "blocks"])
def test_what_is_achievable_does_what_was_promised(
    material: Callable[..., Material], mechanism: Mechanism
) -> None:
    given = material(transformer(blocks=2, last_block=0.3), tolerance=0.05)
    before = given.judge.original

    found = look_at_plans(mechanism, given)

    assert found.oracle is not None
    assert found.achievable is not None
    assert found.oracle >= found.achievable - 0.05
    together = next(place for place in found.places if place.site == "together")
    step = mechanism.step
    wanted: set[str] = set(together.setting.split(", ")) - {"as it is"}
    offered = step.propose(given.model, FactCache(given.model)).choices
    taken = [choice for choice in offered if f"{choice.site}={choice.setting}" in wanted]
    changed = clone(given.model)
    if taken:
        step.apply(changed, FactCache(changed), taken)
    after = Session(changed).run(given.check.batch(range(len(given.check))))["scores"]
    moved = (after.argmax(axis=1) != before.argmax(axis=1)).mean()
    assert len(taken) == len(wanted)
    assert moved == pytest.approx(found.lost)
    assert moved <= 0.05


def test_exits_promise_what_lies_behind_the_first_sure_one(material: Callable[..., Material]) -> None:
    """Blocks behind the first add nothing: the answer is there after a third of the work."""
    given = material(transformer(last_block=0.0), tolerance=0.1)

    found = look_at_exits(given)

    assert found.places[0].setting.startswith("depth ")
    assert found.oracle is not None
    assert found.achievable is not None
    assert found.oracle > 0.5
    assert 0.3 < found.achievable <= found.oracle + 0.1
    assert found.lost is not None
    assert found.lost <= 0.1


def test_a_model_without_tokens_says_why(material: Callable[..., Material]) -> None:
    model = parse(
        """<ir_version: 8, opset_import: ["" : 18]>
        net (float[N,9,8] x) => (float[N,3] scores) <int64[2] flat = {0, 72}, float[72,3] w = {WEIGHT}>
        { r = Reshape (x, flat)  scores = MatMul (r, w) }""".replace(
            "WEIGHT", ", ".join(str(i % 7 - 3.0) for i in range(216))
        )
    )

    found = look_at_plans(DROPPING, material(model))

    assert found.unavailable
    assert found.verdict.startswith("not here: ")
    assert found.oracle is None


def prospect(name: str, achievable: float | None, oracle: float | None = None, why: str = "") -> Prospect:
    return Prospect(name, "somehow", oracle, achievable, recipe=f"{name} recipe", unavailable=why)


def test_verdicts() -> None:
    assert prospect("a", 0.1).verdict == "worth trying"
    assert prospect("a", 0.05, 0.3).verdict.startswith("only if something learns")
    assert prospect("a", 0.05, 0.06).verdict.startswith("not worth it")
    assert prospect("a", 0.5, 0.5, "no tokens").verdict == "not here: no tokens"


def test_advice_names_the_best_first_and_one_way_of_a_family() -> None:
    found = (
        prospect("early exits", 0.3),
        prospect("token pruning", 0.2),
        prospect("token merging", 0.4),
        prospect("feed-forward skipping", 0.01, 0.5),
        prospect("block skipping", 0.5, why="no branches"),
    )

    assert [p.mechanism for p in to_try(found)] == ["token merging", "early exits"]
    assert advice(found).startswith("worth trying, best first: token merging (40% of the work), early exits")
    assert "feed-forward skipping would" in advice(found[3:])
    assert "no mechanism saves 10%" in advice(found[4:])


def test_the_recipe_can_be_read_and_puts_exits_last() -> None:
    found = (
        Prospect("early exits", "", achievable=0.3, recipe="insert-exits{max-exits=14}"),
        Prospect("token merging", "", achievable=0.2),
        Prospect("block skipping", "", achievable=0.2),
    )

    names = [step.name for step in parse_passes(recipe_of(found))]

    assert names[-4:] == ["remove-blocks", "prune-tokens", "quantize-8bit", "insert-exits"]
    assert [step.name for step in parse_passes(recipe_of(()))][-1] == "quantize-8bit"


def test_too_few_samples_are_refused(tmp_path: Path) -> None:
    model = transformer()
    with pytest.raises(DataError, match="at least 40 samples, found 30"):
        survey(model, dataset(tmp_path, model, count=30))


def test_the_command_looks_at_all_mechanisms(invoke: Callable[..., Result], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    model = transformer(blocks=2, last_block=0.2)
    save_model(model, tmp_path / "vit.onnx")
    dataset(tmp_path, model, count=60, labels=True)

    told = invoke("analyze", tmp_path / "vit.onnx", "--data", tmp_path / "data.npz", "--adaptive", "--json")

    assert told.exit_code == 0, told.stderr
    assert "1/5 early exits" in told.stderr
    document = json.loads(told.stdout)
    assert (document["tolerance_points"], document["fitted_on"], document["checked_on"]) == (5.0, 40, 20)
    assert [m["mechanism"] for m in document["mechanisms"]] == list(MECHANISMS)
    for mechanism in document["mechanisms"]:
        assert mechanism["oracle_saving"] is None or -1e-9 <= mechanism["oracle_saving"] <= 1.0
        assert mechanism["points_lost"] is None or mechanism["points_lost"] <= 5.0 + 1e-9
        assert mechanism["sites"]
    parse_passes(document["recipe"])


def test_the_command_tells_people_what_to_do(
    invoke: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = transformer(blocks=1)
    save_model(model, tmp_path / "vit.onnx")
    dataset(tmp_path, model, count=40)
    places = (
        Place("m0", "keep-0.5", 0.3, 0.2, 0.005, 1e-3),
        Place("together", "m0=keep-0.5", None, 0.2, 0.0),
    )
    found = (
        Prospect("token pruning", "by attention", 0.3, 0.2, 0.005, 1e-3, places),
        Prospect("early exits", "heads", unavailable="the model has several outputs"),
    )

    def known(*_: object, **__: object) -> Survey:
        return Survey(found, 0.02, 30, 10)

    monkeypatch.setattr("adapass.passes.prospects.survey.survey", known)

    shown = invoke("analyze", tmp_path / "vit.onnx", "--data", tmp_path / "data.npz", "--adaptive", "-q")

    assert "at most 2.0 points are lost on 10 samples" in shown.stdout
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert ["token", "pruning", "30.0", "%", "20.0", "%", "0.50", "1.00e-03", "worth", "trying"] in lines
    assert ["m0", "keep-0.5", "30.0", "%", "20.0", "%", "0.50", "1.00e-03"] in lines
    assert "not here: the model has several outputs" in shown.stdout
    assert shown.stdout.splitlines()[-1].endswith("prune-tokens, quantize-8bit'")
    assert shown.stderr == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--adaptive",), "give --data"),
        (("--adaptive", "--sensitivity"), "give one of them"),
        (("--adaptive", "--data", "missing.npz"), "missing.npz"),
    ],
)
def test_what_is_wrong_is_named(
    invoke: Callable[..., Result], tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    save_model(transformer(blocks=1), tmp_path / "vit.onnx")

    result = invoke("analyze", tmp_path / "vit.onnx", *words)

    assert result.exit_code == 2
    assert message in result.stderr
