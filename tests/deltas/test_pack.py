"""What is packed comes back: exactly, or as the nearest ternary change; other models are refused by name."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapass.budgeted import Array
from adapass.deltas.container import from_bytes, to_bytes
from adapass.deltas.pack import pack, unpack
from adapass.deltas.ternary import ternary
from adapass.errors import UsageError
from adapass.graph.digest import digest
from adapass.graph.save import to_bytes as model_bytes
from tests.deltas.conftest import MakeFine


def array_of(model: ir.Model, name: str) -> Array:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def put(model: ir.Model, name: str, array: Array) -> None:
    model.graph.initializers[name].const_value = ir.tensor(array, name=name)


def test_exact_gives_the_same_model_bit_for_bit(base: ir.Model, make_fine: MakeFine) -> None:
    fine = make_fine()
    packed = pack(base, fine, exact=True)

    made = unpack(base, from_bytes(to_bytes(packed.delta)))

    assert packed.delta.exact
    assert packed.relative_error == 0.0
    assert digest(made) == digest(fine) != digest(base)
    assert model_bytes(made) == model_bytes(fine)


def test_sparse_keeps_the_largest_changes_their_signs_and_one_scale(
    base: ir.Model, make_fine: MakeFine
) -> None:
    fine = make_fine()

    made = unpack(base, from_bytes(to_bytes(pack(base, fine, density=0.1).delta)))

    change = array_of(fine, "w1").astype(np.float64) - array_of(base, "w1").astype(np.float64)
    kept = array_of(made, "w1").astype(np.float64) - array_of(base, "w1").astype(np.float64)
    moved = np.abs(kept) > 1e-7
    assert moved.sum() == round(0.1 * change.size)
    assert np.abs(change)[moved].min() >= np.abs(change)[~moved].max()
    assert np.array_equal(np.sign(kept[moved]), np.sign(change[moved]))
    assert np.allclose(np.abs(kept[moved]), np.abs(change[moved]).mean(), rtol=1e-4)


@pytest.mark.parametrize("name", ["half", "brain"])
def test_half_precision_is_changed_in_its_own_type(name: str, base: ir.Model, make_fine: MakeFine) -> None:
    fine = make_fine(size=0.5)

    made = unpack(base, pack(base, fine, density=0.25).delta)

    assert array_of(made, name).dtype == array_of(base, name).dtype
    moved = array_of(made, name) != array_of(base, name)
    assert moved.sum() == 12


def test_denser_is_nearer_and_larger(base: ir.Model, make_fine: MakeFine) -> None:
    packs = [pack(base, make_fine(), density=density) for density in (0.02, 0.1, 0.4)]

    errors = [p.relative_error for p in packs]
    sizes = [len(to_bytes(p.delta)) for p in packs]
    assert errors == sorted(errors, reverse=True)
    assert sizes == sorted(sizes)
    assert 0.3 < errors[-1] < errors[0] < 1.0


def test_a_delta_is_much_smaller_than_the_weights(base: ir.Model, make_fine: MakeFine) -> None:
    packed = pack(base, make_fine(), density=0.05)

    stored = sum(len(blob) for part in packed.delta.parts.values() for blob in part.blobs)
    numbers = 32 * 48 + 48 + 48 * 4 + 48 + 48
    assert 8 * stored < 0.5 * numbers


def test_what_did_not_change_is_not_stored(base: ir.Model) -> None:
    packed = pack(base, base.clone())

    assert packed.delta.parts == {}
    assert packed.relative_error == 0.0
    assert digest(unpack(base, packed.delta)) == digest(base)


def test_integers_and_other_shapes_are_stored_exactly(base: ir.Model) -> None:
    fine = base.clone()
    head = np.arange(48 * 7, dtype=np.float32).reshape(48, 7)
    put(fine, "w2", head)
    put(fine, "target", np.array([-1, 7]))
    fine.graph.outputs[0].shape = ir.Shape(["N", 7])

    packed = pack(base, fine, density=0.01)
    made = unpack(base, from_bytes(to_bytes(packed.delta)))

    assert packed.delta.exact
    assert digest(made) == digest(fine)
    assert {key[1]: str(part.kind) for key, part in packed.delta.parts.items()} == {
        "w2": "whole",
        "target": "exclusive",
    }


def test_changes_that_are_not_finite_are_stored_exactly(base: ir.Model) -> None:
    fine = base.clone()
    b1 = array_of(base, "b1").copy()
    b1[3] = np.inf
    put(fine, "b1", b1)

    assert np.array_equal(array_of(unpack(base, pack(base, fine).delta), "b1"), b1)


def test_another_base_is_refused(base: ir.Model, make_fine: MakeFine) -> None:
    delta = pack(base, make_fine()).delta

    with pytest.raises(UsageError, match="was made for a base with digest"):
        unpack(make_fine(seed=9), delta)


def renamed_weight(model: ir.Model) -> None:
    value = model.graph.initializers.pop("w2")
    value.name = "head"
    model.graph.initializers["head"] = value


def other_operator(model: ir.Model) -> None:
    next(node for node in model.graph if node.op_type == "Relu").op_type = "Tanh"


def other_attribute(model: ir.Model) -> None:
    node = next(node for node in model.graph if node.op_type == "Cast")
    node.attributes["to"] = ir.AttrInt64("to", 11)


def other_wires(model: ir.Model) -> None:
    relu = next(node for node in model.graph if node.op_type == "Relu")
    relu.replace_input_with(0, model.graph[0].outputs[0])


def another_node(model: ir.Model) -> None:
    model.graph.append(ir.node("Relu", [model.graph.outputs[0]]))


def other_input(model: ir.Model) -> None:
    model.graph.inputs[0].name = "image"


def other_opset(model: ir.Model) -> None:
    model.opset_imports[""] = 21


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed_weight, "the stored tensor 'head' is in the fine-tune and not in the base"),
        (other_operator, "node 2 .Tanh 'h'.: operator Tanh, Relu in the base"),
        (other_attribute, "attribute 'to' differs"),
        (other_wires, r"it reads \['p1'\], \['s1'\] in the base"),
        (another_node, "is only in the fine-tune"),
        (other_input, r"inputs \['image'\]"),
        (other_opset, "opsets"),
    ],
)
def test_another_graph_is_refused_with_the_first_difference(
    change: object, message: str, base: ir.Model
) -> None:
    fine = base.clone()
    assert callable(change)
    change(fine)

    with pytest.raises(UsageError, match=message):
        pack(base, fine)


@pytest.mark.parametrize(
    ("density", "alpha", "message"),
    [(0.0, 1.0, "density is 0.0"), (1.5, 1.0, "density is 1.5"), (0.1, 0.0, "alpha is 0.0")],
)
def test_options_out_of_range_are_refused(density: float, alpha: float, message: str, base: ir.Model) -> None:
    with pytest.raises(UsageError, match=message):
        pack(base, base.clone(), density=density, alpha=alpha)


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_the_scale_is_the_best_for_what_is_kept(numbers: list[float], density: float) -> None:
    change = np.array(numbers)
    kept = ternary(change, density)

    def error(scale: float) -> float:
        signs = np.where(kept.negative, -1.0, 1.0)
        return float(((change[kept.positions] - scale * signs) ** 2).sum())

    assert len(kept.positions) <= max(1, round(density * len(change)))
    best = error(kept.scale)
    assert best <= error(kept.scale * 1.01) + 1e-9
    assert best <= error(kept.scale * 0.99) + 1e-9


def test_ties_go_to_the_first() -> None:
    assert ternary(np.array([1.0, -1.0, 1.0, 2.0]), 0.5).positions.tolist() == [0, 3]
