"""rule=quantile: the halting distribution of PonderNet, its fit, and its threshold in every lowering."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from scipy.special import expit

from adapass.budgeted import Array, Choice, OperatingPoint, Samples
from adapass.codegen.onnxruntime.generator import OnnxRuntime
from adapass.errors import ModelError, VerificationError
from adapass.execution import Session
from adapass.ops import EXIT_INDEX, EXIT_THRESHOLDS
from adapass.passes.exits.fit_heads import Winner
from adapass.passes.exits.fitted_form import pack, unpack
from adapass.passes.exits.heads import HeadKind, HeadSpec
from adapass.passes.exits.insert_exits import InsertExits
from adapass.passes.exits.nodes import Builder
from adapass.passes.exits.output_form import Task
from adapass.passes.exits.record import ExitsRecord, read_record
from adapass.passes.exits.reference import confidences
from adapass.passes.exits.rules import Rule, cumulated
from adapass.passes.exits.solvers import Affine, Fitted, readiness
from adapass.passes.exits.threshold_paths import Costs
from adapass.passes.exits.thresholds import evaluate, select
from adapass.passes.exits.tuning import collect, measure_costs
from adapass.target import load_target
from tests.passes.exits.test_rules import scores_model
from tests.passes.exits.test_tuning import fitted

Case = tuple[ir.Model, Samples]
Doubles = npt.NDArray[np.float64]
Apply = Callable[[ir.Model, InsertExits], tuple[Choice, ...]]


def halting(probabilities: Doubles) -> Doubles:
    """[B, E]: the probability of having halted by each exit, summed over the ways to do so (PonderNet)."""
    cumulative = np.zeros_like(probabilities)
    for row, p in enumerate(probabilities):
        went_on = 1.0
        halted = 0.0
        for index, now in enumerate(p):
            halted += went_on * now
            went_on *= 1.0 - now
            cumulative[row, index] = halted
    return cumulative


def test_the_reference_counts_nines_beyond_the_range_of_numbers() -> None:
    record = ExitsRecord.model_construct(rule=Rule.QUANTILE, task=Task.CLASSIFICATION)
    sure = np.asarray([[500.0, 0.0]])

    nines = confidences(record, [sure, sure], [np.asarray([1.0, 0.0], np.float32)] * 2)

    assert nines[0] == pytest.approx([500.0 / np.log(10.0), 1000.0 / np.log(10.0)])


@pytest.mark.parametrize("task", [Task.CLASSIFICATION, Task.MULTI_LABEL])
@pytest.mark.parametrize("opset", [13, 18])
def test_nines_are_those_of_the_halting_distribution(task: Task, opset: int) -> None:
    random = np.random.default_rng(0)
    said = random.standard_normal((4, 6, 3)).astype(np.float32)
    ready = np.asarray([[0.7, -0.5], [1.5, 0.2], [0.0, -1.0], [2.0, -2.0]], np.float32)
    model = scores_model(4)
    model.graph.opset_imports[""] = opset
    build = Builder(model)
    value = None
    names: list[str] = []
    for z, row in zip(model.graph.inputs, ready, strict=True):
        value = cumulated(build, task, z, build.constant(row), value)
        names.append(value.name or "")

    found = Session(model, outputs=names).run({f"z{index}": rows for index, rows in enumerate(said)})

    if task is Task.CLASSIFICATION:
        lead = np.asarray([[max(z) - sorted(z)[1] for z in rows] for rows in said.astype(np.float64)])
    else:
        lead = np.asarray([[min(abs(z)) for z in rows] for rows in said.astype(np.float64)])
    probabilities = expit(ready[:, :1].astype(np.float64) * lead + ready[:, 1:]).T
    nines = np.stack([found[name] for name in names], axis=1).astype(np.float64)
    np.testing.assert_allclose(1.0 - 10.0**-nines, halting(np.asarray(probabilities)), atol=1e-6)


def test_nines_go_on_where_probabilities_are_all_one() -> None:
    model = scores_model(2)
    build = Builder(model)
    ready = build.constant(np.asarray([1.0, 0.0], np.float32))
    first = cumulated(build, Task.CLASSIFICATION, model.graph.inputs[0], ready, None)
    second = cumulated(build, Task.CLASSIFICATION, model.graph.inputs[1], ready, first)
    sure = np.asarray([[200.0, 0.0, -3.0]], np.float32)

    found = Session(model, outputs=[first.name or "", second.name or ""]).run({"z0": sure, "z1": sure})

    nines = [float(np.asarray(found[value.name or ""], np.float64)[0]) for value in (first, second)]
    assert nines == pytest.approx([200.0 / np.log(10.0), 400.0 / np.log(10.0)], rel=1e-5)


@pytest.mark.parametrize("exclusive", [True, False], ids=["one-class", "labels"])
def test_readiness_recovers_how_often_a_lead_is_right(exclusive: bool) -> None:
    """Decisions that are right with the probability sigmoid(1.5 lead - 1), whichever class is wrong."""
    random = np.random.default_rng(1)
    logits = 2.0 * random.standard_normal((40_000, 3))
    ordered = np.sort(logits, axis=1)
    lead = ordered[:, -1] - ordered[:, -2] if exclusive else np.abs(logits).min(axis=1)
    right = random.random(len(lead)) < expit(1.5 * lead - 1.0)
    if exclusive:
        said = logits.argmax(axis=1)
        targets = np.eye(3)[(said + ~right) % 3]
    else:
        targets = (logits > 0) != (np.eye(3)[0] * ~right[:, None]).astype(bool)

    slope, offset = readiness(logits.astype(np.float32), targets.astype(np.float32), exclusive=exclusive)

    assert slope == pytest.approx(1.5, abs=0.1)
    assert offset == pytest.approx(-1.0, abs=0.1)


def test_readiness_is_not_certain_after_few_samples_and_never_falls_with_the_lead() -> None:
    logits = np.asarray([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0], [0.5, 0.0]], np.float32)
    all_right = np.eye(2, dtype=np.float32)[[0, 0, 0, 0]]
    surest_wrong = np.eye(2, dtype=np.float32)[[1, 1, 0, 0] * 100]

    slope, offset = readiness(logits, all_right, exclusive=True)
    assert slope > 0.5
    assert 0.7 < expit(slope + offset) < 0.95
    slope, offset = readiness(np.tile(logits, (100, 1)), surest_wrong, exclusive=True)
    assert slope == 0.0
    assert expit(offset) == pytest.approx(0.5, abs=0.01)


def test_fitting_sets_the_exit_probability_of_every_head(case: Case, applied: Apply) -> None:
    model, samples = case
    step = InsertExits(rule=Rule.QUANTILE, features="auto")
    applied(model, step)
    fits = step.fitting.fit_sites(model, samples)
    step.install_fits(model, fits)
    record = read_record(model)

    for head in record.heads:
        stored = model.graph.initializers[head.readiness].const_value
        assert stored is not None
        assert stored.numpy().tolist() == pytest.approx(np.asarray(fits[head.cut]["readiness"]).tolist())
        assert stored.numpy()[0] > 0
    table = collect(model, samples)
    assert (np.diff(table.confidence, axis=1) > 0).all()


@pytest.mark.parametrize("lowering", ["if", "staged", "masked"])
def test_every_lowering_leaves_where_the_quantile_is_passed(
    token_model: ir.Model,
    make_sentences: Callable[[int], Samples],
    applied: Apply,
    lowering: str,
    tmp_path: Path,
) -> None:
    samples = make_sentences(60)
    step = InsertExits(rule=Rule.QUANTILE, head=HeadKind.LINEAR)
    applied(token_model, step)
    step.fit(token_model, samples)
    nines = collect(token_model, samples).confidence
    threshold = np.float32(np.quantile(nines[:, 1], 0.5) + 1e-4)
    feeds: dict[str, Array] = {**samples.batch(range(24)), EXIT_THRESHOLDS: np.full(3, threshold, np.float32)}
    expected = Session(token_model).run(feeds)
    backend = OnnxRuntime()
    backend.build(token_model, load_target("x86-64-generic"), tmp_path, {"lowering": lowering})
    runner = backend.load(tmp_path, threads=1)

    found = runner.run(feeds)
    alone = [
        runner.run({**samples.feeds(index), EXIT_THRESHOLDS: feeds[EXIT_THRESHOLDS]}) for index in range(6)
    ]

    reached = nines[:24] >= threshold
    leaves = np.where(reached.any(axis=1), reached.argmax(axis=1), 3)
    assert len(set(leaves.tolist())) > 1
    assert found.exits is not None
    assert found.exits.tolist() == leaves.tolist() == expected[EXIT_INDEX].tolist()
    assert [int(one.exits[0]) for one in alone if one.exits is not None] == leaves[:6].tolist()
    np.testing.assert_allclose(
        found.outputs["y"].astype(np.float64), expected["y"].astype(np.float64), atol=1e-5
    )


def test_one_quantile_for_all_and_heads_behind_the_last_exit_are_not_paid(case: Case) -> None:
    model, samples = case
    step = InsertExits(rule=Rule.QUANTILE)
    bench = fitted(case, step)

    points = step.tune(model, bench, 0.1)

    assert points
    for point in points:
        used = np.asarray(point.knobs[EXIT_THRESHOLDS], np.float64)
        kept = np.isfinite(used)
        assert len(set(used[kept].tolist())) == 1
        cuts = read_record(model).cuts
        assert point.sites == frozenset(cuts[: int(np.flatnonzero(kept).max()) + 1])
    assert len(samples) == len(bench.decisions)


def test_levels_of_what_is_carried_are_not_rounded() -> None:
    random = np.random.default_rng(0)
    nines = np.cumsum(random.random((500, 4)), axis=1).astype(np.float32)
    losses = np.append(random.random((500, 4)) < 0.2 / np.arange(1, 5), np.zeros((500, 1)), axis=1)
    costs = Costs(np.full(5, 0.2), np.full(4, 0.01), removable=False)

    found = select(nines, losses.astype(np.float64), costs, 0.05)

    levels = [float(setting.thresholds[np.isfinite(setting.thresholds)][0]) for setting in found]
    assert len(levels) > 5
    assert not all(level.is_integer() for level in levels)
    last_only = np.asarray([np.inf, np.inf, np.inf, 0.0], np.float32)
    paid = evaluate(nines, losses.astype(np.float64), costs, last_only)
    assert paid.expected_seconds == pytest.approx(0.84)


@pytest.mark.parametrize(
    ("ready", "message"),
    [
        (None, "has no 'readiness'"),
        ([0.0, 0.0, 0.0], r"'readiness' .* shape \(3,\), expected \(2,\)"),
        ([np.nan, 0.0], "not all finite"),
    ],
    ids=["missing", "shape", "not-finite"],
)
def test_a_damaged_fit_is_refused(ready: list[float] | None, message: str) -> None:
    head = Affine(np.zeros((2, 3), np.float32), np.zeros(3, np.float32))
    winner = Winner(HeadSpec(HeadKind.LINEAR, "raw"), Fitted(head, 0.1, 0.2, 0.3, (1.5, -0.5)), None)
    assert unpack(pack(winner)).fitted.readiness == (1.5, -0.5)
    fit = dict(pack(winner))
    fit.pop("readiness")
    fit |= {} if ready is None else {"readiness": np.asarray(ready)}

    with pytest.raises(ModelError, match=message):
        unpack(fit)


def test_a_changed_exit_probability_is_found(case: Case, applied: Apply) -> None:
    model, samples = case
    before = model.clone()
    step = InsertExits(rule=Rule.QUANTILE, head=HeadKind.LINEAR)
    applied(model, step)
    step.fit(model, samples)
    step.check(before, model, [samples.feeds(0)])
    name = read_record(model).heads[1].readiness
    model.graph.initializers[name].const_value = ir.tensor(np.asarray([1.0, -1.0], np.float32), name=name)

    with pytest.raises(VerificationError, match="not those that were fitted"):
        step.check(before, model, [samples.feeds(0)])


@pytest.mark.parametrize(
    ("rule", "counts"), [(Rule.QUANTILE, False), (Rule.PATIENCE, True)], ids=["quantile", "patience"]
)
def test_what_is_carried_needs_the_heads_before(case: Case, rule: Rule, counts: bool) -> None:
    """Somebody leaves at the second exit alone: the first one must then be there as well, and is paid."""
    model, _ = case
    step = InsertExits(rule=rule, head=HeadKind.LINEAR)
    bench = fitted(case, step)
    record = read_record(model)
    costs = measure_costs(model, record, bench)
    assert (costs.removable, costs.counts) == (False, counts)

    second = np.asarray([np.inf, -1.0, np.inf], np.float32)
    known = OperatingPoint({EXIT_THRESHOLDS: second}, frozenset(), 0.0, 0.0)
    points = step.tune(model, bench, 1.0, known=[known])

    (point,) = [p for p in points if np.array_equal(p.knobs[EXIT_THRESHOLDS], second)]
    assert point.sites == frozenset(record.cuts[:2])
    assert point.expected_seconds == pytest.approx(2.04)
