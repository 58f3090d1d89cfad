"""insert-exits: proposes, refuses, inserts, fits; neutral thresholds change nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from adapass.budgeted import Array, Choice, Samples
from adapass.errors import DataError, InvalidInputError, ModelError, UsageError
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.check import check_structure
from adapass.graph.save import to_bytes
from adapass.graph.text import parse
from adapass.ops import EXIT_INDEX, EXIT_THRESHOLDS, EXITS_METADATA, read_exits
from adapass.passes.exits.heads import HeadKind
from adapass.passes.exits.insert_exits import InsertExits
from adapass.passes.exits.output_form import Task
from adapass.passes.exits.record import read_record
from adapass.passes.exits.rules import Rule
from adapass.passes.exits.tuning import collect

Apply = Callable[[ir.Model, InsertExits], tuple[Choice, ...]]
MakeModel = Callable[..., ir.Model]
Case = tuple[ir.Model, Samples]

SIGMOID_END = "y = Sigmoid (z)"
THREE = [0, 1, 2]


def at(threshold: float, exits: int) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]]:
    return {EXIT_THRESHOLDS: np.full(exits, threshold, np.float32)}


def assert_close(found: Array, expected: Array) -> None:
    np.testing.assert_allclose(found.astype(np.float32), expected.astype(np.float32), rtol=1e-4, atol=1e-5)


def test_proposes_every_cut_with_a_head(mlp: MakeModel) -> None:
    model = mlp()
    proposal = InsertExits().propose(model, FactCache(model))

    assert [(choice.site, choice.setting) for choice in proposal.choices] == [
        ("v0", "auto"),
        ("v1", "auto"),
        ("v2", "auto"),
    ]
    assert proposal.choices[0].detail["heads"] == ["linear/raw", "gda/raw"]


@pytest.mark.parametrize("rule", list(Rule))
@pytest.mark.parametrize(
    "end", ["", SIGMOID_END, "y = Softmax <axis = 1> (z)", "y = LogSoftmax <axis = 1> (z)"]
)
def test_neutral_thresholds_change_nothing(
    mlp: MakeModel, make_vectors: Callable[[int], Samples], applied: Apply, rule: Rule, end: str
) -> None:
    model, samples = mlp(end=end), make_vectors(40)
    expected = Session(model).run(samples.batch(THREE))["y"]
    step = InsertExits(rule=rule)

    applied(model, step)
    step.fit(model, samples)
    check_structure(model)
    found = Session(model).run(samples.batch(THREE))

    np.testing.assert_array_equal(found["y"], expected)
    assert found[EXIT_INDEX].tolist() == [3, 3, 3]


@pytest.mark.parametrize("rule", list(Rule))
def test_a_batch_gives_what_batches_of_one_give(case: Case, applied: Apply, rule: Rule) -> None:
    model, samples = case
    step = InsertExits(rule=rule)
    applied(model, step)
    step.fit(model, samples)
    knob = at({Rule.PATIENCE: 1.0, Rule.QUANTILE: 2.0}.get(rule, 0.8), 3)
    session = Session(model)

    together = session.run({**samples.batch(range(16)), **knob})
    alone = [session.run({**samples.feeds(index), **knob}) for index in range(16)]

    assert len(set(together[EXIT_INDEX].tolist())) > 1
    assert together[EXIT_INDEX].tolist() == [int(one[EXIT_INDEX][0]) for one in alone]
    assert_close(together["y"], np.concatenate([one["y"] for one in alone]))


def test_each_exit_returns_its_own_head(case: Case, applied: Apply) -> None:
    model, samples = case
    step = InsertExits()
    applied(model, step)
    step.fit(model, samples)
    table = collect(model, samples)

    for index in range(3):
        knob = at(np.inf, 3)
        knob[EXIT_THRESHOLDS][index] = -1.0
        found = Session(model).run({**samples.feeds(5), **knob})
        assert found[EXIT_INDEX].tolist() == [index]
        assert_close(found["y"][0], table.outputs[5, index])


@pytest.mark.parametrize("head", [HeadKind.AUTO, HeadKind.LINEAR, HeadKind.GDA])
def test_heads_follow_the_original(case: Case, applied: Apply, head: HeadKind) -> None:
    model, samples = case
    step = InsertExits(head=head)
    applied(model, step)
    step.fit(model, samples)

    decisions = collect(model, samples).outputs.argmax(axis=-1)
    agreement = (decisions[:, :-1] == decisions[:, -1:]).mean(axis=0)

    assert agreement[-1] > 0.85
    assert agreement.min() > max(np.bincount(decisions[:, -1])) / len(decisions)
    assert all(record.fitted for record in read_record(model).heads)


def test_attentive_heads_follow_the_original(
    token_model: ir.Model, make_sentences: Callable[[int], Samples], applied: Apply
) -> None:
    samples, step = make_sentences(160), InsertExits(head=HeadKind.ATTENTIVE, queries=2)
    applied(token_model, step)
    step.fit(token_model, samples)
    record = read_record(token_model)

    decisions = collect(token_model, samples).outputs.argmax(axis=-1)

    assert (decisions[:, -2] == decisions[:, -1]).mean() > 0.8
    queries = token_model.graph.initializers[record.heads[-1].values[4]].const_value
    assert queries is not None
    assert np.abs(queries.numpy()).max() > 0.01


@pytest.mark.parametrize("head", [HeadKind.AUTO, HeadKind.ATTENTIVE])
def test_padding_does_not_reach_the_heads(
    token_model: ir.Model, make_sentences: Callable[[int], Samples], applied: Apply, head: HeadKind
) -> None:
    samples = make_sentences(60)
    step = InsertExits(head=head, features="auto" if head is HeadKind.ATTENTIVE else "mean+max")
    applied(token_model, step)
    step.fit(token_model, samples)
    short = samples.feeds(0)
    padded = {name: np.pad(array, ((0, 0), (0, 4))) for name, array in short.items()}
    session = Session(token_model)

    for index in range(3):
        knob = at(np.inf, 3)
        knob[EXIT_THRESHOLDS][index] = -1.0
        a, b = (session.run({**feeds, **knob})["y"] for feeds in (short, padded))
        assert_close(a, b)


def test_the_same_data_gives_the_same_bytes(
    token_model: ir.Model, make_sentences: Callable[[int], Samples], applied: Apply
) -> None:
    step = InsertExits(head=HeadKind.ATTENTIVE)
    twice = [token_model.clone(), token_model.clone()]
    for model in twice:
        applied(model, step)
        step.fit(model, make_sentences(60))

    assert to_bytes(twice[0]) == to_bytes(twice[1])


def test_a_model_of_fixed_batch_size_is_fitted_too(
    fixed_batch_conv: ir.Model, make_images: Callable[[int], Samples], applied: Apply
) -> None:
    samples, step = make_images(42), InsertExits()
    applied(fixed_batch_conv, step)
    step.fit(fixed_batch_conv, samples)

    assert collect(fixed_batch_conv, samples).outputs.shape == (42, 4, 3)


def test_labels_can_be_mixed_in(
    mlp: MakeModel, make_vectors: Callable[[int], Samples], rows: Callable[..., Samples], applied: Apply
) -> None:
    plain = make_vectors(100)
    x = np.concatenate([plain.feeds(i)["x"] for i in range(100)])
    always_two = rows({"x": x}, truth=np.full(100, 2))
    model, step = mlp(), InsertExits(label_weight=1.0)
    applied(model, step)
    step.fit(model, always_two)

    assert (collect(model, plain).outputs[:, 0].argmax(axis=1) == 2).all()


@pytest.mark.parametrize(
    ("output", "end", "reason"),
    [
        pytest.param("float[N,3] y, float[N,3] z", "", "several outputs", id="several-outputs"),
        pytest.param("float[N,3,1,2] y", "y = Reshape (z, s4)", "one row per token", id="one-row-per-token"),
        pytest.param(
            "float[N] y", "y = ReduceMax <keepdims = 0> (z, s1)", "not one row of scores", id="no-class-axis"
        ),
        pytest.param("int64[N,1] y", "y = ArgMax <axis = 1> (z)", "no confidence to read", id="integers"),
        pytest.param("float[N,3] y", "y = LpNormalization (z)", "looks like an embedding", id="embedding"),
        pytest.param("float[N,3] y", "y = Tanh (z)", "looks like an embedding", id="bounded-features"),
        pytest.param("float[N,3] y", "y = Exp (z)", "does not come from a layer that scores", id="no-scores"),
        pytest.param(
            "float[N,1] y", "y = ReduceSum <keepdims = 1> (z, s1)", "looks like regression", id="regression"
        ),
    ],
)
def test_refuses_outputs_an_exit_cannot_produce(mlp: MakeModel, output: str, end: str, reason: str) -> None:
    model = mlp(
        output=output,
        end="\n".join(
            [
                "s4 = Constant <value_ints = [-1, 1, 1, 2]> ()",
                "s1 = Constant <value_ints = [1]> ()",
                end or "y = Identity (z)",
            ]
        ),
    )
    facts = FactCache(model)
    proposal = InsertExits().propose(model, facts)

    assert proposal.choices == ()
    assert reason in proposal.refusals[0].reason
    with pytest.raises(UsageError, match=reason):
        InsertExits().apply(model, facts, [Choice("insert-exits", "v0", "auto")])


@pytest.mark.parametrize(
    ("task", "end", "reason"),
    [
        (Task.CLASSIFICATION, SIGMOID_END, "task=classification does not fit"),
        (Task.MULTI_LABEL, "y = Softmax <axis = 1> (z)", "task=multi-label does not fit"),
    ],
)
def test_refuses_a_task_the_output_contradicts(mlp: MakeModel, task: Task, end: str, reason: str) -> None:
    model = mlp(end=end)
    proposal = InsertExits(task=task).propose(model, FactCache(model))
    assert reason in proposal.refusals[0].reason


def test_one_yes_or_no_score_works_when_asked_for(
    mlp: MakeModel, make_vectors: Callable[[int], Samples], applied: Apply
) -> None:
    model, samples = mlp(output="float[N,1] y", classes=1), make_vectors(100)
    step = InsertExits(task=Task.MULTI_LABEL)
    applied(model, step)
    step.fit(model, samples)

    yes = collect(model, samples).outputs.astype(np.float32) > 0
    assert (yes[:, -2] == yes[:, -1]).mean() > 0.9


def test_keeps_axes_of_size_one_and_half_precision(
    mlp: MakeModel, make_vectors: Callable[[int], Samples], applied: Apply
) -> None:
    end = "\n".join(
        ["s = Constant <value_ints = [2, 3]> ()", "u = Unsqueeze (z, s)", "y = Cast <to = 10> (u)"]
    )
    model, samples = mlp(output="float16[N,3,1,1] y", end=end), make_vectors(60)
    step = InsertExits()
    applied(model, step)
    step.fit(model, samples)

    found = Session(model).run({**samples.batch(THREE), **at(-1.0, 3)})
    assert found["y"].shape == (3, 3, 1, 1)
    assert found["y"].dtype == np.float16


def test_a_second_set_of_exits_is_refused(mlp: MakeModel, applied: Apply) -> None:
    model = mlp()
    applied(model, InsertExits())
    assert (
        InsertExits().propose(model, FactCache(model)).refusals[0].reason
        == "the model already has early exits"
    )


def test_an_old_operator_set_is_refused(mlp: MakeModel) -> None:
    model = mlp()
    model.graph.opset_imports[""] = 12
    assert "older than 13" in InsertExits().propose(model, FactCache(model)).refusals[0].reason


def test_cuts_with_nothing_left_to_save_are_refused(conv: ir.Model) -> None:
    proposal = InsertExits().propose(conv, FactCache(conv))
    assert ("v2", "almost no work is left after it (see min-saving)") in [
        (r.site, r.reason) for r in proposal.refusals
    ]


def test_features_that_do_not_exist_at_a_cut_are_refused(mlp: MakeModel) -> None:
    model = mlp()
    proposal = InsertExits(features="grid4").propose(model, FactCache(model))
    assert proposal.choices == ()
    assert "do not exist at this cut" in proposal.refusals[-1].reason


def test_at_most_max_exits_are_proposed_spread_over_the_depth(mlp: MakeModel) -> None:
    model = mlp(blocks=6)
    proposal = InsertExits(max_exits=2).propose(model, FactCache(model))
    assert [choice.site for choice in proposal.choices] == ["v1", "v4"]
    assert "enough exits lie nearby (see max-exits)" in {refusal.reason for refusal in proposal.refusals}


def test_only_chosen_sites_get_an_exit(mlp: MakeModel) -> None:
    model = mlp()
    facts = FactCache(model)
    choices = InsertExits().propose(model, facts).choices
    result = InsertExits().apply(model, facts, choices[1:2])
    assert result.sites == ("v1",)
    assert len(read_exits(model)) == 1


def test_unknown_sites_are_refused(mlp: MakeModel) -> None:
    model = mlp()
    with pytest.raises(UsageError, match="no exit can sit at nowhere"):
        InsertExits().apply(model, FactCache(model), [Choice("insert-exits", "nowhere", "auto")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "mean+grid3"}, "features 'mean\\+grid3' are unknown"),
        ({"max_exits": 0}, "max-exits is 0"),
        ({"min_saving": 1.0}, "min-saving is 1.0"),
        ({"label_weight": 1.5}, "label-weight is 1.5"),
        ({"queries": 0}, "queries is 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        InsertExits(**options)  # type: ignore[arg-type]


def test_fit_needs_data_enough_of_it_and_labels_where_asked(
    mlp: MakeModel, make_vectors: Callable[[int], Samples], applied: Apply
) -> None:
    model = mlp()
    applied(model, InsertExits())
    for step, data, message in (
        (InsertExits(), None, "none was given"),
        (InsertExits(), make_vectors(10), "at least 20 samples"),
        (InsertExits(label_weight=0.5), make_vectors(30), "the data has no labels"),
    ):
        with pytest.raises(DataError, match=message):
            step.fit(model, data)


def test_labels_out_of_range_are_refused(
    mlp: MakeModel, rows: Callable[..., Samples], applied: Apply
) -> None:
    model = mlp()
    applied(model, InsertExits())
    data = rows({"x": np.zeros((30, 8), np.float32)}, truth=np.full(30, 3))
    with pytest.raises(DataError, match="labels lie between 3 and 3, the model has 3 classes"):
        InsertExits(label_weight=0.5).fit(model, data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("", "is damaged"),
        ('{"version": 2}', "is damaged"),
        ("[" * 2_000_000, "characters"),
        (None, "has no early exits"),
    ],
    ids=["empty", "newer-version", "huge", "missing"],
)
def test_damaged_metadata_is_refused(
    mlp: MakeModel, make_vectors: Callable[[int], Samples], applied: Apply, damage: str | None, message: str
) -> None:
    model = mlp()
    applied(model, InsertExits())
    del model.metadata_props[EXITS_METADATA]
    if damage is not None:
        model.metadata_props[EXITS_METADATA] = damage
    with pytest.raises(ModelError, match=message):
        InsertExits().fit(model, make_vectors(30))


def test_the_knob_is_the_thresholds_and_starts_neutral(mlp: MakeModel, applied: Apply) -> None:
    model = mlp()
    assert InsertExits().knobs(model) == ()
    applied(model, InsertExits())
    (knob,) = InsertExits().knobs(model)
    default = model.graph.initializers[knob.input_name].const_value
    assert default is not None
    assert np.isinf(default.numpy()).all()
    assert np.isinf(knob.neutral)


def test_errors_are_the_users_to_mend() -> None:
    assert issubclass(UsageError, InvalidInputError)


def test_text_and_back_keeps_the_model(
    mlp: MakeModel, make_vectors: Callable[[int], Samples], applied: Apply
) -> None:
    from adapass.graph.text import to_text

    model, samples = mlp(), make_vectors(30)
    applied(model, InsertExits())
    again = parse(to_text(model))
    a, b = (Session(m).run({**samples.batch(THREE), **at(-1.0, 3)}) for m in (model, again))
    np.testing.assert_array_equal(a["y"], b["y"])


def test_features_that_are_not_finite_are_refused(
    mlp: MakeModel, rows: Callable[..., Samples], applied: Apply
) -> None:
    model = mlp()
    applied(model, InsertExits())
    x = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
    x[7] = np.nan
    with pytest.raises(DataError, match="not finite on some fit samples"):
        InsertExits().fit(model, rows({"x": x}))
