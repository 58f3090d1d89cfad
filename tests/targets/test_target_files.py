"""Every description that ships: loads, is complete, names its sources, and means what it says."""

from __future__ import annotations

from importlib.resources import files

import pytest

from adapass.registry import generator_names
from adapass.target import DETECTED, Target, TargetKind, list_targets, load_target, parse_target

SHIPPED = tuple(name for name in list_targets() if name not in DETECTED)
PLANNED_GENERATORS = frozenset({"onnxruntime", "tvm", "openvino"})
INT8 = frozenset({"u8s8-vnni", "u8s8-saturating", "s8s8-dotprod", "tensor-core"})


def text_of(name: str) -> str:
    return (files("adapass.targets") / f"{name}.toml").read_text(encoding="utf-8")


def test_the_promised_targets_ship() -> None:
    expected = {"x86-64-generic", "x86-64-vnni", "aarch64-generic", "cuda-h200", "cuda-sm80", "cuda-sm90"}

    assert expected <= set(SHIPPED)
    assert list_targets()[:2] == ("cpu", "cuda")


@pytest.mark.parametrize("name", SHIPPED)
class TestContract:
    def test_is_named_like_its_file(self, name: str) -> None:
        assert load_target(name).name == name

    def test_every_number_names_a_source(self, name: str) -> None:
        target = load_target(name)
        for table in ("compute", "memory", "overhead"):
            for key in getattr(target, table):
                assert target.source_of(f"{table}.{key}"), key

    def test_losing_any_source_is_refused(self, name: str) -> None:
        head, _, sources = text_of(name).partition("[source]\n")
        lines = [line for line in sources.splitlines() if line.strip()]
        for lost in lines:
            remaining = "\n".join(line for line in lines if line != lost)
            if lost.startswith(('"compute.*"', '"memory.*"', '"memory.l*"', '"arch.*"')) or "*" not in lost:
                with pytest.raises(Exception, match="has no source"):
                    parse_target(f"{head}[source]\n{remaining}", name)

    def test_rates_grow_as_numbers_shrink(self, name: str) -> None:
        rates = [load_target(name).peak(dtype) for dtype in ("f64", "f32", "f16", "i8")]
        known = [rate for rate in rates if rate is not None]

        assert known == sorted(known)
        assert known[0] > 1e10

    def test_caches_grow_with_their_level(self, name: str) -> None:
        memory = load_target(name).memory
        sizes = [memory[key] for key in ("l1d_bytes", "l2_bytes", "l3_bytes", "dram_bytes") if key in memory]

        assert len(sizes) >= 2
        assert sizes == sorted(sizes)

    def test_features_are_words_that_passes_know(self, name: str) -> None:
        target = load_target(name)

        assert target.features["int8"] in INT8
        assert isinstance(target.features["bf16"], bool)
        assert (target.kind is TargetKind.GPU) == (target.features["int8"] == "tensor-core")

    def test_prefers_generators_that_exist_or_are_planned(self, name: str) -> None:
        target = load_target(name)

        assert target.codegen
        assert set(target.codegen) <= PLANNED_GENERATORS | set(generator_names())

    def test_goes_into_a_manifest(self, name: str) -> None:
        import json

        again = json.loads(json.dumps(load_target(name).to_json()))

        assert again["name"] == name
        assert again["compute"]["f32"] == load_target(name).peak("f32")


def test_h200_has_the_numbers_of_its_data_sheet() -> None:
    h200 = load_target("cuda-h200")

    assert h200.peak("f32") == 67.0e12
    assert h200.peak("f16") == 989.5e12
    assert h200.bandwidth() == 4.8e12
    assert h200.placeholders() == ("overhead.launch_seconds",)


def test_a_cpu_gives_each_thread_its_share_of_the_peak() -> None:
    target = load_target("x86-64-generic")
    whole = target.peak("f32")
    assert whole is not None

    assert target.peak("f32", threads=1) == pytest.approx(whole / 4)
    assert target.peak("f32", threads=64) == whole
    assert target.bandwidth(threads=1) == target.memory["core_dram_bytes_per_second"]
    assert target.bandwidth(threads=64) == target.bandwidth()


def test_a_gpu_ignores_threads() -> None:
    target: Target = load_target("cuda-sm80")

    assert target.peak("i8", threads=1) == 624.0e12
    assert target.peak("f8_e4m3") is None
