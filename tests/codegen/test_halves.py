"""Weights that are halves are stored as halves; nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from adapass.codegen.halves import SMALLEST_BYTES, store_halves
from adapass.codegen.onnxruntime.generator import OnnxRuntime
from adapass.execution import Session
from adapass.graph.text import clone, parse
from adapass.target import load_target

WIDTH = 160


def model(*, halves: bool = True) -> ir.Model:
    rng = np.random.default_rng(0)

    def numbers(count: int) -> str:
        array = rng.normal(size=count).astype(np.float16).astype(np.float32)
        array = array if halves else array * np.float32(1.0 + 2**-20)
        return "{" + ", ".join(f"{number:.9g}" for number in array) + "}"

    square = f"float[{WIDTH}, {WIDTH}]"
    return parse(f"""
        <ir_version: 10, opset_import: ["" : 20]>
        g (float[N, {WIDTH}] x, bool go) => (float[N, {WIDTH}] y) <
          {square} w = {numbers(WIDTH * WIDTH)}, float[{WIDTH}] b = {numbers(WIDTH)}
        > {{
          h = MatMul (x, w)
          y = If (go) <
            then_branch = t () => (float[N, {WIDTH}] p) <{square} v = {numbers(WIDTH * WIDTH)}> {{
              p = MatMul (h, v)
            }},
            else_branch = e () => (float[N, {WIDTH}] q) {{ q = Add (h, b) }}
          >
        }}
    """)


def run(made: ir.Model, *, go: bool) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    x = np.random.default_rng(1).normal(size=(3, WIDTH)).astype(np.float32)
    found = Session(made, outputs=["y"], optimize=True).run({"x": x, "go": np.array(go)})
    return np.asarray(found["y"], np.float32)


def test_large_halves_are_stored_as_halves_in_branches_too() -> None:
    plain, stored = model(), model()

    assert WIDTH * WIDTH * 4 >= SMALLEST_BYTES > WIDTH * 4
    assert store_halves(stored) == 2
    assert {t.const_value.dtype for t in stored.graph.initializers.values() if t.const_value is not None} == {
        ir.DataType.FLOAT16,
        ir.DataType.FLOAT,  # the bias is small
    }
    for go in (True, False):
        np.testing.assert_array_equal(run(stored, go=go), run(plain, go=go))


def test_numbers_that_are_no_halves_stay() -> None:
    assert store_halves(model(halves=False)) == 0


@pytest.mark.parametrize(("far", "stored"), [(1e5, 1), (1e-9, 1), (0.1, 1), (-0.0, 2), (np.inf, 2)])
def test_one_number_decides(far: float, stored: int) -> None:
    made = model()
    value = made.graph.initializers["w"]
    assert value.const_value is not None
    array = value.const_value.numpy().copy()
    array[3, 4] = far
    value.const_value = ir.tensor(array, name="w")

    assert store_halves(made) == stored


def test_what_a_caller_sees_stays() -> None:
    made = model()
    made.graph.inputs.append(made.graph.initializers["w"])

    assert store_halves(made) == 1
    assert made.graph.inputs[-1].dtype is ir.DataType.FLOAT


def test_a_build_is_as_small_as_halves_are(tmp_path: Path) -> None:
    sizes: list[int] = []
    for halves in (True, False):
        folder = tmp_path / str(halves)
        folder.mkdir()
        made = model(halves=halves)
        before = clone(made)
        OnnxRuntime().build(made, load_target("cpu"), folder, {"lowering": "none"})
        sizes.append((folder / "model.onnx").stat().st_size)
        assert made.graph.initializers.keys() == before.graph.initializers.keys()

    assert sizes[0] < 0.55 * sizes[1]
