"""Several generators in one run: which are relied on, what each builds, and that whichever wins ships."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from adapass.artifact import Latency, Trust, load_artifact
from adapass.artifact.read import read_artifact
from adapass.budgeted import Feeds
from adapass.codegen.onnxruntime.generator import OnnxRuntime
from adapass.cost.model import Cost
from adapass.cost.model import Trust as CostTrust
from adapass.cost.timing import Ratio
from adapass.driver import job
from adapass.driver.agreement import disagreement
from adapass.driver.comparing import Comparison, Final
from adapass.driver.finals import ORIGINAL, Build, build_all
from adapass.driver.material import gather
from adapass.driver.optimize import optimize
from adapass.driver.proof import Contestant, sequence
from adapass.driver.request import Request
from adapass.errors import ExitCode, ModelError, UsageError
from adapass.execution import Session
from adapass.generator import Generator, Options, Outcome, Runner, Support, Variant
from adapass.graph.save import save_model
from adapass.graph.text import parse
from adapass.registry import generator
from adapass.search.plan import Plan
from adapass.search.trials import Candidate
from adapass.target import Target, load_target

MODEL = """<ir_version: 10, opset_import: ["" : 20]>
g (float[N, 2] x) => (float[N, 2] y) <float[2, 2] w = {1, 2, 3, 4}>
{ p = MatMul (x, w) r = Relu (p) y = Identity (r) }"""
ROUNDING = """<ir_version: 10, opset_import: ["" : 20]>
g (float[N, 2] x) => (float[N, 2] y) <float s = {0.1}, uint8 z = {128}>
{ q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z) }"""
FEEDS: list[Feeds] = [{"x": np.array([[1, -2], [3, 4]], np.float32)}, {"x": np.ones((1, 2), np.float32)}]


@dataclass(frozen=True)
class Skewed:
    """ONNX Runtime with outputs that are off, and a variant in lower precision."""

    name: ClassVar[str] = "skewed"
    factor: float = 1.0
    refuses: bool = False

    def available(self) -> str | None:
        return None

    def supports(self, model: ir.Model, target: Target) -> Support:
        del model, target
        return Support()

    def variants(self, model: ir.Model, target: Target, *, threads: int, batch: int) -> Sequence[Variant]:
        del model, target, threads, batch
        return (Variant("rough", exact=False), Variant("plain"))

    def build(self, model: ir.Model, target: Target, folder: Path, options: Options) -> None:
        OnnxRuntime().build(model, target, folder, options)

    def load(self, folder: Path, *, threads: int) -> Runner:
        if self.refuses:
            raise ModelError("no such kernel")
        return SkewedRunner(OnnxRuntime().load(folder, threads=threads), self.factor)

    def device_present(self, target: Target) -> bool:
        del target
        return True


@dataclass(frozen=True)
class SkewedRunner:
    runner: Runner
    factor: float

    def run(self, feeds: Feeds) -> Outcome:
        found = self.runner.run(feeds).outputs
        return Outcome(
            {name: (np.asarray(y, np.float64) * self.factor).astype(np.float32) for name, y in found.items()}
        )

    def close(self) -> None:
        self.runner.close()


@pytest.mark.parametrize(
    ("text", "of", "reason"),
    [
        (MODEL, Skewed(1 + 1e-6), None),
        (MODEL, Skewed(1.01), "it does not compute this model as it is meant: output 'y' is off by 0.0"),
        (MODEL, Skewed(refuses=True), "no such kernel"),
        (ROUNDING, Skewed(1.01), None),
        (ROUNDING, Skewed(2), "it does not compute this model as it is meant: output 'y' is off by 1"),
    ],
    ids=["rounding", "wrong", "does not load", "8 bits round", "8 bits wrong"],
)
def test_a_generator_has_to_agree_with_the_original(text: str, of: Generator, reason: str | None) -> None:
    found = disagreement(of, parse(text), load_target("cpu"), FEEDS, threads=1)

    assert (found or "").startswith(reason or "")
    assert (found is None) == (reason is None)


def test_one_that_does_not_agree_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known: Mapping[str, Generator] = {"onnxruntime": OnnxRuntime(), "skewed": Skewed(2)}
    monkeypatch.setattr("adapass.driver.material.generator_names", lambda: tuple(known))
    monkeypatch.setattr("adapass.driver.material.generator", known.__getitem__)

    found = gather(parse(MODEL), Request(threads=1), None, None, tmp_path).generators

    assert [each.name for each in found] == ["onnxruntime"]
    with pytest.raises(UsageError, match=r"skewed: it does not compute this model as it is meant"):
        gather(parse(MODEL), Request(threads=1, backend="skewed"), None, None, tmp_path)


def test_without_data_only_exact_variants_are_built(tmp_path: Path) -> None:
    names: list[list[str]] = []
    for exact_only in (False, True):
        folder = tmp_path / str(exact_only)
        folder.mkdir()
        builds = build_all(
            [_candidate()],
            [Skewed()],
            load_target("cpu"),
            threads=1,
            batch=1,
            scratch=folder,
            exact_only=exact_only,
        )
        names.append([build.variant.name for build in builds])

    assert names == [["rough", "plain"], ["plain"]]


def test_the_walk_of_the_certificate_begins_with_an_exact_build() -> None:
    """A faster build of the same model in lower precision comes behind it."""
    exact, rough = (
        Build(_candidate(), Skewed(), Variant(name, exact=name == "plain"), Path(name))
        for name in ("plain", "rough")
    )

    assert job.exact_builds([rough, exact]) == [exact]
    assert sequence(rough, exact, None) == [Contestant(exact, None), Contestant(rough, None)]


def test_whichever_is_fastest_ships(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'adapass[openvino]'")
    raced: list[str] = []

    def race(
        builds: Sequence[Build], original: Path, feeds: Sequence[Feeds], **rest: object
    ) -> dict[str, float]:
        del original, feeds, rest
        raced.extend(f"{build.generator.name} {build.variant.name}" for build in builds)
        return {ORIGINAL: 2.0, **{b.name: 1.0 + (b.generator.name != "openvino") for b in builds}}

    def compared(context: object, final: Final, steps: object, **rest: object) -> Comparison:
        del context, final, steps, rest
        latency = Latency(before_seconds=2.0, after_seconds=1.0, trust=Trust.MEASURED, threads=1, batch=1)
        return Comparison(latency, Ratio(0.5, 0.4, 0.6, 0.95))

    monkeypatch.setattr(job, "race_once", race)
    monkeypatch.setattr(job, "compared_once", compared)
    save_model(parse(MODEL), tmp_path / "m.onnx")

    result = optimize(tmp_path / "m.onnx", threads=1, output=tmp_path / "m.adapass", advise=False)

    assert result.exit_code is ExitCode.OK
    assert {"onnxruntime plain", "openvino plain"} <= set(raced)
    assert "openvino plain-bf16" not in raced
    info = read_artifact(tmp_path / "m.adapass").manifest.generator
    assert info is not None
    assert (info.name, info.variant) == ("openvino", "plain")
    with load_artifact(tmp_path / "m.adapass", threads=1) as loaded:
        np.testing.assert_array_equal(loaded.run(FEEDS[0])["y"], Session(parse(MODEL)).run(FEEDS[0])["y"])


def test_both_are_relied_on_for_an_ordinary_model(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'adapass[openvino]'")

    found = gather(parse(MODEL), Request(threads=1), None, None, tmp_path).generators

    assert [each.name for each in found] == ["onnxruntime", "openvino"]
    assert generator("openvino").available() is None


def _candidate() -> Candidate:
    return Candidate(Plan(), parse(MODEL), Cost(1.0, CostTrust.MEASURED), 0.0)
