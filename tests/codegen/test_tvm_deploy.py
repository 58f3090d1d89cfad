"""Builds of the TVM generator without its compiler: from Python, and as a program of C++."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from adapass.codegen.tvm.deploy import write_cpp
from adapass.codegen.tvm.library import RUNTIME_VARIABLE
from adapass.codegen.tvm.plan import PLAN_FILE
from adapass.errors import ArtifactError, UsageError
from adapass.ops import EXIT_INDEX, EXIT_SELECT, add_function
from adapass.registry import generator
from adapass.target import load_target

pytest.importorskip("tvm_ffi", reason="TVM is not installed: pip install 'adapass[tvm]'")
pytestmark = pytest.mark.filterwarnings("ignore")

Array = npt.NDArray[np.generic]
ROOT = Path(__file__).parent.parent.parent

EXITING = """
<ir_version: 10, opset_import: ["" : 20, "adapass" : 1]>
g (int64[B, 4] ids, float[2] adapass_exit_thresholds) => (float[B, 4] y, int64[B] adapass_exit)
<float[2] adapass_exit_thresholds = {15, 12}, int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2},
 int64[1] one = {1}, float[10] table = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}>
{
    x = Gather(table, ids)
    a = Add(x, x)
    c0 = ReduceMax<keepdims = 0>(a, one)
    t0 = Gather(adapass_exit_thresholds, i0)
    s0 = GreaterOrEqual(c0, t0)
    b = Add(a, x)
    c1 = ReduceMax<keepdims = 0>(b, one)
    t1 = Gather(adapass_exit_thresholds, i1)
    s1 = GreaterOrEqual(c1, t1)
    end = Add(b, x)
    y1 = adapass.ExitSelect(s1, b, end)
    y = adapass.ExitSelect(s0, a, y1)
    e1 = adapass.ExitSelect(s1, i1, i2)
    adapass_exit = adapass.ExitSelect(s0, i0, e1)
}
"""

IDS = np.array([[1, 0, 0, 2], [5, 0, 0, 3], [9, 0, -1, 4]], np.int64)

IN_PYTHON = """
import sys
from pathlib import Path
import numpy as np
from adapass.registry import generator
folder, ids, out = sys.argv[1:]
runner = generator("tvm").load(Path(folder), threads=1)
found = runner.run({"ids": np.load(ids, allow_pickle=False)})
np.savez(out, y=found.outputs["y"], exits=found.exits)
maps = Path("/proc/self/maps").read_text()
print([name for name in sys.modules if name.split(".")[0] == "tvm"], "libtvm_compiler" in maps)
"""


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPASS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def exiting() -> ir.Model:
    model = ir.from_onnx_text(EXITING)
    add_function(model, EXIT_SELECT)
    return model


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build")
    generator("tvm").build(exiting(), load_target("cpu"), folder, {"lowering": "if"})
    return folder


@pytest.fixture(scope="module")
def written(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cpp") / "program"
    write_cpp(build, folder)
    return folder


@pytest.fixture(scope="module")
def program(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is shipped, compiled, and moved to where no header and no source is."""
    if shutil.which("g++") is None or shutil.which("make") is None:
        pytest.skip("g++ and make are not installed")
    subprocess.run(
        ["make", "-C", written, "CXXFLAGS=-O0 -Werror"], check=True, capture_output=True, timeout=300
    )
    folder = tmp_path_factory.mktemp("shipped")
    for name in ("run", "model.so"):
        shutil.copy(written / name, folder / name)
    shutil.copytree(written / "lib", folder / "lib")
    return folder


def run(program: Path, folder: Path, **feeds: Array) -> subprocess.CompletedProcess[str]:
    given: list[str] = []
    for name, array in feeds.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
        given.append(f"{name}={folder / name}.npy")
    command = [str(program / "run"), str(folder), "--threads=2", *given]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_python_needs_no_compiler(build: Path, written: Path, tmp_path: Path) -> None:
    """Not even the wheel that holds it: the libraries of the runtime and tvm_ffi are enough."""
    found = find_spec("tvm_ffi")
    assert found is not None
    assert found.origin is not None
    packages = tmp_path / "packages"
    packages.mkdir()
    for entry in Path(found.origin).parent.parent.iterdir():
        if entry.name != "tvm" and not entry.name.startswith("apache_tvm-"):
            (packages / entry.name).symlink_to(entry)
    np.save(tmp_path / "ids.npy", IDS, allow_pickle=False)
    files = [str(build), str(tmp_path / "ids.npy"), str(tmp_path / "out.npz")]
    command = [sys.executable, "-S", "-c", IN_PYTHON, *files]
    paths = os.pathsep.join([str(ROOT / ".pkg"), str(packages)])
    env = {**os.environ, "PYTHONPATH": paths, RUNTIME_VARIABLE: str(written / "lib")}

    done = subprocess.run(
        command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "[] False"
    with np.load(tmp_path / "out.npz", allow_pickle=False) as found:
        assert found["exits"].tolist() == [2, 1, 0]
        assert found["y"][:, 0].tolist() == [4, 15, 18]


@pytest.mark.parametrize("thresholds", [None, [-1, -1], [np.inf, np.inf]])
def test_a_program_computes_what_python_computes(
    build: Path, program: Path, tmp_path: Path, thresholds: list[float] | None
) -> None:
    feeds: dict[str, Array] = {"ids": IDS}
    if thresholds is not None:
        feeds["adapass_exit_thresholds"] = np.array(thresholds, np.float32)
    expected = generator("tvm").load(build, threads=1).run(feeds)

    done = run(program, tmp_path, **feeds)

    assert done.returncode == 0, done.stderr
    files = dict(line.split(" ", 1)[::-1] for line in done.stdout.splitlines())
    assert list(files) == ["y", EXIT_INDEX]
    found = {name: np.load(tmp_path / file, allow_pickle=False) for name, file in files.items()}
    np.testing.assert_array_equal(found["y"], expected.outputs["y"])
    assert expected.exits is not None
    assert found[EXIT_INDEX].tolist() == expected.exits.tolist()


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"ids": IDS.astype(np.int32)}, "input 'ids' is int32, expected int64"),
        ({"ids": IDS[:, :3]}, "input 'ids' has 3 entries on axis 1, expected 4"),
        ({"ids": IDS[0]}, "input 'ids' has 1 axes, expected 2"),
        ({"ids": IDS[:0]}, "input 'ids' is empty"),
        ({"ids": np.asfortranarray(IDS)}, "lies in columns"),
        ({"ids": IDS + 7}, "Gather 'x' reads outside"),
        ({"words": IDS}, "unknown input 'words'"),
        ({}, "input 'ids' is missing"),
    ],
    ids=["type", "size", "rank", "empty", "columns", "index", "unknown", "missing"],
)
def test_a_program_names_what_is_wrong(
    program: Path, tmp_path: Path, feeds: dict[str, Array], message: str
) -> None:
    done = run(program, tmp_path, **feeds)

    assert done.returncode == 1
    assert message in done.stderr


def test_files_that_are_no_tensors_are_errors(program: Path, tmp_path: Path) -> None:
    whole = tmp_path / "ids.npy"
    np.save(whole, IDS, allow_pickle=False)
    short = tmp_path / "short.npy"
    short.write_bytes(whole.read_bytes()[:-1])
    for file, message in ((short, "shorter than its header"), (tmp_path, "is no .npy file")):
        command = [str(program / "run"), str(tmp_path), f"ids={file}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1
        assert message in done.stderr


def test_builds_that_make_no_program_are_declined(build: Path, tmp_path: Path) -> None:
    copy = tmp_path / "build"
    shutil.copytree(build, copy)
    plan = json.loads((copy / PLAN_FILE).read_text())

    (copy / PLAN_FILE).write_text(json.dumps({**plan, "lowering": "staged"}))
    with pytest.raises(UsageError, match="runs in stages"):
        write_cpp(copy, tmp_path / "program")
    (copy / PLAN_FILE).write_text(json.dumps({**plan, "family": "aarch64"}))
    with pytest.raises(UsageError, match=r"libtvm_ffi.so is for x86_64, and the build for aarch64"):
        write_cpp(copy, tmp_path / "program")
    (copy / "model.so").write_bytes(b"other")
    with pytest.raises(ArtifactError, match="5 bytes"):
        write_cpp(copy, tmp_path / "program")
    with pytest.raises(ArtifactError, match="does not exist"):
        write_cpp(tmp_path / "nothing", tmp_path / "program")


def test_a_folder_in_use_and_a_runtime_that_is_none_are_declined(build: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("text")

    with pytest.raises(UsageError, match="exists already"):
        write_cpp(build, tmp_path)
    with pytest.raises(UsageError, match=r"has no libtvm_ffi.so, nor a wheel"):
        write_cpp(build, tmp_path / "program", runtime=tmp_path)


ANYWHERE = """
#include <iostream>
#include "adapass_tvm.hpp"
#include "model.hpp"

// The eight numbers of two rows, `start` bytes behind an aligned place, each row `stride` numbers long.
adapass::Tensor placed(char* memory, int start, std::int64_t stride) {
  static std::int64_t shape[] = {2, 4}, strides[2];
  strides[0] = stride, strides[1] = 1;
  auto* numbers = reinterpret_cast<std::int64_t*>(memory + start);
  for (std::int64_t i = 0; i < 8; ++i) numbers[i / 4 * stride + i % 4] = i;
  static DLManagedTensor managed;
  managed.dl_tensor = DLTensor{numbers, {kDLCPU, 0}, 2, {kDLInt, 64, 1}, shape, strides, 0};
  managed.deleter = nullptr;
  return adapass::Tensor::FromDLPack(&managed);
}

int main(int, char** arguments) {
  adapass::Model model(adapass::description(), arguments[1], 1);
  alignas(64) static char memory[1024];
  for (int start = 0; start < 64; start += 8) {
    const auto outputs = model.run({{"ids", placed(memory, start, 4)}});
    std::cout << static_cast<float*>(outputs.at("y").data_ptr())[7] << ' ';
  }
  try {
    model.run({{"ids", placed(memory, 0, 5)}});
  } catch (const std::invalid_argument& error) {
    std::cout << error.what();
  }
}
"""


def test_tensors_of_a_program_may_lie_anywhere(written: Path, program: Path, tmp_path: Path) -> None:
    source, compiled = tmp_path / "anywhere.cpp", tmp_path / "anywhere"
    source.write_text(ANYWHERE)
    libraries = ["-Wl,--no-as-needed", "-ltvm_runtime", "-ltvm_runtime_extra", "-ltvm_ffi"]
    places = [
        f"-I{written}",
        "-isystem",
        f"{written}/include",
        f"-L{written}/lib",
        f"-Wl,-rpath,{written}/lib",
    ]
    command = ["g++", "-std=c++17", "-O0", str(source), "-o", str(compiled), *places, *libraries]
    subprocess.run(command, check=True, capture_output=True, timeout=300)

    done = subprocess.run(
        [compiled, program / "model.so"], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == "21 " * 8 + "input 'ids' does not lie in rows"
