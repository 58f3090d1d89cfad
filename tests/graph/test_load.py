"""Loading: what is unsafe or broken is refused with a reason, everything else comes in lazily."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from adapass.errors import ModelError
from adapass.graph.load import from_proto, load_model
from adapass.graph.text import parse

WEIGHT = np.arange(8, dtype=np.float32).reshape(2, 4)


def _external(folder: Path, *, location: str = "w.bin", offset: int = 0, length: int = 32) -> Path:
    """A model whose weight lies in another file."""
    tensor = TensorProto(
        name="w", dims=[2, 4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL
    )
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [tensor],
    )
    file = folder / "model.onnx"
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    file.write_bytes(model.SerializeToString())
    return file


def test_external_weights_stay_on_disk_until_used(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())

    model = load_model(_external(tmp_path))

    tensor = model.graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert np.array_equal(tensor.numpy(), WEIGHT)


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        pytest.param("../w.bin", "leaves the model's folder", id="parent"),
        pytest.param("sub/../../w.bin", "leaves the model's folder", id="parent-in-the-middle"),
        pytest.param("/etc/hostname", "leaves the model's folder", id="absolute"),
        pytest.param("..\\w.bin", "leaves the model's folder", id="backslash"),
        pytest.param("link.bin", "is a link out of the model's folder", id="link"),
        pytest.param("folder/w.bin", "is a link out of the model's folder", id="linked-folder"),
        pytest.param("absent.bin", "is missing; put it beside the model", id="missing"),
    ],
)
def test_refuses_to_leave_the_folder(location: str, reason: str, tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "w.bin").write_bytes(WEIGHT.tobytes())
    (inside / "link.bin").symlink_to(outside / "w.bin")
    (inside / "folder").symlink_to(outside)

    with pytest.raises(ModelError, match=reason):
        load_model(_external(inside, location=location))


def test_follows_a_link_that_stays_inside(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    (tmp_path / "link.bin").symlink_to(tmp_path / "w.bin")

    model = load_model(_external(tmp_path, location="link.bin"))

    tensor = model.graph.initializers["w"].const_value
    assert tensor is not None
    assert np.array_equal(tensor.numpy(), WEIGHT)


@pytest.mark.parametrize(
    ("offset", "length", "reason"),
    [
        pytest.param(8, 32, "ends at byte 40, but the file has 32", id="past-the-end"),
        pytest.param(-4, 32, "offset '-4', which is not a number of bytes", id="negative-offset"),
        pytest.param(0, -1, "length '-1', which is not a number of bytes", id="negative-length"),
        pytest.param(0, 16, r"has 16 bytes, but its shape \[2,4\] needs 32", id="too-short"),
    ],
)
def test_refuses_ranges_outside_the_file(offset: int, length: int, reason: str, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())

    with pytest.raises(ModelError, match=reason):
        load_model(_external(tmp_path, offset=offset, length=length))


def test_refuses_external_data_without_a_folder(tmp_path: Path) -> None:
    proto = onnx.ModelProto.FromString(_external(tmp_path).read_bytes())

    with pytest.raises(ModelError, match="load the model from its file"):
        from_proto(proto)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"no protobuf", "is not an ONNX model", id="garbage"),
        pytest.param(b"", "holds no graph", id="empty"),
    ],
)
def test_refuses_what_is_not_a_model(content: bytes, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(content)

    with pytest.raises(ModelError, match=reason):
        load_model(file)


def test_says_that_the_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent\.onnx' is missing"):
        load_model(tmp_path / "absent.onnx")
    with pytest.raises(ModelError, match="is a folder"):
        load_model(tmp_path)


def test_refuses_files_no_protobuf_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    file = _external(tmp_path)
    monkeypatch.setattr("adapass.graph.load.MAX_PROTOBUF_BYTES", 10)

    with pytest.raises(ModelError, match="save the model with external data"):
        load_model(file)


def test_refuses_tensors_with_too_little_data() -> None:
    proto = helper.make_model(
        helper.make_graph(
            [helper.make_node("Add", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
            [TensorProto(name="w", dims=[4], data_type=TensorProto.FLOAT, raw_data=b"12345678")],
        )
    )

    with pytest.raises(ModelError, match=r"tensor 'w' has 8 bytes of data, but its shape \[4\] needs 16"):
        from_proto(proto)


def test_refuses_sparse_initializers() -> None:
    proto = helper.make_model(helper.make_graph([], "g", [], []))
    values = numpy_helper.from_array(np.ones(1, np.float32), "w")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    proto.graph.sparse_initializer.add(values=values, indices=indices, dims=[4])

    with pytest.raises(ModelError, match="initializer 'w' is sparse"):
        from_proto(proto)


def test_refuses_models_that_are_not_valid_onnx() -> None:
    with pytest.raises(ModelError, match="the text is not valid ONNX"):
        parse('<ir_version: 10, opset_import: ["" : 20]> g (float[2] x) => (float[2] y) { y = NoSuchOp(x) }')


def test_reads_onnx_text(tmp_path: Path) -> None:
    file = tmp_path / "model.onnxtxt"
    file.write_text('<ir_version: 10, opset_import: ["" : 20]> g (float[2] x) => (float[2] y) { y = Neg(x) }')

    assert [node.op_type for node in load_model(file).graph] == ["Neg"]


def test_stale_shapes_are_inferred_again() -> None:
    model = parse(
        """<ir_version: 10, opset_import: ["" : 20]> g (float[N,4] x) => (float[N,2] y)
           <float[4,2] w = {1,2,3,4,5,6,7,8}, float[N,384] h> { h = MatMul(x, w) y = Relu(h) }"""
    )

    assert str(next(iter(model.graph)).outputs[0].shape) == "[N,2]"


def test_old_models_lose_the_inputs_that_are_weights() -> None:
    model = parse(
        """<ir_version: 3, opset_import: ["" : 20]> g (float[N,4] x, float[4] w) => (float[N,4] y)
           <float[4] w = {1,2,3,4}> { y = Add(x, w) }"""
    )

    assert [value.name for value in model.graph.inputs] == ["x"]
    assert model.ir_version == 4


def test_newer_models_keep_inputs_with_defaults() -> None:
    model = parse(
        """<ir_version: 10, opset_import: ["" : 20]> g (float[N,4] x, float[4] w) => (float[N,4] y)
           <float[4] w = {1,2,3,4}> { y = Add(x, w) }"""
    )

    assert [value.name for value in model.graph.inputs] == ["x", "w"]
