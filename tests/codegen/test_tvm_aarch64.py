"""The TVM generator for another family of processors: compiled and linked here, run by an emulator."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from adapass.codegen.tvm.deploy import write_cpp
from adapass.errors import ArtifactError
from adapass.execution import Session
from adapass.ops import EXIT_INDEX, EXIT_THRESHOLDS
from adapass.registry import generator
from adapass.rewrite import Exactness
from adapass.target import load_target
from adapass.verification import compare_outputs
from tests.lowering.conftest import feed, make

pytest.importorskip("tvm_ffi", reason="TVM is not installed: pip install 'adapass[tvm]'")
pytestmark = pytest.mark.filterwarnings("ignore")

__all__ = ["feed", "make"]

Array = npt.NDArray[np.generic]
EMULATOR, LINKER, SYSTEM = "qemu-aarch64", "aarch64-linux-gnu-g++", "/usr/aarch64-linux-gnu"
RUNTIME_VARIABLE = "ADAPASS_TVM_AARCH64"
SHARED = Path(os.environ.get("ADAPASS_SHARED", Path(__file__).parents[3] / "shared"))


@pytest.fixture(scope="module")
def runtime() -> Path:
    """TVM's libraries, or wheels, for aarch64 (docs/deploying.md says how to get them)."""
    for program in (EMULATOR, LINKER, "make"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (Debian: qemu-user, g++-aarch64-linux-gnu, make)")
    folder = Path(os.environ.get(RUNTIME_VARIABLE, SHARED / "tvm-aarch64"))
    if not folder.is_dir():
        pytest.skip(f"no runtime of TVM for aarch64 in {folder}; set {RUNTIME_VARIABLE} to a folder with it")
    return folder


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPASS_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("own_cache")
def test_an_exiting_transformer_runs_on_aarch64_with_equal_results(
    runtime: Path,
    tmp_path: Path,
    make: Callable[[str, int], ir.Model],
    feed: Callable[[ir.Model, int, int], dict[str, Array]],
) -> None:
    model, backend, target = make("tokens", 2), generator("tvm"), load_target("aarch64-generic")
    assert not backend.supports(model, target).reasons
    build, program = tmp_path / "build", tmp_path / "program"
    build.mkdir()
    backend.build(model, target, build, {"lowering": "if"})
    with pytest.raises(ArtifactError, match="compiled for another processor: this one has no"):
        backend.load(build, threads=1)
    write_cpp(build, program, runtime=runtime)
    make_it = ["make", "-C", str(program), f"CXX={LINKER}", "CXXFLAGS=-O0 -Werror"]
    subprocess.run(make_it, check=True, capture_output=True, timeout=300)

    for batch, threshold in ((1, np.inf), (5, 0.45), (5, -np.inf)):
        feeds = {**feed(model, batch, 1), EXIT_THRESHOLDS: np.full(2, threshold, np.float32)}
        found = emulated(program, tmp_path, feeds)
        expected = Session(model).run(feeds)
        assert found.pop(EXIT_INDEX).tolist() == expected.pop(EXIT_INDEX).tolist()
        worst = compare_outputs([expected], [found]).worst()
        assert worst.within(Exactness.ROUNDING, 2e-5), worst


def emulated(program: Path, folder: Path, feeds: dict[str, Array]) -> dict[str, Array]:
    given: list[str] = []
    for name, array in feeds.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
        given.append(f"{name}={folder / name}.npy")
    command = [EMULATOR, "-L", SYSTEM, str(program / "run"), str(folder), *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    files = dict(line.split(" ", 1)[::-1] for line in done.stdout.splitlines())
    return {name: np.load(folder / file, allow_pickle=False) for name, file in files.items()}
