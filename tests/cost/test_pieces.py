"""Cutting models into pieces: every node once, equal layers alike, conversions with what they fuse into."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from adapass.cost.pieces import Layout, Piece, lay_out
from adapass.graph.shapes import infer_shapes
from adapass.testing.known_device import Network


def pieces_of(layout: Layout) -> list[Piece]:
    return [piece for section in layout.sections for piece in section.pieces]


def names(layout: Layout, piece: Piece) -> list[str]:
    return [layout.flow.nodes[index].op_type for index in piece.nodes]


@pytest.mark.parametrize("exits", [0, 1, 3])
def test_every_node_is_in_exactly_one_piece(exits: int) -> None:
    layout = lay_out(Network((16, 16, 32, 16), exits).build())

    covered = sorted(index for piece in pieces_of(layout) for index in piece.nodes)

    assert covered == list(range(len(layout.flow.nodes)))


@pytest.mark.parametrize("exits", [0, 2])
def test_pieces_read_what_earlier_ones_or_inputs_give(exits: int) -> None:
    layout = lay_out(Network((16, 16, 16), exits).build())

    known = {value.name for value in layout.model.graph.inputs}
    for piece in pieces_of(layout):
        assert set(piece.inputs) <= known
        known.update(piece.outputs)


def test_equal_layers_have_one_key_and_narrower_ones_one_kind() -> None:
    layout = lay_out(Network((16, 16, 8, 16)).build())

    blocks = [piece for piece in pieces_of(layout) if "Add" in names(layout, piece)]

    assert len({piece.kind for piece in blocks}) == 1
    assert len({piece.key for piece in blocks}) == 2
    assert blocks[0].key == blocks[1].key == blocks[3].key


def test_weights_and_names_do_not_count() -> None:
    first, second = Network((16,)).build(), Network((16,)).build()
    for value in second.graph.initializers.values():
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy() + 1, name=value.name)
    for node in second.graph:
        node.outputs[0].name = f"other_{node.outputs[0].name}"

    assert [p.key for p in pieces_of(lay_out(first))] == [p.key for p in pieces_of(lay_out(second))]


def test_sections_end_where_exits_are() -> None:
    layout = lay_out(Network((16, 16, 16), exits=2).build())

    assert len(layout.sections) == 3
    assert layout.carried == ((), ("x_0",), ("x_1",))
    heads = [section.pieces[-1] for section in layout.sections[:2]]
    assert all("GreaterOrEqual" in names(layout, head) for head in heads)


def test_an_exit_does_not_change_the_layers_before_it() -> None:
    plain, with_exits = Network((16, 16, 16)), Network((16, 16, 16), exits=2)

    keys = {piece.key for piece in pieces_of(lay_out(with_exits.build()))}

    blocks = lay_out(plain.build()).sections[0].pieces[1:-1]
    assert {piece.key for piece in blocks} <= keys


def test_the_model_stays_as_it_was() -> None:
    model = Network((16, 16), exits=1).build()
    before = ir.to_proto(model).SerializeToString()

    lay_out(model)

    assert ir.to_proto(model).SerializeToString() == before


QUANTIZED = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[B, 8] x, float s, uint8 z, int8[8, 8] w_0, int8[8, 8] w_1, float ws, int8 wz) => (float[B, 8] y) {
    d_0 = DequantizeLinear (w_0, ws, wz)
    d_1 = DequantizeLinear (w_1, ws, wz)
    q_0 = QuantizeLinear (x, s, z)
    r_0 = DequantizeLinear (q_0, s, z)
    m_0 = MatMul (r_0, d_0)
    a_0 = Relu (m_0)
    q_1 = QuantizeLinear (a_0, s, z)
    r_1 = DequantizeLinear (q_1, s, z)
    m_1 = MatMul (r_1, d_1)
    y = Relu (m_1)
}
"""


def quantized() -> ir.Model:
    import numpy as np

    arrays = {"w_0": np.ones((8, 8), np.int8), "w_1": np.ones((8, 8), np.int8)}
    scalars = {"s": np.float32(0.1), "z": np.uint8(128), "ws": np.float32(0.1), "wz": np.int8(0)}
    model = ir.from_onnx_text(QUANTIZED)
    for value in list(model.graph.inputs):
        stored = arrays.get(value.name or "", scalars.get(value.name or ""))
        if stored is not None:
            value.const_value = ir.tensor(np.asarray(stored), name=value.name)
            model.graph.inputs.remove(value)
            model.graph.register_initializer(value)
    infer_shapes(model)
    return model


def test_8_bit_layers_are_cut_at_the_8_bit_value() -> None:
    layout = lay_out(quantized())

    first, second = pieces_of(layout)

    assert first.outputs == ("q_1",)
    assert names(layout, second)[0] == "DequantizeLinear"
    assert first.share_8bit == second.share_8bit == 1.0
    assert first.weight_bytes == 64


def test_a_part_is_a_model_of_its_own() -> None:
    layout = lay_out(Network((16, 16, 16)).build())

    part = layout.part(layout.sections[0].pieces[1:3])

    assert [value.name for value in part.graph.inputs] == ["stemmed"]
    assert [value.name for value in part.graph.outputs] == ["x_1"]
