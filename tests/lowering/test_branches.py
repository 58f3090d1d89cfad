"""The form of the nested If: what runs where, and that a runtime can optimise it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest

from adapass.errors import ModelError
from adapass.execution import ort
from adapass.graph.digest import digest
from adapass.graph.save import to_bytes
from adapass.lowering.branches import lower_to_if
from adapass.lowering.masked import lower_to_masked
from adapass.ops import EXIT_THRESHOLDS

Array = npt.NDArray[np.generic]
Feeds = dict[str, Array]
Make = Callable[[str, int], ir.Model]
Feed = Callable[[ir.Model, int, int], Feeds]


def rests(model: ir.Model) -> list[ir.Graph]:
    """The branches with the rest of the model, outermost first."""
    return [graph for graph in model.graph.subgraphs() if (graph.name or "").startswith("adapass_rest")]


def ops(graph: ir.Graph) -> Counter[str]:
    return Counter(node.op_type for node in graph)


def test_keeps_names_types_and_order_of_inputs_and_outputs(make: Make) -> None:
    model = make("two_outputs", 2)

    lowered = lower_to_if(model)

    for mine, theirs in (
        (lowered.graph.inputs, model.graph.inputs),
        (lowered.graph.outputs, model.graph.outputs),
    ):
        assert [(v.name, v.type, v.shape) for v in mine] == [(v.name, v.type, v.shape) for v in theirs]
    assert lowered.graph.outputs[-1].name == "adapass_exit"


def test_leaves_the_model_alone_and_gives_the_same_bytes_twice(make: Make) -> None:
    model = make("tokens", 2)
    before = digest(model)

    first, second = to_bytes(lower_to_if(model)), to_bytes(lower_to_if(model))

    assert first == second
    assert digest(model) == before


def test_uses_standard_operators_only(make: Make) -> None:
    for lowered in (lower_to_if(make("tokens", 2)), lower_to_masked(make("tokens", 2))):
        assert set(lowered.opset_imports) == {""}
        assert not lowered.functions
        assert {node.domain for node in lowered.graph.all_nodes()} == {""}


def test_a_model_without_exits_stays_as_it_is(make: Make) -> None:
    model = make("mlp", 0)

    assert [node.op_type for node in lower_to_if(model).graph] == [node.op_type for node in model.graph]


def test_every_layer_runs_in_the_branch_behind_its_exit(make: Make) -> None:
    lowered = lower_to_if(make("mlp", 2))
    first, second = rests(lowered)

    assert [ops(graph)["Gelu"] for graph in (lowered.graph, first, second)] == [1, 1, 1]
    assert [ops(graph)["If"] for graph in (lowered.graph, first, second)] == [1, 1, 0]
    assert ops(first)["Gather"] == 1 + 1  # the state, and the limit of the next exit
    assert ops(second)["Gather"] == 1


def test_a_weight_lives_in_the_branch_that_reads_it(make: Make) -> None:
    lowered = lower_to_if(make("mlp", 1))

    assert "v_0" in lowered.graph.initializers
    assert {"v_1", "w_1"} <= set(rests(lowered)[0].initializers)
    assert not {"v_1", "w_1", "b_1"} & set(lowered.graph.initializers)


def test_a_weight_of_several_layers_is_stored_once(make: Make) -> None:
    lowered = lower_to_if(make("shared", 2))

    assert "all_layers" in lowered.graph.initializers
    assert not [name for graph in rests(lowered) for name in graph.initializers if "all_layers" in name]


def test_integers_of_the_batch_size_are_computed_again_without_gathering(make: Make) -> None:
    """The shape of [B, T, C] is put together from the rows that are left and the old length."""
    lowered = lower_to_if(make("tokens", 1))
    rest = rests(lowered)[0]

    gathered = [
        node.inputs[0].name for node in rest if node.op_type == "Gather" and node.inputs[0] is not None
    ]
    assert sorted(map(str, gathered)) == ["padding_4", "x_0"]


def test_shapes_in_a_branch_name_the_rows_that_are_left(make: Make) -> None:
    rest = rests(lower_to_if(make("tokens", 1)))[0]
    shapes = {str(node.outputs[0].shape) for node in rest if node.op_type == "MatMul"}

    assert any("adapass_rows_1" in shape for shape in shapes)
    assert not any("B" in shape for shape in shapes)


def test_a_fixed_batch_of_one_gathers_nothing(make: Make) -> None:
    lowered = lower_to_if(make("one_sample", 1))

    assert not {"NonZero", "ScatterND"} & {node.op_type for node in lowered.graph.all_nodes()}


@pytest.mark.parametrize("family", ["averaged", "batch_softmax", "average_crosses"])
def test_refuses_what_depends_on_several_samples(make: Make, family: str) -> None:
    with pytest.raises(ModelError, match=r"'(mean|tail)' depends on several samples"):
        lower_to_if(make(family, 1))


def test_refuses_a_fixed_batch_of_four(make: Make) -> None:
    model = make("mlp", 1).clone()
    stop = next(value for node in model.graph for value in node.outputs if value.name == "stop_0")
    model.graph.inputs[0].shape = ir.Shape([4, 8])
    stop.shape = ir.Shape([4])

    with pytest.raises(ModelError, match="batch size is fixed at 4"):
        lower_to_if(model)


def test_refuses_a_function_of_another_opset(make: Make) -> None:
    model = make("mlp", 1).clone()
    model.functions["adapass", "ExitSelect", ""].opset_imports[""] = 17

    with pytest.raises(ModelError, match="operator set 17, the model for 20"):
        lower_to_if(model)


def test_refuses_a_selected_value_that_the_model_reads(make: Make) -> None:
    model = make("mlp", 2).clone()
    inner = next(value for node in model.graph for value in node.outputs if value.name == "logits_select_1")
    node = ir.node("Neg", [inner])
    node.outputs[0].name, node.outputs[0].type = "reader", inner.type
    model.graph.append(node)
    model.graph.outputs.append(node.outputs[0])

    with pytest.raises(
        ModelError, match="'logits_select_1' is selected by an exit and read inside the model"
    ):
        lower_to_if(model)


def test_onnx_runtime_fuses_in_a_branch_what_it_fuses_outside(make: Make, tmp_path: Path) -> None:
    found = _optimized(lower_to_if(make("two_outputs", 2)), tmp_path / "if.onnx")

    assert [counts["BiasGelu"] for counts in found] == [1, 1, 1]


def test_a_branch_that_is_not_taken_runs_no_node(make: Make, feed: Feed, tmp_path: Path) -> None:
    model = lower_to_if(make("mlp", 2))
    feeds = feed(model, 3, 0)

    everything = _executed(model, {**feeds, EXIT_THRESHOLDS: _limits(np.inf, np.inf)}, tmp_path / "all")
    one_layer = _executed(model, {**feeds, EXIT_THRESHOLDS: _limits(-np.inf, np.inf)}, tmp_path / "one")

    assert everything["Gelu"] == 3
    assert one_layer["Gelu"] == 1
    assert everything["MatMul"] - one_layer["MatMul"] >= 4


def _limits(*limits: float) -> Array:
    return np.array(limits, np.float32)


def _executed(model: ir.Model, feeds: Feeds, prefix: Path) -> Counter[str]:
    """Which operators ONNX Runtime's profiler saw, and how often."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling, options.profile_file_prefix = True, str(prefix)
    session = ort.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"])
    session.run(None, feeds)
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return Counter(event["args"]["op_name"] for event in events if event["name"].endswith("_kernel_time"))


def _optimized(model: ir.Model, path: Path) -> list[Counter[str]]:
    """Operators after optimisation, in the main graph and in every rest branch."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"])
    proto = onnx.ModelProto.FromString(path.read_bytes())
    return [Counter(node.op_type for node in graph.node) for graph in _nested(proto.graph)]


def _nested(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "then_branch" and node.name.startswith("adapass_if"):
                yield from _nested(attribute.g)


def test_refuses_what_is_neither_cut_nor_cheap(make: Make) -> None:
    with pytest.raises(
        ModelError, match="'x_0' is needed after an exit, has no axis with one entry a sample"
    ):
        lower_to_if(make("fold_crosses", 1))


def test_refuses_a_result_whose_first_axis_is_not_the_batch(make: Make) -> None:
    model = make("time_first", 1).clone()
    state = next(value for node in model.graph for value in node.outputs if value.name == "x_0")
    select = next(node for node in model.graph if node.op_type == "ExitSelect")
    select.replace_input_with(1, state)

    with pytest.raises(ModelError, match="'x_0' is the result of an exit; its first axis must be the batch"):
        lower_to_if(model)
