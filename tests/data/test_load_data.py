from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from adapass.budgeted import Array
from adapass.data import load_data
from adapass.errors import DataError, UsageError

IMAGE = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[batch,3] image) => (float[batch,3] logits) { logits = Relu(image) }
"""


def image_model(text: str = IMAGE) -> ir.Model:
    return ir.from_onnx_text(text)


def images(rows: int = 4, start: float = 0.0) -> Array:
    return np.arange(rows * 3, dtype=np.float32).reshape(rows, 3) + np.float32(start)


def test_reads_an_archive_with_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", image=images(), labels=np.array([0, 1, 2, 0]))

    data = load_data(tmp_path / "data.npz", image_model())

    assert len(data) == 4
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 2, 0]
    assert data.lengths is None
    np.testing.assert_array_equal(data.feeds(1)["image"], images()[1:2])


def test_reads_compressed_and_foreign_byte_order_and_column_order(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "data.npz", image=np.asfortranarray(images().astype(">f4")))

    data = load_data(tmp_path / "data.npz", image_model())

    np.testing.assert_array_equal(data.batch(range(4))["image"], images())
    assert data.feeds(0)["image"].dtype == np.dtype("=f4")


def test_joins_a_folder_in_sorted_order(tmp_path: Path) -> None:
    np.savez(tmp_path / "b.npz", image=images(2, 100))
    np.savez(tmp_path / "a.npz", image=images(3))
    (tmp_path / "notes.txt").write_text("not data", encoding="utf-8")

    data = load_data(tmp_path, image_model())

    np.testing.assert_array_equal(data.batch(range(5))["image"], np.concatenate([images(3), images(2, 100)]))


def test_takes_a_mapping() -> None:
    assert len(load_data({"image": images()}, image_model())) == 4


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        pytest.param(np.ones((2, 3)), np.float32, id="double-to-single"),
        pytest.param(np.ones((2, 3), np.float16), np.float32, id="half-to-single"),
    ],
)
def test_casts_floats_safely(given: Array, kept: type[np.generic]) -> None:
    assert load_data({"image": given}, image_model()).feeds(0)["image"].dtype == kept


@pytest.mark.parametrize("given", [np.int32, np.bool_, np.uint8])
def test_casts_whole_numbers_that_fit(given: type[np.generic]) -> None:
    model = image_model(
        IMAGE.replace("float[batch,3] image", "int64[batch,3] image").replace("Relu", "Cast<to = 1>")
    )

    assert load_data({"image": np.ones((2, 3), given)}, model).feeds(0)["image"].dtype == np.int64


def test_a_knob_of_fixed_size_does_not_fix_the_batch() -> None:
    text = IMAGE.replace("{ logits = Relu(image) }", "{ logits = Mul(image, scale) }").replace(
        "float[batch,3] image)", "float[batch,3] image, float[3] scale)"
    )
    model = image_model(text)
    scale = next(value for value in model.graph.inputs if value.name == "scale")
    scale.const_value = ir.tensor(np.ones(3, np.float32), name="scale")
    model.graph.initializers["scale"] = scale

    assert load_data({"image": images()}, model).max_batch is None


def test_does_not_need_inputs_with_a_default() -> None:
    text = IMAGE.replace("{ logits = Relu(image) }", "{ logits = Mul(image, scale) }").replace(
        "float[batch,3] image)", "float[batch,3] image, float scale)"
    )
    model = image_model(text)
    with pytest.raises(DataError, match="'scale' is a scalar"):
        load_data({"image": images()}, model)
    scale = next(value for value in model.graph.inputs if value.name == "scale")
    scale.const_value = ir.tensor(np.ones((), np.float32), name="scale")
    model.graph.initializers["scale"] = scale

    assert set(load_data({"image": images()}, model).feeds(0)) == {"image"}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        pytest.param({}, "array 'image' is missing; found nothing", id="nothing"),
        pytest.param(
            {"labels": np.zeros(4, int)}, "array 'image' is missing; found labels", id="only-labels"
        ),
        pytest.param(
            {"imgae": images()}, "'imgae' is not an input of the model; did you mean image", id="typo"
        ),
        pytest.param(
            {"image": images(), "label": np.zeros(4, int)},
            "'label' is not an input.*did you mean labels",
            id="label",
        ),
        pytest.param({"image": np.ones(3, np.float32)}, r"shape \(3,\), rank 1; rank 2 expected", id="rank"),
        pytest.param(
            {"image": np.ones((2, 5), np.float32)}, r"shape \(2, 5\); 3 expected on axis 1", id="extent"
        ),
        pytest.param(
            {"image": np.ones((2, 3), np.uint8)}, "dtype uint8; float32 expected", id="bytes-as-floats"
        ),
        pytest.param(
            {"image": np.ones((2, 3), np.int64)}, "dtype int64; float32 expected", id="ints-as-floats"
        ),
        pytest.param({"image": np.full((2, 3), "x")}, "dtype <U1; float32 expected", id="strings"),
        pytest.param({"image": np.ones((2, 3), complex)}, "dtype complex128; float32 expected", id="complex"),
        pytest.param({"image": np.ones((0, 3), np.float32)}, "'image' is empty", id="empty"),
        pytest.param({"image": np.array([[0, 1, 2], [0, np.nan, 1]])}, "NaN or infinite.*sample 1", id="nan"),
        pytest.param({"image": np.full((2, 3), 1e300)}, "NaN or infinite", id="too-large-for-single"),
        pytest.param(
            {"image": images(), "labels": np.zeros(3, int)},
            "'labels' has 3 samples and 'image' has 4",
            id="counts",
        ),
        pytest.param(
            {"image": images(), "labels": np.int64(1)}, "'labels' has 0 samples", id="scalar-labels"
        ),
        pytest.param(
            {"image": images(), "labels": np.zeros((4, 2), int)},
            r"'labels' has shape \(4, 2\); expected",
            id="labels",
        ),
        pytest.param(
            {"image": images(), "labels": np.zeros(4)}, r"'labels' has shape \(4,\)", id="float-classes"
        ),
        pytest.param(
            {"image": images(), "labels": np.array([0, 1, 2, 3])}, "0 to 3; 0 to 2 expected", id="class"
        ),
        pytest.param(
            {"image": images(), "labels": np.array([0, 1, 2, -1])}, "-1 to 2; 0 to 2", id="negative"
        ),
        pytest.param(
            {"image": images(), "labels": np.array(list("abcd"))}, "'labels' has dtype <U1", id="words"
        ),
    ],
)
def test_names_what_does_not_fit(arrays: dict[str, Array], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(arrays, image_model())


def test_refuses_whole_numbers_that_do_not_fit() -> None:
    model = image_model(
        IMAGE.replace("float[batch,3] image", "int32[batch,3] image").replace("Relu", "Cast<to = 1>")
    )

    assert load_data({"image": np.ones((2, 3), np.int64)}, model).feeds(0)["image"].dtype == np.int32
    with pytest.raises(DataError, match="dtype int64; int32 expected"):
        load_data({"image": np.full((2, 3), 2**40)}, model)


@pytest.mark.parametrize(
    ("labels", "fits"),
    [
        pytest.param(np.zeros((4, 3), int), True, id="marks"),
        pytest.param(np.zeros((4, 3)), True, id="targets"),
        pytest.param(np.zeros((4, 1), int), False, id="column"),
    ],
)
def test_labels_may_have_the_shape_of_the_output(labels: Array, fits: bool) -> None:
    arrays = {"image": images(), "labels": labels}
    if fits:
        assert load_data(arrays, image_model()).labels is not None
        return
    with pytest.raises(DataError, match="'labels' has shape"):
        load_data(arrays, image_model())


def test_single_output_takes_flat_labels() -> None:
    model = image_model(IMAGE.replace(",3]", ",1]"))

    assert (
        load_data({"image": np.ones((2, 1), np.float32), "labels": np.array([0, 1])}, model).labels
        is not None
    )
    assert (
        load_data({"image": np.ones((2, 1), np.float32), "labels": np.array([0.5, 7.0])}, model).labels
        is not None
    )


def test_an_input_called_labels_is_an_input() -> None:
    text = IMAGE.replace("(float[batch,3] image)", "(float[batch,3] labels)").replace(
        "Relu(image)", "Relu(labels)"
    )

    data = load_data({"labels": images()}, image_model(text))

    assert data.labels is None
    assert set(data.feeds(0)) == {"labels"}


def test_refuses_models_that_no_sample_fits() -> None:
    with pytest.raises(DataError, match="fixed first axis of 8; a dynamic batch axis or 1 expected"):
        load_data({"image": images()}, image_model(IMAGE.replace("batch", "8")))
    with pytest.raises(DataError, match="'image' takes strings"):
        load_data(
            {"image": images()}, image_model(IMAGE.replace("float[batch,3] image", "string[batch,3] image"))
        )
    with pytest.raises(DataError, match="'image' is a scalar"):
        load_data({"image": images()}, image_model(IMAGE.replace("float[batch,3] image", "float image")))
    with pytest.raises(DataError, match="a tensor of known rank expected"):
        load_data({"image": images()}, image_model(IMAGE.replace("float[batch,3] image", "float[] image")))


def test_inputs_agree_on_a_shared_axis(text_model: ir.Model) -> None:
    arrays = {
        "ids": np.ones((2, 5), int),
        "attention_mask": np.ones((2, 4), int),
        "bias": np.ones((2, 1, 5, 5), np.float32),
        "image": np.ones((2, 4), np.float32),
    }
    with pytest.raises(DataError, match="axis 'seq' is 4 in array 'attention_mask' and 5 in 'ids'"):
        load_data(arrays, text_model)


def test_missing_path_says_what_is_possible(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"not found; an \.npz file, a folder of them or package\.module:function"
    ):
        load_data(tmp_path / "absent.npz", image_model())
    with pytest.raises(DataError, match=r"no \.npz files found"):
        load_data(tmp_path, image_model())


def test_refuses_links_out_of_the_folder(tmp_path: Path) -> None:
    np.savez(tmp_path / "outside.npz", image=images())
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "inside.npz").symlink_to(tmp_path / "outside.npz")

    with pytest.raises(DataError, match="outside its folder"):
        load_data(folder, image_model())


def test_bounds_the_total_size(tmp_path: Path) -> None:
    for name in "abc":
        np.savez(tmp_path / f"{name}.npz", image=images(100))

    assert len(load_data(tmp_path, image_model(), max_bytes=4000)) == 300
    with pytest.raises(DataError, match="more than 3,000 bytes of data altogether"):
        load_data(tmp_path, image_model(), max_bytes=3000)


def test_parts_of_a_folder_have_the_same_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", image=images(), labels=np.zeros(4, int))
    np.savez(tmp_path / "b.npz", image=images())

    with pytest.raises(DataError, match=r"'labels' is in only one of .*a\.npz and .*b\.npz"):
        load_data(tmp_path, image_model())


CODE = """
import numpy as np

def whole():
    return {"image": np.ones((5, 3), np.float32)}

def batches():
    for rows in (2, 3):
        yield {"image": np.full((rows, 3), rows, np.float32)}

def endless():
    while True:
        yield {"image": np.ones((1000, 3), np.float32)}

def number():
    return 3

def numbers():
    return [1, 2]

def broken():
    raise KeyError("no such file")
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "user_data_module.py").write_text(CODE, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "user_data_module", raising=False)
    return "user_data_module"


def test_runs_no_code_unless_allowed(user_module: str) -> None:
    with pytest.raises(UsageError, match=re.escape("--allow-code (allow_code=True)")):
        load_data(f"{user_module}:whole", image_model())
    assert user_module not in sys.modules


def test_takes_a_mapping_or_batches_from_a_function(user_module: str) -> None:
    assert len(load_data(f"{user_module}:whole", image_model(), allow_code=True)) == 5
    data = load_data(f"{user_module}:batches", image_model(), allow_code=True)
    assert data.batch(range(5))["image"][:, 0].tolist() == [2, 2, 3, 3, 3]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("endless", "more than 50,000 bytes of data altogether"),
        ("number", "returned int; a mapping of arrays or an iterable"),
        ("numbers", "batch 0: int found; a mapping of arrays expected"),
        ("broken", "the function failed with KeyError: 'no such file'"),
        ("absent", "the function failed with AttributeError"),
    ],
)
def test_bad_functions_are_data_errors(user_module: str, function: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(f"{user_module}:{function}", image_model(), allow_code=True, max_bytes=50_000)


def test_parts_have_labels_of_one_kind(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", image=images(), labels=np.zeros(4, int))
    np.savez(tmp_path / "b.npz", image=images(), labels=np.zeros((4, 3)))

    with pytest.raises(DataError, match=r"array 'labels' has dtypes \['float64', 'int64'\]; one expected"):
        load_data(tmp_path, image_model())
    np.savez(tmp_path / "b.npz", image=images(), labels=np.zeros((4, 3), int))
    with pytest.raises(DataError, match=r"array 'labels' has shape.*pad them to one length"):
        load_data(tmp_path, image_model())


def test_bounds_the_number_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapass.data.load.MAX_FILES", 2)
    for name in "abc":
        np.savez(tmp_path / f"{name}.npz", image=images())

    with pytest.raises(DataError, match=r"3 \.npz files found, at most 2 expected"):
        load_data(tmp_path, image_model())
