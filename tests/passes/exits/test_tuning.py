"""Tuning: tables of exits, and operating points that do in the model what they promised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from adapass.budgeted import Array, Damage, Samples, Span
from adapass.errors import ModelError
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.extract import extract
from adapass.ops import EXIT_INDEX
from adapass.passes.exits.insert_exits import InsertExits
from adapass.passes.exits.rules import Rule
from adapass.passes.exits.streaming import collect_rows, equal_shape_batches
from adapass.passes.exits.tuning import collect

Case = tuple[ir.Model, Samples]


@dataclass
class Bench:
    """Losses against the original's decisions; the first four pieces (segments) cost 1, heads little."""

    samples: Samples
    decisions: npt.NDArray[np.intp]
    pieces: list[Span] = field(default_factory=list[Span])

    def losses(self, output: Array) -> npt.NDArray[np.float64]:
        return np.asarray(output.argmax(axis=-1) != self.decisions, np.float64)

    def seconds(self, model: ir.Model, spans: Sequence[Span]) -> list[float]:
        self.pieces += spans
        assert all(len(list(extract(model, *span).graph)) > 0 for span in spans)
        return [1.0 if place < 4 else 0.02 for place in range(len(spans))]


def fitted(case: Case, step: InsertExits) -> Bench:
    model, samples = case
    decisions = np.concatenate(
        [Session(model).run(samples.feeds(i))["y"] for i in range(len(samples))]
    ).argmax(axis=1)
    facts = FactCache(model)
    step.apply(model, facts, step.propose(model, facts).choices)
    step.fit(model, samples)
    return Bench(samples, decisions)


@pytest.mark.parametrize("rule", [Rule.MAX_PROBABILITY, Rule.PATIENCE, Rule.QUANTILE])
def test_operating_points_do_what_they_promise(case: Case, rule: Rule) -> None:
    model, samples = case
    step = InsertExits(rule=rule, features="auto")
    bench = fitted(case, step)

    points = step.tune(model, bench, 0.1)

    assert points
    seconds = [point.expected_seconds for point in points]
    assert seconds == sorted(seconds, reverse=True)
    for point in (points[0], points[-1]):
        found = [Session(model).run({**samples.feeds(i), **point.knobs}) for i in range(0, len(samples), 4)]
        output = np.concatenate([one["y"] for one in found])
        lost = (output.argmax(axis=1) != bench.decisions[::4]).mean()
        assert point.loss <= 0.1
        assert lost == pytest.approx(point.loss, abs=0.12)
    left = np.concatenate([one[EXIT_INDEX] for one in found])
    promised = np.asarray(points[-1].detail["leave"])
    assert np.abs(np.bincount(left, minlength=4) / len(left) - promised).max() < 0.2


def test_a_point_of_another_model_is_judged_on_this_one(case: Case) -> None:
    model, _ = case
    step = InsertExits()
    bench = fitted(case, step)
    points = step.tune(model, bench, 0.5)
    assert len(points) > 1

    again = step.tune(model, bench, points[-1].loss, known=[replace(points[-1], loss=0.9)])

    assert again[-1].expected_seconds <= points[-1].expected_seconds
    assert again[-1].loss <= points[-1].loss


def test_every_segment_and_head_is_measured_from_real_values(case: Case) -> None:
    model, _ = case
    step = InsertExits()
    bench = fitted(case, step)
    step.tune(model, bench, 0.1)

    cuts = [outputs[0] for _, outputs in bench.pieces[:3]]
    assert [inputs[0] for inputs, _ in bench.pieces[1:4]] == cuts
    assert [inputs[0] for inputs, _ in bench.pieces[4:]] == cuts
    assert len(bench.pieces) == 7


def test_no_budget_no_points_when_heads_are_untrained(
    mlp: Callable[..., ir.Model], make_vectors: Callable[[int], Samples]
) -> None:
    model, samples = mlp(), make_vectors(60)
    step = InsertExits()
    decisions = np.asarray(Session(model).run(samples.batch(range(60)))["y"].argmax(axis=1))
    facts = FactCache(model)
    step.apply(model, facts, step.propose(model, facts).choices)
    assert step.tune(model, Bench(samples, decisions), 0.0) == ()


def test_tables_need_exits(mlp: Callable[..., ir.Model], make_vectors: Callable[[int], Samples]) -> None:
    with pytest.raises(ModelError, match="no early exits"):
        collect(mlp(), make_vectors(10))


def test_damage_of_a_choice_is_none_while_knobs_are_neutral(
    mlp: Callable[..., ir.Model], make_vectors: Callable[[int], Samples]
) -> None:
    model = mlp()
    facts = FactCache(model)
    choices = InsertExits().propose(model, facts).choices
    damages = InsertExits().damages(model, facts, choices, make_vectors(5))
    assert dict(damages) == {choice.key: Damage(0.0) for choice in choices}


def test_only_samples_of_one_length_share_a_batch(make_sentences: Callable[[int], Samples]) -> None:
    samples = make_sentences(50)
    batches = equal_shape_batches(samples, range(50), 8)
    assert sorted(index for batch in batches for index in batch) == list(range(50))
    for batch in batches:
        assert len(batch) <= 8
        assert len({samples.feeds(index)["ids"].shape for index in batch}) == 1


def test_rows_come_back_in_the_order_asked_for(
    token_model: ir.Model, make_sentences: Callable[[int], Samples]
) -> None:
    samples = make_sentences(30)
    wanted = [7, 3, 29, 0, 11]
    rows = collect_rows(token_model, ["y"], samples, wanted)["y"]
    alone = [Session(token_model).run(samples.feeds(index))["y"][0] for index in wanted]
    np.testing.assert_allclose(
        rows.astype(np.float32), np.stack(alone).astype(np.float32), rtol=1e-4, atol=1e-5
    )


def test_mirrored_images_are_mirrored(
    conv: ir.Model, make_images: Callable[[int], Samples], rows: Callable[..., Samples]
) -> None:
    samples = make_images(6)
    images = np.concatenate([samples.feeds(i)["image"] for i in range(6)])
    flipped = rows({"image": np.ascontiguousarray(images[:, :, :, ::-1])})
    a = collect_rows(conv, ["v1"], samples, range(6), mirrored=True)["v1"]
    b = collect_rows(conv, ["v1"], flipped, range(6))["v1"]
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, collect_rows(conv, ["v1"], samples, range(6))["v1"])
