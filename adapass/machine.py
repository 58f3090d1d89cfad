"""The machine at hand: its processor and GPUs, and a fingerprint that measurements are filed under."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import psutil

_FAMILIES: Final = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}
_LIBRARIES: Final = ("onnxruntime", "onnxruntime-gpu", "openvino", "apache-tvm")
# Flags that change which kernels run; the rest of /proc/cpuinfo is noise in a fingerprint.
_ISA_PREFIXES: Final = ("avx", "amx", "fma", "f16c", "sse4", "asimd", "sve", "i8mm", "bf16", "fphp")
_ISA_OTHERS: Final = frozenset({"sme", "sme2"})
_NVIDIA_SMI: Final = (
    "--query-gpu=name,compute_cap,memory.total,driver_version",
    "--format=csv,noheader,nounits",
)
_NVIDIA_SMI_TIMEOUT_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Processor:
    """A processor as the operating system shows it. ``None`` and empty mean unknown."""

    family: str
    vendor: str
    model: str
    cores: int
    """Cores this process may use: affinity and container quota count, hyper-threads do not."""
    clock_hz: int | None
    isa: tuple[str, ...]
    l1d_bytes: int | None = None
    l2_bytes: int | None = None
    l3_bytes: int | None = None
    memory_bytes: int | None = None
    governor: str | None = None


@dataclass(frozen=True, slots=True)
class Gpu:
    """An NVIDIA GPU as its driver shows it."""

    model: str
    family: str
    """``sm_90`` and the like."""
    memory_bytes: int
    driver: str


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a measurement depends on besides the thing measured."""

    system: str
    processor: str
    family: str
    cores: int
    isa: tuple[str, ...]
    governor: str | None
    gpus: tuple[str, ...]
    versions: Mapping[str, str]
    threads: int

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "isa": list(self.isa), "gpus": list(self.gpus), "key": self.key}

    @property
    def key(self) -> str:
        """A short digest: equal keys mean comparable measurements."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(threads: int, *, gpu: bool = False) -> Fingerprint:
    """The fingerprint of this machine and its libraries. ``gpu`` asks the driver too, which is slow."""
    processor = read_processor()
    return Fingerprint(
        system=platform.system(),
        processor=processor.model,
        family=processor.family,
        cores=processor.cores,
        isa=processor.isa,
        governor=processor.governor,
        gpus=tuple(f"{g.model} ({g.family}, driver {g.driver})" for g in read_gpus()) if gpu else (),
        versions=library_versions(),
        threads=threads,
    )


def machine_fingerprint(threads: int) -> str:
    """The digest of the fingerprint: the part of a cache key that says where a number was taken."""
    return fingerprint(threads).key


def library_versions() -> dict[str, str]:
    """Versions of the installed libraries whose kernels decide the speed. Nothing is imported."""
    found: dict[str, str] = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def read_processor(root: Path = Path("/"), machine: str | None = None) -> Processor:
    """The processor from ``/proc`` and ``/sys`` under ``root``; elsewhere than on Linux what Python knows."""
    info = _first_cpuinfo(root / "proc" / "cpuinfo")
    family = (machine or platform.machine()).lower()
    family = _FAMILIES.get(family, family)
    cpu0 = root / "sys" / "devices" / "system" / "cpu" / "cpu0"
    caches = _caches(cpu0 / "cache")
    flags = info.get("flags", info.get("Features", "")).split()
    if not flags and family == "aarch64" and platform.system() == "Darwin":
        flags = ["asimd", "asimdhp", "asimddp"]  # every Apple processor has them, and macOS has no /proc
    return Processor(
        family=family,
        vendor=info.get("vendor_id", info.get("CPU implementer", "unknown")),
        model=info.get("model name") or _arm_model(info) or platform.processor() or "unknown",
        cores=_usable_cores(root),
        clock_hz=_clock_hz(info, cpu0),
        isa=tuple(sorted({flag for flag in flags if flag.startswith(_ISA_PREFIXES) or flag in _ISA_OTHERS})),
        l1d_bytes=caches.get("l1d"),
        l2_bytes=caches.get("l2"),
        l3_bytes=caches.get("l3"),
        memory_bytes=psutil.virtual_memory().total,
        governor=_line(cpu0 / "cpufreq" / "scaling_governor"),
    )


@cache
def read_gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs of this machine; none when the driver's tool is missing or fails."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    try:
        done = subprocess.run(
            [tool, *_NVIDIA_SMI],
            capture_output=True,
            text=True,
            timeout=_NVIDIA_SMI_TIMEOUT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_gpus(done.stdout)


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """Read the driver's table: name, compute capability, MiB of memory, driver. Odd lines are skipped."""
    gpus: list[Gpu] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != 4 or not cells[2].isdigit():
            continue
        family = f"sm_{cells[1].replace('.', '')}"
        gpus.append(Gpu(model=cells[0], family=family, memory_bytes=int(cells[2]) << 20, driver=cells[3]))
    return tuple(gpus)


def _first_cpuinfo(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    first = text.strip().split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, colon, value in pairs if colon}


def _arm_model(info: Mapping[str, str]) -> str | None:
    # Arm kernels print no model name, only numbers that identify the design.
    if "CPU part" not in info:
        return None
    return f"Arm implementer {info.get('CPU implementer', '?')} part {info['CPU part']}"


def _usable_cores(root: Path) -> int:
    # os.cpu_count sees the host; an affinity mask or a container quota may allow less.
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or affinity
    quota, _, period = (_line(root / "sys" / "fs" / "cgroup" / "cpu.max") or "").partition(" ")
    allowed = int(quota) // int(period) if quota.isdigit() and period.isdigit() else affinity
    return max(1, min(affinity, physical, allowed))


def _clock_hz(info: Mapping[str, str], cpu0: Path) -> int | None:
    maximum = _line(cpu0 / "cpufreq" / "cpuinfo_max_freq")
    if maximum is not None and maximum.isdigit():
        return int(maximum) * 1000
    megahertz = info.get("cpu MHz", "")
    return round(float(megahertz) * 1e6) if megahertz.replace(".", "", 1).isdigit() else None


def _caches(folder: Path) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for index in sorted(folder.glob("index*")):
        level, kind, size = (_line(index / name) or "" for name in ("level", "type", "size"))
        name = f"l{level}d" if level == "1" else f"l{level}"
        if kind in {"Data", "Unified"} and size.endswith("K") and size[:-1].isdigit():
            sizes[name] = int(size[:-1]) * 1024
    return sizes


def _line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
