"""Every node model of the onnx wheel through load, the clean passes, save and load, and ONNX Runtime.

Models that ONNX Runtime cannot run as they are sit in ``node_models_not_run.json``, by reason; they
still go through everything else.
"""

from __future__ import annotations

import importlib.util
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import pytest

from adapass.defaults import CLEAN
from adapass.errors import AdapassError
from adapass.facts import FactCache
from adapass.graph.check import check_structure
from adapass.graph.load import load_model
from adapass.graph.save import save_model
from adapass.registry import pass_class

SHARDS = 16
HERE = Path(__file__).parent


def _import_neighbour() -> Any:
    spec = importlib.util.spec_from_file_location("node_models", HERE / "node_models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


node_models: Any = _import_neighbour()
LISTED: dict[str, Any] = json.loads((HERE / "node_models_not_run.json").read_text())
NOT_RUN = {name: reason for reason, names in LISTED["not_run"].items() for name in names}
SAME_VERSIONS = (LISTED["onnx"], LISTED["onnxruntime"]) == (onnx.__version__, version("onnxruntime"))
PASSES = [pass_class(name)() for name in CLEAN]


@pytest.mark.parametrize("shard", range(SHARDS))
def test_outputs_stay_as_expected(shard: int, tmp_path: Path) -> None:
    found = {case.name: _complaint(case, tmp_path) for case in node_models.cases()[shard::SHARDS]}

    assert {name: complaint for name, complaint in found.items() if complaint is not None} == {}
    assert len(found) > 100


@pytest.mark.parametrize(
    ("operator", "fewest"),
    [
        ("QuantizeLinear", 8),
        ("DequantizeLinear", 9),
        ("DynamicQuantizeLinear", 3),
        ("MatMulInteger", 1),
        ("ConvInteger", 1),
        ("QLinearMatMul", 4),
        ("QLinearConv", 1),
    ],
)
def test_quantized_operators_compute_the_same_bits(operator: str, fewest: int, tmp_path: Path) -> None:
    """At least so many of the cases run in ONNX Runtime, and not one number of them changes."""
    cases = [case for case in node_models.cases() if {n.op_type for n in case.model.graph.node} == {operator}]
    run = [case for case in cases if case.name not in NOT_RUN]

    for case in run:
        before = node_models.run(case.model.SerializeToString(), case.data_sets)
        after = node_models.run(_cleaned(case.model, tmp_path), case.data_sets)
        node_models.assert_close(after, before, rtol=0.0, atol=0.0)

    assert len(run) >= fewest


def test_the_list_names_existing_models() -> None:
    names = {case.name for case in node_models.cases()}

    assert not SAME_VERSIONS or names >= set(NOT_RUN)
    assert len(names) - len(NOT_RUN) > 1600


def _complaint(case: Any, folder: Path) -> str | None:
    """What is wrong with one model, in words."""
    try:
        cleaned = _cleaned(case.model, folder)
    except AdapassError as error:
        return f"load, passes or check: {error}"
    if case.name in NOT_RUN:
        return _complaint_about_listing(case, cleaned)
    try:
        outputs = node_models.run(cleaned, case.data_sets)
        node_models.assert_close(outputs, _expected(case), case.rtol, case.atol)
    except Exception as error:
        return f"run: {error}"
    return None


def _cleaned(proto: onnx.ModelProto, folder: Path) -> bytes:
    """Load, clean, save, load and save again; the two files have to be equal."""
    source, target, again = (folder / name for name in ("source.onnx", "target.onnx", "again.onnx"))
    source.write_bytes(proto.SerializeToString())
    model = load_model(source)
    for step in PASSES:
        step.run(model, FactCache(model))
    check_structure(model)
    save_model(model, target)
    save_model(load_model(target), again)
    assert target.read_bytes() == again.read_bytes()
    return target.read_bytes()


def _complaint_about_listing(case: Any, cleaned: bytes) -> str | None:
    """A listed model has to fail unmodified; one that computes something else has to compute it still."""
    if not SAME_VERSIONS:
        return None
    try:
        outputs = node_models.run(case.model.SerializeToString(), case.data_sets)
    except Exception:
        return None
    node_models.assert_close(node_models.run(cleaned, case.data_sets), outputs, case.rtol, case.atol)
    try:
        node_models.assert_close(outputs, _expected(case), case.rtol, case.atol)
    except AssertionError:
        return None
    return "is listed as not run, but runs unmodified; remove it from node_models_not_run.json"


def _expected(case: Any) -> list[list[Any]]:
    return [list(outputs) for _, outputs in case.data_sets]
