"""`adapass doctor`: what is installed and found here, and what is missing."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from adapass.cli.options import Json
from adapass.cli.output import print_json, print_line, print_table
from adapass.errors import AdapassError

NEEDED = (
    "adapass",
    "numpy",
    "scipy",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "networkx",
    "pydantic",
    "PyYAML",
)
EXTRAS = {"torch": "torch", "apache-tvm": "tvm", "openvino": "openvino", "matplotlib": "report"}
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY")


def doctor(as_json: Json = False) -> None:
    """Check the installation: versions, processor, generators, targets, cache and thread settings."""
    facts = {
        "versions": _versions(),
        "processor": _processor(),
        "generators": _generators(),
        "targets": _targets(),
        "cache": _cache(),
        "threads": {name: os.environ.get(name) for name in THREAD_VARIABLES},
    }
    advice = _advice(facts["versions"], facts["generators"])
    if as_json:
        print_json({**facts, "advice": advice})
        return
    for title, rows in facts.items():
        absent = "not installed" if title == "versions" else "not set"
        print_table((title, ""), [(key, absent if value is None else value) for key, value in rows.items()])
    for line in advice or ["nothing is missing"]:
        print_line(line)


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in (*NEEDED, *EXTRAS):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _processor() -> dict[str, str | None]:
    from adapass.machine import read_gpus, read_processor

    cpu = read_processor()
    return {
        "model": cpu.model,
        "cores for this process": str(cpu.cores),
        "features": " ".join(cpu.isa) or None,
        "frequency governor": cpu.governor,
        "GPUs": ", ".join(gpu.model for gpu in read_gpus()) or "none",
    }


def _generators() -> dict[str, str | None]:
    from adapass.registry import generator, generator_names

    return {name: generator(name).available() or "ready" for name in generator_names()}


def _targets() -> dict[str, str | None]:
    from adapass.target import list_targets, load_target

    def state(name: str) -> str:
        try:
            target = load_target(name)
        except AdapassError as error:
            return str(error)
        return target.description + (", here" if target.device_here() else ", not here: modelled")

    return {name: state(name) for name in list_targets()}


def _cache() -> dict[str, str | None]:
    from adapass.cache import Cache

    held = Cache().info()
    folder = held.folder
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    state = "writable" if os.access(folder, os.W_OK) else "not writable: nothing is kept between runs"
    return {"folder": str(held.folder), "entries": str(held.entries), "state": state}


def _advice(versions: dict[str, str | None], generators: dict[str, str | None]) -> list[str]:
    missing = [name for name in NEEDED if versions[name] is None]
    lines = (
        [f"missing: {', '.join(missing)}; reinstall with `pip install --force-reinstall adapass`"]
        if missing
        else []
    )
    for name, extra in EXTRAS.items():
        if versions[name] is None:
            lines.append(f"optional: {name} is not installed; `pip install 'adapass[{extra}]'` adds it")
    lines += [f"generator {name}: {state}" for name, state in generators.items() if state != "ready"]
    return lines
