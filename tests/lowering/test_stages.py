"""Stages: what each one holds, what passes between them, and a wiring that survives its JSON form."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from adapass.errors import ArtifactError, ModelError
from adapass.graph.save import to_bytes
from adapass.lowering.stages import lower_to_stages
from adapass.lowering.wiring import Stage, Wiring, run_stages
from adapass.ops import EXIT_INDEX, EXIT_THRESHOLDS

Array = npt.NDArray[np.generic]
Make = Callable[[str, int], ir.Model]


def test_a_stage_takes_only_what_it_needs(make: Make) -> None:
    stages = lower_to_stages(make("mlp", 2))

    assert [part.inputs for part in stages.wiring.stages] == [
        ("x", EXIT_THRESHOLDS),
        ("x_0", EXIT_THRESHOLDS),
        ("x_1",),
    ]
    assert [part.stop for part in stages.wiring.stages] == ["stop_0", "stop_1", None]
    assert [sum(node.op_type == "Gelu" for node in model.graph) for model in stages.models] == [1, 1, 1]


def test_says_which_values_have_a_batch_axis_and_where(make: Make) -> None:
    assert lower_to_stages(make("time_first", 1)).wiring.batch_axes == {"input": 0, "x_0": 1}


def test_row_numbers_and_sizes_do_not_pass_between_stages(make: Make) -> None:
    crossing = {
        name for part in lower_to_stages(make("row_numbers", 1)).wiring.stages[1:] for name in part.inputs
    }

    assert crossing == {"x_0", "right"}


def test_an_output_that_no_exit_selects_comes_from_the_first_stage(make: Make) -> None:
    wiring = lower_to_stages(make("two_outputs", 2)).wiring

    assert wiring.always == {"average": "average"}
    assert wiring.outputs == ("logits", "average", "features", EXIT_INDEX)
    assert "average" not in wiring.stages[1].outputs


def test_stages_use_standard_operators_only(make: Make) -> None:
    for model in lower_to_stages(make("tokens", 2)).models:
        assert set(model.opset_imports) == {""}
        assert not model.functions


def test_a_model_without_exits_is_one_stage(make: Make) -> None:
    stages = lower_to_stages(make("mlp", 0))

    assert len(stages.models) == 1
    assert stages.wiring.always == {"logits": "logits"}


def test_gives_the_same_bytes_twice(make: Make) -> None:
    first, second = (lower_to_stages(make("tokens", 2)) for _ in range(2))

    assert [to_bytes(model) for model in first.models] == [to_bytes(model) for model in second.models]
    assert first.wiring.to_json() == second.wiring.to_json()


@pytest.mark.parametrize("family", ["averaged", "batch_softmax", "average_crosses"])
def test_refuses_what_depends_on_several_samples(make: Make, family: str) -> None:
    with pytest.raises(ModelError, match="depends on several samples"):
        lower_to_stages(make(family, 1))


def test_the_wiring_survives_its_json_form(make: Make) -> None:
    wiring = lower_to_stages(make("two_outputs", 2)).wiring

    assert Wiring.from_json(wiring.to_json()) == wiring


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema 2, expected 1"),
        ({"stages": []}, "damaged at 'stages'"),
        ({"batch_axes": {"x": "0"}}, "damaged at 'batch_axes.x'"),
        ({"extra": 1}, "damaged at 'extra'"),
    ],
)
def test_refuses_a_damaged_wiring(make: Make, change: dict[str, object], message: str) -> None:
    good = json.loads(lower_to_stages(make("mlp", 1)).wiring.to_json())

    with pytest.raises(ArtifactError, match=message):
        Wiring.from_json(json.dumps(good | change))


class Fake:
    """A stage that remembers what it was fed and answers from a table."""

    def __init__(self, **answers: Array) -> None:
        self.answers = answers
        self.fed: list[Mapping[str, Array]] = []

    def __call__(self, outputs: Sequence[str], feeds: Mapping[str, Array], /) -> Sequence[Array]:
        self.fed.append(feeds)
        return [self.answers[name] for name in outputs]


WIRING = Wiring(
    outputs=("y",),
    always={},
    batch_axes={"x": 0, "h": 1},
    stages=(
        Stage(inputs=("x",), outputs=("stop", "a", "h", "n"), stop="stop", results={"y": "a"}),
        Stage(inputs=("h", "n", "x"), outputs=("b",), results={"y": "b"}),
    ),
)


def _first(stop: list[bool]) -> Fake:
    rows = len(stop)
    return Fake(
        stop=np.array(stop),
        a=np.arange(rows, dtype=np.float32),
        h=np.arange(2 * rows).reshape(2, rows),
        n=np.array([7]),
    )


def test_only_rows_that_are_left_reach_the_next_stage() -> None:
    first, second = _first([True, False, True, False]), Fake(b=np.array([50, 60], np.float32))

    found = run_stages(WIRING, [first, second], {"x": np.arange(4) * 10}, 4)

    assert second.fed[0]["h"].tolist() == [[1, 3], [5, 7]]
    assert second.fed[0]["x"].tolist() == [10, 30]
    assert second.fed[0]["n"].tolist() == [7]
    assert found.outputs["y"].tolist() == [0, 50, 2, 60]
    assert found.stages.tolist() == [0, 1, 0, 1]


def test_a_stage_nobody_reaches_is_not_run() -> None:
    second = Fake()

    found = run_stages(WIRING, [_first([True, True]), second], {"x": np.arange(2)}, 2)

    assert not second.fed
    assert found.outputs["y"].tolist() == [0, 1]


def test_when_nobody_leaves_nothing_is_copied() -> None:
    first, second = _first([False, False]), Fake(b=np.array([5, 6], np.float32))

    run_stages(WIRING, [first, second], {"x": np.arange(2)}, 2)

    assert second.fed[0]["h"] is first.answers["h"]


def test_an_empty_batch_ends_after_the_first_stage() -> None:
    found = run_stages(WIRING, [_first([]), Fake()], {"x": np.arange(0)}, 0)

    assert found.outputs["y"].shape == (0,)


def test_refuses_what_is_neither_cut_nor_cheap(make: Make) -> None:
    with pytest.raises(
        ModelError, match="'x_0' is needed after an exit, has no axis with one entry a sample"
    ):
        lower_to_stages(make("fold_crosses", 1))


def test_refuses_a_result_whose_first_axis_is_not_the_batch(make: Make) -> None:
    model = make("time_first", 1).clone()
    state = next(value for node in model.graph for value in node.outputs if value.name == "x_0")
    select = next(node for node in model.graph if node.op_type == "ExitSelect")
    select.replace_input_with(1, state)

    with pytest.raises(ModelError, match="'x_0' is the result of an exit; its first axis must be the batch"):
        lower_to_stages(model)
