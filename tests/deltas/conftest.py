"""A small base, and fine-tunes of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from adapass.graph.text import parse
from tests.passes.rows import literal, weight

HEADER = '<ir_version: 10, opset_import: ["" : 20]>'
MakeFine = Callable[..., ir.Model]


def network() -> ir.Model:
    """Float, half-precision, bfloat16 and integer tensors: [N, 32] -> [N, 4]."""
    return parse(
        f"""
        {HEADER}
        net (float[N, 32] x) => (float[N, 4] y)
        <float[32, 48] w1 = {literal(weight(1, 32, 48, scale=0.3))}, float[48] b1 = {literal(weight(2, 48))},
         float[48, 4] w2 = {literal(weight(3, 48, 4))}, int64[2] target = {{-1, 4}},
         float16[48] half = {ones("15360")}, bfloat16[48] brain = {ones("16256")}>
        {{
            p1 = MatMul(x, w1)
            s1 = Add(p1, b1)
            h = Relu(s1)
            half_wide = Cast<to = 1>(half)
            g = Mul(h, half_wide)
            brain_wide = Cast<to = 1>(brain)
            k = Mul(g, brain_wide)
            p2 = MatMul(k, w2)
            y = Reshape(p2, target)
        }}
        """
    )


def ones(bits: str) -> str:
    """48 times one, as the bits that the text form wants."""
    return "{" + ", ".join([bits] * 48) + "}"


@pytest.fixture
def base() -> ir.Model:
    return network()


@pytest.fixture
def make_fine() -> MakeFine:
    """A fine-tune: normal noise on every float tensor, of ``size`` times its root mean square."""

    def make(size: float = 0.1, seed: int = 5) -> ir.Model:
        model = network()
        random = np.random.default_rng(seed)
        for name, value in model.graph.initializers.items():
            tensor = value.const_value
            assert tensor is not None
            if tensor.dtype.is_floating_point():
                array: npt.NDArray[np.float64] = tensor.numpy().astype(np.float64)
                noise = size * np.sqrt((array**2).mean()) * random.standard_t(3, array.shape)
                value.const_value = ir.tensor(
                    (array + noise).astype(tensor.dtype.numpy()), dtype=tensor.dtype, name=name
                )
        return model

    return make
