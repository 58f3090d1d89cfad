"""update_weights: trained parameters come back bit for bit, in the type they are stored in."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from adapass.errors import ModelError
from adapass.execution import Session
from adapass.graph.text import parse

torch: Any = pytest.importorskip("torch", reason="torch is an extra")

from adapass.twin.build import build_twin  # noqa: E402
from adapass.twin.write_back import update_weights  # noqa: E402

TEXT = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[N, 2] x) => (float[N, 2] y)
    <float[2, 2] w = {1, 2, 3, 4}, float[2] b = {1, 2}, float[2] unused = {5, 6}> {
        p = MatMul(x, w)
        y = Add(p, b)
    }
"""


def halves(dtype: Any) -> ir.Model:
    model = parse(
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[N, 2] x) => (float[N, 2] y) <float16[2, 2] w = {1, 2, 3, 4}> {
            wide = Cast<to = 1>(w)
            y = MatMul(x, wide)
        }
        """
    )
    array = np.array([[0.1, 0.2], [0.3, -0.4]]).astype(dtype)
    model.graph.initializers["w"].const_value = ir.tensor(array, name="w")
    model.graph.initializers["w"].dtype = ir.DataType.from_numpy(np.dtype(dtype))
    return model


def stored(model: ir.Model, name: str) -> Any:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def close(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_an_untrained_twin_changes_nothing() -> None:
    model = parse(TEXT)
    before = model.graph.initializers["w"].const_value

    assert update_weights(model, build_twin(model)) == 0
    assert model.graph.initializers["w"].const_value is before


def test_trained_weights_are_stored_bit_for_bit() -> None:
    model = parse(TEXT)
    twin = build_twin(model)
    new = torch.tensor([[0.1, -0.0], [1e-40, 3e38]])
    with torch.no_grad():
        twin.parameter("w").copy_(new)

    assert update_weights(model, twin) == 1

    assert stored(model, "w").tobytes() == new.numpy().tobytes()
    assert stored(model, "b").tolist() == [1.0, 2.0]


def test_negative_zero_is_another_number() -> None:
    model = parse(TEXT)
    model.graph.initializers["b"].const_value = ir.tensor(np.zeros(2, np.float32), name="b")
    twin = build_twin(model)
    with torch.no_grad():
        twin.parameter("b").neg_()

    assert update_weights(model, twin) == 1
    assert np.signbit(stored(model, "b")).all()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_half_types_keep_their_type_and_their_numbers(dtype: Any) -> None:
    model = halves(dtype)
    before = stored(model, "w").copy()
    twin = build_twin(model)
    assert update_weights(model, twin) == 0

    with torch.no_grad():
        twin.parameter("w")[0, 0] = 0.30003
    assert update_weights(model, twin) == 1

    after = stored(model, "w")
    assert after.dtype == before.dtype
    assert after[0, 0] == np.float32(0.30003).astype(dtype)
    assert (after[1] == before[1]).all()


def test_the_model_computes_what_the_trained_twin_does() -> None:
    model = halves(np.float16)
    twin = build_twin(model)
    with torch.no_grad():
        twin.parameter("w").add_(0.01234)
    update_weights(model, twin)

    x = np.array([[1.0, 2.0]], np.float32)
    close(twin.run({"x": x})["y"], Session(model).run({"x": x})["y"])


def test_refuses_a_model_the_twin_was_not_built_from() -> None:
    twin, other = build_twin(parse(TEXT)), parse(TEXT)
    other.graph.initializers["b"].const_value = ir.tensor(np.ones(3, np.float32), name="b")

    with pytest.raises(ModelError, match=r"initializer 'b' is FLOAT\[3\] in the model, FLOAT\[2\] expected"):
        update_weights(other, twin)

    assert stored(other, "w").tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_refuses_a_model_without_the_weight() -> None:
    twin = build_twin(parse(TEXT))

    with pytest.raises(ModelError, match="no initializer 'b'"):
        update_weights(halves(np.float32), twin)
