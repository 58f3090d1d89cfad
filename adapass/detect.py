"""Detection: the description of a device that is in this machine, on top of the nearest one that ships."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np

from adapass.errors import TargetError
from adapass.machine import Gpu, Processor, read_gpus, read_processor
from adapass.target import Target, TargetKind, Value, load_target

Rates: TypeAlias = tuple[tuple[str, Mapping[str, int], str], ...]

# The first line whose flag is present decides: operations a cycle and core, by number format.
_X86_RATES: Final[Rates] = (
    ("avx512f", {"f64": 32, "f32": 64}, "two 512-bit FMA units, assumed"),
    ("fma", {"f64": 16, "f32": 32}, "two 256-bit FMA units, assumed"),
    ("avx", {"f64": 8, "f32": 16}, "one 256-bit multiplier and one adder, assumed"),
    ("sse4_2", {"f64": 4, "f32": 8}, "one 128-bit multiplier and one adder, assumed"),
)
_X86_INT8: Final[Rates] = (
    ("amx_int8", {"i8": 2048}, "one AMX tile product of 16x16x64 in 16 cycles"),
    ("avx512_vnni", {"i8": 256}, "two 512-bit vpdpbusd, assumed"),
    ("avx_vnni", {"i8": 128}, "two 256-bit vpdpbusd, assumed"),
    ("avx2", {"i8": 64}, "vpmaddubsw, vpmaddwd and vpaddd for 64 operations"),
)
_X86_BF16: Final[Rates] = (
    ("amx_bf16", {"bf16": 1024}, "one AMX tile product of 16x16x32 in 16 cycles"),
    ("avx512_bf16", {"bf16": 128}, "two 512-bit vdpbf16ps, assumed"),
)
_X86_HALF: Final[Rates] = (("avx512_fp16", {"f16": 128}, "two 512-bit half-precision FMA units, assumed"),)
_ARM_FLOAT: Final[Rates] = (("asimd", {"f64": 8, "f32": 16}, "two 128-bit FMA units, assumed"),)
_ARM_INT8: Final[Rates] = (
    ("i8mm", {"i8": 128}, "two 128-bit SMMLA, assumed"),
    ("asimddp", {"i8": 64}, "two 128-bit SDOT, assumed"),
)
_ARM_HALF: Final[Rates] = (("asimdhp", {"f16": 32}, "two 128-bit half-precision FMA units, assumed"),)
_RATES: Final[Mapping[str, tuple[Rates, ...]]] = {
    "x86_64": (_X86_RATES, _X86_INT8, _X86_BF16, _X86_HALF),
    "aarch64": (_ARM_FLOAT, _ARM_INT8, _ARM_HALF),
}
_COPY_ROUNDS: Final = 5
_COPY_MAX_BYTES: Final = 512 << 20
_COPY_MIN_BYTES: Final = 64 << 20


def detect_cpu(*, measure: bool = False, processor: Processor | None = None) -> Target:
    """The processor of this machine: peaks derived from flags and clock, bandwidth timed on request.

    Raises:
        TargetError: no description ships for its family.

    """
    cpu = read_processor() if processor is None else processor
    base = load_target(_base_name(cpu))
    rates, rate_sources = _peaks(cpu, base)
    memory, memory_sources = _memory(cpu, base, measure=measure)
    arch: dict[str, Value] = {"family": cpu.family, "vendor": cpu.vendor, "model": cpu.model, "isa": cpu.isa}
    arch["cores"] = cpu.cores
    if cpu.clock_hz is not None:
        arch["clock_hz"] = cpu.clock_hz
    native: dict[str, Value] = {"bf16": "bf16" in rates, "f16": "f16" in rates}
    if cpu.family == "aarch64" and "asimddp" not in cpu.isa:
        native["int8"] = "s8s8-widening"  # SMLAL, as on Cortex-A72: no dot product
    return replace(
        base,
        name="cpu",
        description=f"{cpu.model}, {cpu.cores} core{'s' if cpu.cores > 1 else ''}, detected",
        arch=MappingProxyType(arch),
        tvm=MappingProxyType({"kind": "llvm", "num-cores": cpu.cores}),
        compute=MappingProxyType(rates),
        memory=MappingProxyType(memory),
        features=MappingProxyType({**base.features, **native}),
        source=MappingProxyType(
            {
                "arch.*": "detected: the operating system",
                "tvm.num-cores": "detected: the operating system",
                **rate_sources,
                **memory_sources,
                "overhead.*": base.source_of("overhead.launch_seconds"),
            }
        ),
        notes=(f"detected; what detection cannot know is taken from {base.name}",),
    )


def detect_cuda(gpus: tuple[Gpu, ...] | None = None) -> Target:
    """The first NVIDIA GPU of this machine; without one, cuda-h200 with a note that it is modelled."""
    found = read_gpus() if gpus is None else gpus
    if not found:
        note = "no NVIDIA GPU in this machine: modelled as cuda-h200; measure with `adapass bench` there"
        return replace(load_target("cuda-h200"), notes=(note,))
    gpu = found[0]
    base = load_target(_base_gpu(gpu))
    exact = base.name == "cuda-h200"
    family = str(base.arch["family"])
    tvm = {**base.tvm, "arch": gpu.family} if gpu.family != family else dict(base.tvm)
    source = dict(base.source)
    if not exact:
        source["compute.*"] = f"placeholder: {base.description}, not this GPU"
        source["memory.dram_bytes_per_second"] = source["compute.*"]
    source["memory.dram_bytes"] = "detected: the NVIDIA driver"
    return replace(
        base,
        name="cuda",
        description=f"{gpu.model} ({gpu.family}), detected",
        arch=MappingProxyType({**base.arch, "model": gpu.model, "family": gpu.family, "any_model": False}),
        memory=MappingProxyType({**base.memory, "dram_bytes": float(gpu.memory_bytes)}),
        tvm=MappingProxyType(tvm),
        source=MappingProxyType(source),
        notes=(f"detected; peak rates are those of {base.description}",),
    )


def has_device(target: Target) -> bool:
    """Whether this machine has the target's device, or one that runs the same code."""
    if target.kind is TargetKind.CPU:
        cpu = read_processor()
        return cpu.family == target.arch["family"] and target.isa <= frozenset(cpu.isa)
    any_model = target.arch.get("any_model") is True
    model = str(target.arch.get("model", ""))
    same = (gpu for gpu in read_gpus() if gpu.family == target.arch["family"])
    return any(any_model or model in gpu.model for gpu in same)


def copy_rate(threads: int, size_bytes: int, *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Bytes per second, read plus written, which ``threads`` copying threads reach; best of a few rounds."""
    share = max(1, size_bytes // threads)
    pairs = [(np.ones(share, np.uint8), np.zeros(share, np.uint8)) for _ in range(threads)]
    best = 0.0
    for _ in range(_COPY_ROUNDS):
        workers = [threading.Thread(target=np.copyto, args=(to, origin)) for origin, to in pairs]
        start = clock()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = max(best, 2.0 * share * threads / (clock() - start))
    return best


def _base_name(cpu: Processor) -> str:
    if cpu.family == "x86_64":
        return "x86-64-vnni" if {"avx512_vnni", "avx_vnni"} & set(cpu.isa) else "x86-64-generic"
    if cpu.family == "aarch64":
        return "aarch64-generic"
    raise TargetError(
        f"the processor family '{cpu.family}' has no description; expected x86_64 or aarch64. "
        "Describe it in a TOML file and pass its path as the target"
    )


def _base_gpu(gpu: Gpu) -> str:
    if "H200" in gpu.model:
        return "cuda-h200"
    number = gpu.family.removeprefix("sm_")
    return "cuda-sm90" if number.isdigit() and int(number) >= 90 else "cuda-sm80"


def _peaks(cpu: Processor, base: Target) -> tuple[dict[str, float], dict[str, str]]:
    rates: dict[str, float] = {}
    sources: dict[str, str] = {}
    if cpu.clock_hz is None or not cpu.isa:
        for dtype in base.compute:
            rates[dtype] = base.compute[dtype] / base.cores * cpu.cores
        return rates, {
            "compute.*": f"placeholder: {base.name} for {cpu.cores} cores; clock or flags are unknown here"
        }
    for table in _RATES[cpu.family]:
        for flag, per_cycle, why in table:
            if flag not in cpu.isa:
                continue
            for dtype, operations in per_cycle.items():
                rates[dtype] = float(operations * cpu.cores * cpu.clock_hz)
                speed = f"{operations} a cycle x {cpu.cores} cores x {cpu.clock_hz / 1e9:g} GHz"
                sources[f"compute.{dtype}"] = f"derived from {flag} ({why}): {speed}"
            break
    return rates, sources


def _memory(cpu: Processor, base: Target, *, measure: bool) -> tuple[dict[str, float], dict[str, str]]:
    caches = {"l1d_bytes": cpu.l1d_bytes, "l2_bytes": cpu.l2_bytes, "l3_bytes": cpu.l3_bytes}
    memory = {name: float(size) for name, size in caches.items() if size is not None}
    sources = {f"memory.{name}": "detected: the operating system" for name in memory}
    memory["dram_bytes"] = float(cpu.memory_bytes or base.memory["dram_bytes"])
    sources["memory.dram_bytes"] = (
        "detected: the operating system" if cpu.memory_bytes else f"placeholder: {base.name}"
    )
    if not measure:
        one_core = base.memory["core_dram_bytes_per_second"]
        memory["core_dram_bytes_per_second"] = one_core
        memory["dram_bytes_per_second"] = min(base.memory["dram_bytes_per_second"], one_core * cpu.cores)
        sources["memory.*dram_bytes_per_second"] = f"placeholder: {base.name}, not measured here"
        return memory, sources
    # Larger than the last cache, else the copy never reaches main memory; bounded, else it does not fit.
    size = min(max(4 * (cpu.l3_bytes or 0), _COPY_MIN_BYTES), _COPY_MAX_BYTES, int(memory["dram_bytes"]) // 8)
    memory["core_dram_bytes_per_second"] = copy_rate(1, size)
    memory["dram_bytes_per_second"] = copy_rate(cpu.cores, size)
    sources["memory.*dram_bytes_per_second"] = f"measured: copying {size} bytes on this machine"
    return memory, sources
