"""A folder that `make` turns into a program: the library, the small runtime, its headers, and C++ around it.

Only a build of one library (lowering none, if or masked) becomes a program; stages are run from Python.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from adapass.budgeted import Array
from adapass.codegen.defaults import restored
from adapass.codegen.files import Lowering
from adapass.codegen.inputs import Input
from adapass.codegen.tvm.library import missing, runtime_folder
from adapass.codegen.tvm.plan import PLAN_FILE, Plan, read_plan
from adapass.codegen.tvm.trust import require_trusted
from adapass.errors import ArtifactError, UsageError

RUNTIME_FILES = ("libtvm_ffi.so", "libtvm_runtime.so", "libtvm_runtime_extra.so")
LIBRARY_FILE = "model.so"
MAX_RUNTIME_BYTES = 64 << 20
_ASSETS = ("adapass_tvm.hpp", "npy.hpp", "main.cpp", "Makefile")
_MACHINES = {"x86_64": 62, "aarch64": 183}
"""How files of machine code (ELF) name the families of processors."""


def write_cpp(build: Path, folder: Path, *, runtime: Path | None = None) -> None:
    """Write sources, ``model.so`` and the runtime into ``folder``, which must not exist or be empty.

    ``build`` is an artifact, or what the generator wrote. ``runtime`` is a folder with TVM's libraries for
    the processor of the build, or with the wheels that hold them (apache-tvm, apache-tvm-ffi); by default
    those installed here.

    Raises:
        ArtifactError: the build is damaged or not trusted.
        UsageError: it runs in stages, ``folder`` has files, or ``runtime`` lacks a library or is for another
            processor.

    """
    source = _generated(build)
    plan = read_plan(source)
    if plan.lowering is Lowering.STAGED or len(plan.libraries) != 1:
        raise UsageError(f"{build} runs in stages, which C++ programs do not; build it with lowering=if")
    require_trusted(source / LIBRARY_FILE, plan.libraries[0])
    headers = _headers()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists already; name a new folder")
    (folder / "lib").mkdir(parents=True)
    for name in RUNTIME_FILES:
        data = _runtime_library(name, runtime)
        _require_family(data, plan.family, name)
        (folder / "lib" / name).write_bytes(data)
    shutil.copytree(headers, folder / "include")
    shutil.copyfile(source / LIBRARY_FILE, folder / LIBRARY_FILE)
    (folder / "model.hpp").write_text(_description(plan, source), encoding="utf-8")
    for name in _ASSETS:
        with as_file(files("adapass.codegen.tvm.deploy") / "assets" / name) as asset:
            shutil.copyfile(asset, folder / name)


def _generated(build: Path) -> Path:
    if (build / PLAN_FILE).is_file():
        return build
    from adapass.artifact.read import read_artifact

    artifact = read_artifact(build)
    generator = artifact.manifest.generator
    if generator is None or generator.name != "tvm" or artifact.generator_folder is None:
        name = "none" if generator is None else generator.name
        raise UsageError(f"{build} was built by generator {name}; build it with --backend tvm")
    return artifact.generator_folder


def _headers() -> Path:
    """The headers of apache-tvm-ffi."""
    if (why := missing()) is not None:
        raise UsageError(why)
    spec = find_spec("tvm_ffi")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "include"


def _runtime_library(name: str, runtime: Path | None) -> bytes:
    for folder in (runtime_folder(), _headers().parent / "lib") if runtime is None else (runtime,):
        if (folder / name).is_file():
            return (folder / name).read_bytes()
    for wheel in () if runtime is None else sorted(runtime.glob("*.whl")):
        with _opened(wheel) as opened:
            for each in opened.infolist():
                if each.filename.endswith(f"/lib/{name}") and each.file_size <= MAX_RUNTIME_BYTES:
                    return opened.read(each)
    raise UsageError(f"{runtime or runtime_folder()} has no {name}, nor a wheel with it")


@contextmanager
def _opened(wheel: Path) -> Generator[ZipFile]:
    try:
        with ZipFile(wheel) as opened:
            yield opened
    except (BadZipFile, OSError) as error:
        raise UsageError(f"{wheel} cannot be read: {error}; download it again") from error


def _require_family(data: bytes, family: str, name: str) -> None:
    machine = int.from_bytes(data[18:20], "little") if data[:4] == b"\x7fELF" else 0
    if machine != _MACHINES.get(family):
        found = next((each for each, code in _MACHINES.items() if code == machine), f"machine {machine}")
        raise UsageError(
            f"{name} is for {found}, and the build for {family}; give `runtime` the wheels for {family}"
        )


def _description(plan: Plan, source: Path) -> str:
    """``model.hpp``: what the library itself does not say."""
    (library,) = plan.libraries
    defaults = restored(plan.defaults, source / PLAN_FILE)
    known = {each.name: each for each in plan.inputs}
    if unknown := [name for name in library.inputs if name not in known]:
        raise ArtifactError(f"{source / PLAN_FILE} does not describe input '{unknown[0]}'; build it again")
    inputs = [_input(known[name], defaults.get(name)) for name in library.inputs]
    return f"""// What model.so takes and gives.
#pragma once

#include "adapass_tvm.hpp"

namespace adapass {{

inline Description description() {{
  return {{
      {_braces(inputs)},
      {_braces([_text(name) for name in library.outputs])},
      {_braces([_text(site) for site in library.sites])}}};
}}

}}  // namespace adapass
"""


def _input(each: Input, default: Array | None) -> str:
    dims = [
        f"Dim{{{dim}, {_text('')}}}" if isinstance(dim, int) else f"Dim{{-1, {_text(dim or '')}}}"
        for dim in each.shape or ()
    ]
    shape = [] if default is None else [str(size) for size in default.shape]
    data = b"" if default is None else default.tobytes()
    numbers = [str(byte) for byte in data]
    value = f"Default{{{_braces(shape)}, {_braces(numbers)}}}"
    optional = "true" if default is not None else "false"
    return f"Input{{{_text(each.name)}, {_text(each.dtype or '')}, {_braces(dims)}, {optional}, {value}}}"


def _braces(entries: list[str]) -> str:
    return "{" + ", ".join(entries) + "}"


def _text(text: str) -> str:
    """A string of C++: octal escapes for whatever is not plain."""
    plain = (chr(byte) if _plain(byte) else f"\\{byte:03o}" for byte in text.encode("utf-8"))
    return f'std::string("{"".join(plain)}")'


def _plain(byte: int) -> bool:
    return 32 <= byte < 127 and chr(byte) not in '"\\?'
