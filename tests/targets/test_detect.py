"""Detection, on pretended machines: a folder that looks like /, a driver that prints a table."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from adapass import detect, machine
from adapass.detect import copy_rate, detect_cpu, detect_cuda
from adapass.errors import TargetError
from adapass.machine import (
    Gpu,
    Processor,
    fingerprint,
    library_versions,
    parse_gpus,
    read_gpus,
    read_processor,
)
from adapass.target import TargetKind, detect_target, load_target

XEON = Processor(
    family="x86_64",
    vendor="GenuineIntel",
    model="Xeon",
    cores=2,
    clock_hz=2_000_000_000,
    isa=("avx", "avx2", "avx512_vnni", "avx512f", "f16c", "fma", "sse4_2"),
    l2_bytes=2 << 20,
    memory_bytes=8_000_000_000,
)
H200 = Gpu(model="NVIDIA H200", family="sm_90", memory_bytes=150_000_000_000, driver="550.1")


def with_isa(*isa: str, family: str = "x86_64", clock_hz: int | None = 2_000_000_000) -> Processor:
    return Processor(family=family, vendor="v", model="m", cores=2, clock_hz=clock_hz, isa=isa)


def write_tree(root: Path, tree: dict[str, str]) -> Path:
    for name, text in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


class TestProcessor:
    def test_reads_an_x86_machine(self, tmp_path: Path) -> None:
        cpu0 = "sys/devices/system/cpu/cpu0"
        root = write_tree(
            tmp_path,
            {
                "proc/cpuinfo": (
                    "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC 9554\n"
                    "cpu MHz\t\t: 3100.5\nflags\t\t: fpu smep fma avx2 avx512_vnni\n\n"
                    "processor\t: 1\nmodel name\t: another\n"
                ),
                f"{cpu0}/cache/index0/level": "1\n",
                f"{cpu0}/cache/index0/type": "Data\n",
                f"{cpu0}/cache/index0/size": "32K\n",
                f"{cpu0}/cache/index1/level": "1\n",
                f"{cpu0}/cache/index1/type": "Instruction\n",
                f"{cpu0}/cache/index1/size": "64K\n",
                f"{cpu0}/cache/index2/level": "2\n",
                f"{cpu0}/cache/index2/type": "Unified\n",
                f"{cpu0}/cache/index2/size": "1024K\n",
                f"{cpu0}/cpufreq/scaling_governor": "performance\n",
            },
        )

        cpu = read_processor(root, "AMD64")

        assert (cpu.family, cpu.vendor, cpu.model) == ("x86_64", "AuthenticAMD", "AMD EPYC 9554")
        assert cpu.isa == ("avx2", "avx512_vnni", "fma")
        assert cpu.clock_hz == 3_100_500_000
        assert (cpu.l1d_bytes, cpu.l2_bytes, cpu.l3_bytes) == (32768, 1048576, None)
        assert cpu.governor == "performance"

    def test_reads_an_arm_machine(self, tmp_path: Path) -> None:
        root = write_tree(
            tmp_path,
            {
                "proc/cpuinfo": (
                    "processor : 0\nFeatures : fp asimd asimdhp asimddp\n"
                    "CPU implementer : 0x41\nCPU part : 0xd0c\n"
                ),
                "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "2500000\n",
            },
        )

        cpu = read_processor(root, "arm64")

        assert cpu.family == "aarch64"
        assert cpu.model == "Arm implementer 0x41 part 0xd0c"
        assert cpu.isa == ("asimd", "asimddp", "asimdhp")
        assert cpu.clock_hz == 2_500_000_000

    def test_an_empty_machine_still_answers(self, tmp_path: Path) -> None:
        cpu = read_processor(tmp_path, "x86_64")

        assert cpu.cores >= 1
        assert (cpu.isa, cpu.clock_hz, cpu.governor) == ((), None, None)

    def test_a_container_quota_counts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def sixteen(_process: int) -> set[int]:
            return set(range(16))

        def eight(logical: bool) -> int:
            return 16 if logical else 8

        monkeypatch.setattr("os.sched_getaffinity", sixteen, raising=False)
        monkeypatch.setattr("psutil.cpu_count", eight)
        free = read_processor(tmp_path / "free", "x86_64")
        bound = read_processor(
            write_tree(tmp_path / "bound", {"sys/fs/cgroup/cpu.max": "300000 100000\n"}), "x86_64"
        )

        assert (free.cores, bound.cores) == (8, 3)


class TestCpu:
    def test_peaks_come_from_flags_and_clock(self) -> None:
        target = detect_cpu(processor=XEON)

        assert (target.name, target.kind, target.cores) == ("cpu", TargetKind.CPU, 2)
        assert target.description == "Xeon, 2 cores, detected"
        assert target.arch["clock_hz"] == 2_000_000_000
        assert target.memory["dram_bytes"] == 8e9
        assert target.source_of("memory.dram_bytes").startswith("detected")
        assert target.peak("f32") == 64 * 2 * 2e9
        assert target.peak("i8") == 256 * 2 * 2e9
        assert target.source_of("compute.f32").startswith("derived from avx512f")
        assert target.features["int8"] == "u8s8-vnni"
        assert "placeholder" in target.source_of("memory.dram_bytes_per_second")

    @pytest.mark.parametrize(
        ("cpu", "base", "f32", "i8"),
        [
            pytest.param(with_isa("avx2", "fma", "sse4_2"), "u8s8-saturating", 32, 64, id="avx2"),
            pytest.param(with_isa("avx2", "fma", "avx_vnni"), "u8s8-vnni", 32, 128, id="avx-vnni"),
            pytest.param(with_isa("sse4_2"), "u8s8-saturating", 8, None, id="sse"),
            pytest.param(
                with_isa("avx512f", "fma", "avx2"), "u8s8-saturating", 64, 64, id="avx512-without-vnni"
            ),
            pytest.param(with_isa("avx512f", "avx512_vnni", "amx_int8"), "u8s8-vnni", 64, 2048, id="amx"),
            pytest.param(with_isa("asimd", "asimddp", family="aarch64"), "s8s8-dotprod", 16, 64, id="arm"),
            pytest.param(with_isa("asimd", family="aarch64"), "s8s8-widening", 16, None, id="old-arm"),
        ],
    )
    def test_follows_the_flags(self, cpu: Processor, base: str, f32: int, i8: int | None) -> None:
        target = detect_cpu(processor=cpu)

        assert target.features["int8"] == base
        assert target.peak("f32") == f32 * 2 * 2e9
        assert target.peak("i8") == (None if i8 is None else i8 * 2 * 2e9)

    def test_without_a_clock_the_rates_are_placeholders(self) -> None:
        target = detect_cpu(processor=with_isa("avx2", clock_hz=None))
        generic = load_target("x86-64-generic").peak("f32")
        assert generic is not None

        assert target.peak("f32") == generic / 2
        assert "clock_hz" not in target.arch
        assert {"compute.f32", "memory.dram_bytes"} <= set(target.placeholders())

    def test_another_family_is_refused(self) -> None:
        with pytest.raises(TargetError, match="'riscv64' has no description"):
            detect_cpu(processor=with_isa(family="riscv64"))

    def test_bandwidth_is_timed_on_request(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def pretended(threads: int, size_bytes: int) -> float:
            return 1e9 * threads + size_bytes * 0

        monkeypatch.setattr(detect, "copy_rate", pretended)
        target = detect_cpu(measure=True, processor=XEON)

        assert target.bandwidth() == 2e9
        assert target.bandwidth(threads=1) == 1e9
        assert target.source_of("memory.dram_bytes_per_second").startswith("measured")

    def test_this_machine_is_here(self) -> None:
        target = detect_target("cpu")

        assert target.device_here()
        assert all(target.source_of(f"compute.{dtype}") for dtype in target.compute)

    def test_a_machine_of_another_family_is_not_here(self) -> None:
        mine = read_processor().family
        other = "aarch64-generic" if mine == "x86_64" else "x86-64-generic"

        assert not load_target(other).device_here()

    def test_a_machine_without_the_instructions_is_not_here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(detect, "read_processor", lambda: with_isa("avx2", "fma", "f16c"))

        assert load_target("x86-64-generic").device_here()
        assert not load_target("x86-64-vnni").device_here()


def test_the_copy_rate_counts_reads_and_writes() -> None:
    ticks = iter(np.arange(0.0, 100.0, 0.5))

    assert copy_rate(2, 1000, clock=lambda: float(next(ticks))) == pytest.approx(2 * 1000 / 0.5)


class TestCuda:
    def test_without_a_gpu_the_h200_is_modelled_and_it_says_so(self) -> None:
        target = detect_cuda(())

        assert target.name == "cuda-h200"
        assert "modelled as cuda-h200" in target.notes[0]

    def test_an_h200_keeps_its_data_sheet(self) -> None:
        target = detect_cuda((H200,))

        assert (target.name, target.peak("f32")) == ("cuda", 67.0e12)
        assert target.memory["dram_bytes"] == 150e9
        assert target.tvm["arch"] == "sm_90a"
        assert target.placeholders() == ("overhead.launch_seconds",)

    def test_another_gpu_borrows_rates_and_admits_it(self) -> None:
        ada = Gpu(model="NVIDIA L4", family="sm_89", memory_bytes=24 << 30, driver="550.1")

        target = detect_cuda((ada,))

        assert target.arch["family"] == "sm_89"
        assert target.tvm["arch"] == "sm_89"
        assert {"compute.f32", "memory.dram_bytes_per_second"} <= set(target.placeholders())

    @pytest.mark.parametrize(
        ("family", "base"),
        [("sm_75", "cuda-sm80"), ("sm_86", "cuda-sm80"), ("sm_90", "cuda-sm90"), ("sm_120", "cuda-sm90")],
    )
    def test_borrows_from_the_nearest_generation(self, family: str, base: str) -> None:
        target = detect_cuda((Gpu("NVIDIA Something", family, 1 << 30, ""),))

        assert target.peak("f32") == load_target(base).peak("f32")
        assert target.arch["family"] == family

    def test_the_table_of_the_driver_is_read(self) -> None:
        text = "NVIDIA H200, 9.0, 143771, 550.54\nNVIDIA X, [N/A], [N/A], 550.54\n\n"

        assert parse_gpus(text) == (
            Gpu(model="NVIDIA H200", family="sm_90", memory_bytes=143771 << 20, driver="550.54"),
        )

    @pytest.mark.parametrize(
        ("gpu", "name", "here"),
        [
            pytest.param(H200, "cuda-h200", True, id="the-very-model"),
            pytest.param(H200, "cuda-sm90", True, id="any-model-of-the-family"),
            pytest.param(H200, "cuda-sm80", False, id="another-family"),
            pytest.param(Gpu("NVIDIA H100", "sm_90", 1, ""), "cuda-h200", False, id="another-model"),
        ],
    )
    def test_knows_whether_it_is_here(
        self, gpu: Gpu, name: str, here: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(detect, "read_gpus", lambda: (gpu,))

        assert load_target(name).device_here() is here

    @pytest.mark.parametrize(
        ("script", "gpus"),
        [
            pytest.param("exit 9", 0, id="fails"),
            pytest.param("echo nonsense", 0, id="talks-nonsense"),
            pytest.param("echo NVIDIA H200, 9.0, 143771, 550.54", 1, id="works"),
            pytest.param(None, 0, id="is-not-installed"),
        ],
    )
    @pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands in for the driver's tool")
    def test_asks_the_tool_of_the_driver(
        self, script: str | None, gpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        tool.chmod(0o755)

        def found(_name: str) -> str | None:
            return None if script is None else str(tool)

        monkeypatch.setattr("shutil.which", found)
        uncached: Callable[[], tuple[Gpu, ...]] = read_gpus.__wrapped__

        assert len(uncached()) == gpus

    def test_only_known_words_are_detected(self) -> None:
        with pytest.raises(TargetError, match="cannot detect 'tpu'"):
            detect_target("tpu")


class TestFingerprint:
    def test_is_stable_and_depends_on_threads(self) -> None:
        assert fingerprint(2).key == fingerprint(2).key
        assert fingerprint(2).key != fingerprint(1).key

    def test_depends_on_the_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = fingerprint(1).key
        monkeypatch.setattr(machine, "library_versions", lambda: {"onnxruntime": "0.0.1"})

        assert fingerprint(1).key != before

    def test_asks_for_gpus_only_on_request(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(machine, "read_gpus", lambda: (H200,))

        assert fingerprint(1).gpus == ()
        assert fingerprint(1, gpu=True).gpus == ("NVIDIA H200 (sm_90, driver 550.1)",)

    def test_names_the_runtime(self) -> None:
        assert {"onnxruntime", "onnxruntime-gpu"} & set(library_versions())
        assert "key" in fingerprint(1).to_json()
