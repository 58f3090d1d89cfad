"""The variant of ONNX Runtime whose sums in front of layer normalisations are not fused."""

from __future__ import annotations

import json
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from adapass.budgeted import Array, Feeds
from adapass.codegen.onnxruntime.generator import OnnxRuntime
from adapass.codegen.onnxruntime.plan import Norms, Spin
from adapass.codegen.onnxruntime.session import open_session
from adapass.errors import UsageError
from adapass.target import Target, load_target

WIDTH = 32


@pytest.fixture
def cpu() -> Target:
    return load_target("cpu")


def residual(*, added: bool = True) -> ir.Model:
    weights = {
        "w": np.random.default_rng(0).standard_normal((WIDTH, WIDTH)).astype(np.float32),
        "one": np.ones(WIDTH, np.float32),
        "zero": np.zeros(WIDTH, np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add" if added else "Mul", ["x", "h"], ["s"]),
        helper.make_node("LayerNormalization", ["s", "one", "zero"], ["y"], axis=-1),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "seq", WIDTH]) for name in "xy"]
    stored = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "block", ports[:1], ports[1:], stored)
    opsets = [helper.make_opsetid("", 20)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=9))


def test_variant_is_offered_where_a_norm_reads_a_sum(cpu: Target) -> None:
    offered = {v.name: v.options for v in OnnxRuntime().variants(residual(), cpu, threads=2, batch=1)}

    assert list(offered) == ["plain", "plain-norms-apart", "plain-quiet", "plain-1-thread"]
    assert offered["plain"]["norms"] == "fused"
    assert {offered[name]["norms"] for name in offered if name != "plain"} == {"apart"}


def test_variant_is_not_offered_elsewhere(cpu: Target) -> None:
    model = residual(added=False)

    offered = OnnxRuntime().variants(model, cpu, threads=2, batch=1)

    assert {variant.options["norms"] for variant in offered} == {"fused"}


@pytest.mark.parametrize(("norms", "fused"), [(Norms.FUSED, 1), (Norms.APART, 0)])
def test_what_runs_is_fused_or_not(norms: Norms, fused: int, tmp_path: Path) -> None:
    model = ir.to_proto(residual()).SerializeToString()

    kernels = _executed(model, norms, tmp_path)

    assert kernels["SkipLayerNormalization"] == fused
    assert kernels["LayerNormalization"] == 1 - fused


@pytest.mark.parametrize("shape", [(1, 1), (1, 23), (4, 7)])
def test_both_give_the_same(shape: tuple[int, int], cpu: Target, tmp_path: Path) -> None:
    generator = OnnxRuntime()
    found: list[Array] = []
    feeds: Feeds = {"x": np.random.default_rng(1).standard_normal((*shape, WIDTH), np.float32)}
    for norms in ("fused", "apart"):
        folder = tmp_path / norms
        folder.mkdir()
        generator.build(residual(), cpu, folder, {"norms": norms})
        found.append(generator.load(folder, threads=1).run(feeds).outputs["y"])

    fused, apart = (np.asarray(output, np.float64) for output in found)
    assert np.abs(apart - fused).max() <= 2e-6 * np.abs(fused).max()


def test_plan_remembers_it(cpu: Target, tmp_path: Path) -> None:
    OnnxRuntime().build(residual(), cpu, tmp_path, {"norms": "apart"})

    assert json.loads((tmp_path / "onnxruntime.json").read_text())["norms"] == "apart"


def test_unknown_value_is_refused(cpu: Target, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'merged' is not a valid Norms"):
        OnnxRuntime().build(residual(), cpu, tmp_path, {"norms": "merged"})


def _executed(model: bytes, norms: Norms, folder: Path) -> Counter[str]:
    """What ran, from ONNX Runtime's own profile of a session opened with the options of the variant."""
    ort: Any = import_module("onnxruntime")  # ships no types
    opened = ort.SessionOptions

    def profiled() -> object:
        options = opened()
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        return options

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ort, "SessionOptions", profiled)
        session: Any = open_session(model, threads=1, spin=Spin.NEVER, gpu=False, norms=norms)
    session.run(["y"], {"x": np.zeros((1, 2, WIDTH), np.float32)})
    events = json.loads(Path(session.end_profiling()).read_text())
    names = (event["args"].get("op_name") for event in events if event["name"].endswith("_kernel_time"))
    return Counter(name for name in names if name)
