from __future__ import annotations

import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from adapass.artifact import (
    Contents,
    GeneratorInfo,
    Kind,
    Latency,
    Trust,
    check_destination,
    read_artifact,
    write_artifact,
)
from adapass.artifact import write as write_module
from adapass.errors import ArtifactError, UsageError


class Maker(Protocol):
    folder: Path
    model: Path

    def contents(self, **changes: object) -> Contents: ...

    def write(self, name: str = ..., **changes: object) -> Path: ...

    def write_built(self, built: Path, name: str = ..., **changes: object) -> Path: ...


def files_under(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_holds_the_original_byte_for_byte(maker: Maker) -> None:
    folder = maker.write()

    assert (folder / "model.onnx").read_bytes() == maker.model.read_bytes()
    assert sorted(files_under(folder)) == [
        "manifest.json",
        "model.onnx",
        "pareto.json",
        "recipe.yaml",
        "report.html",
    ]


def test_holds_the_external_data_of_the_original(maker: Maker, tiny: Callable[..., Path]) -> None:
    model = tiny(maker.model, external="parts/weights.bin")

    folder = maker.write()

    assert (folder / "model.onnx").read_bytes() == model.read_bytes()
    assert (folder / "parts/weights.bin").read_bytes() == (model.parent / "parts/weights.bin").read_bytes()
    assert "parts/weights.bin" in read_artifact(folder).manifest.files


@pytest.mark.parametrize("name", ["recipe.yaml", "manifest.json", "model.onnx"])
def test_refuses_external_data_with_a_name_it_needs(
    maker: Maker, tiny: Callable[..., Path], name: str
) -> None:
    tiny(maker.model, external=name)

    with pytest.raises(ArtifactError, match=f"'{name}', a name adapass needs"):
        maker.write()


def test_writes_the_same_bytes_twice(maker: Maker) -> None:
    assert files_under(maker.write("a.adapass")) == files_under(maker.write("b.adapass"))


def test_measured_numbers_do_not_change_the_content_hash(maker: Maker) -> None:
    slower = Latency(before_seconds=9.0, after_seconds=8.0, trust=Trust.MEASURED, threads=1, batch=1)

    first = read_artifact(maker.write("a.adapass")).manifest
    second = read_artifact(maker.write("b.adapass", latency=slower)).manifest

    assert first.self_sha256 != second.self_sha256
    assert first.content_hash == second.content_hash


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"certificate": {"bound": 0.01}}, id="certificate"),
        pytest.param({"target": "cuda"}, id="target"),
        pytest.param({"tools": {"onnx": "9"}}, id="tool-version"),
        pytest.param({"kind": Kind.OPTIMIZED}, id="kind"),
    ],
)
def test_everything_else_changes_the_content_hash(maker: Maker, changes: dict[str, object]) -> None:
    plain = read_artifact(maker.write("a.adapass")).manifest
    other = read_artifact(maker.write("b.adapass", **changes)).manifest

    assert plain.content_hash != other.content_hash


def test_another_recipe_changes_the_content_hash(maker: Maker) -> None:
    plain = read_artifact(maker.write("a.adapass")).manifest
    contents = replace(maker.contents(), recipe={"schema": 1, "passes": []})
    other = read_artifact(write_artifact(maker.folder / "b.adapass", contents)).manifest

    assert plain.content_hash != other.content_hash


def test_refuses_an_original_that_changed_meanwhile(maker: Maker) -> None:
    contents = maker.contents()
    maker.model.write_bytes(
        maker.model.read_bytes() + b"\x00" * 0 + b"\x3a\x00"
    )  # an empty graph field: still ONNX

    with pytest.raises(ArtifactError, match="changed while adapass worked"):
        write_artifact(maker.folder / "tiny.adapass", contents)

    assert not (maker.folder / "tiny.adapass").exists()


class TestGeneratedFiles:
    INFO = GeneratorInfo(name="onnxruntime", variant="if", options={"threads": 1})

    def test_are_kept_in_a_folder_of_their_own(self, maker: Maker) -> None:
        built = maker.folder / "built"
        (built / "stages").mkdir(parents=True)
        (built / "stages" / "0.onnx").write_bytes(b"stage")

        artifact = read_artifact(maker.write_built(built, generator=self.INFO))

        assert artifact.manifest.generator_folder == "onnxruntime"
        assert artifact.generator_folder is not None
        assert files_under(artifact.generator_folder) == {"stages/0.onnx": b"stage"}

    def test_share_a_model_that_is_the_portable_one(self, maker: Maker) -> None:
        built = maker.folder / "built"
        built.mkdir()
        (built / "model.onnx").write_bytes(maker.model.read_bytes())
        (built / "options.json").write_text("{}")

        artifact = read_artifact(maker.write_built(built, generator=self.INFO))

        assert artifact.manifest.generator_folder == "."
        assert "onnxruntime/model.onnx" not in artifact.manifest.files
        assert (artifact.folder / "options.json").read_text() == "{}"

    @pytest.mark.parametrize(
        ("name", "data"), [("model.onnx", b"another model"), ("recipe.yaml", b"not the recipe")]
    )
    def test_do_not_share_when_a_name_would_clash(self, maker: Maker, name: str, data: bytes) -> None:
        built = maker.folder / "built"
        built.mkdir()
        (built / "model.onnx").write_bytes(maker.model.read_bytes())
        (built / name).write_bytes(data)

        artifact = read_artifact(maker.write_built(built, generator=self.INFO))

        assert artifact.manifest.generator_folder == "onnxruntime"
        assert (artifact.folder / "onnxruntime" / name).read_bytes() == data

    def test_need_the_generator_that_made_them(self, maker: Maker) -> None:
        built = maker.folder / "built"
        built.mkdir()

        with pytest.raises(ArtifactError, match="go together"):
            maker.write_built(built)


class TestDestination:
    def test_replaces_an_artifact_and_leaves_nothing_behind(self, maker: Maker) -> None:
        maker.write(task="regression")
        maker.write(task="classification")

        assert read_artifact(maker.folder / "tiny.adapass").manifest.task == "classification"
        assert sorted(p.name for p in maker.folder.iterdir()) == ["source", "tiny.adapass"]

    def test_may_be_an_empty_folder(self, maker: Maker) -> None:
        (maker.folder / "tiny.adapass").mkdir()

        read_artifact(maker.write())

    def test_keeps_a_folder_that_is_not_an_artifact(self, maker: Maker) -> None:
        precious = maker.folder / "tiny.adapass" / "thesis.txt"
        precious.parent.mkdir()
        precious.write_text("years of work")

        with pytest.raises(UsageError, match="files that are not an artifact"):
            maker.write()

        assert precious.read_text() == "years of work"

    def test_keeps_a_file_of_the_same_name(self, maker: Maker) -> None:
        (maker.folder / "tiny.adapass").write_text("a file")

        with pytest.raises(UsageError, match="not an artifact folder"):
            maker.write()

    def test_does_not_write_through_a_link(self, maker: Maker) -> None:
        elsewhere = maker.folder / "elsewhere"
        elsewhere.mkdir()
        (maker.folder / "tiny.adapass").symlink_to(elsewhere)

        with pytest.raises(UsageError, match="not an artifact folder"):
            maker.write()

        assert not any(elsewhere.iterdir())

    def test_needs_a_parent_folder(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="create it"):
            check_destination(tmp_path / "missing" / "x.adapass")


class TestInterruption:
    def test_leaves_no_trace_when_writing_fails(self, maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
        old = files_under(maker.write())

        def fail(*_: object) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(write_module, "sync_tree", fail)
        with pytest.raises(OSError, match="disk full"):
            maker.write(task="other")

        assert files_under(maker.folder / "tiny.adapass") == old
        assert sorted(p.name for p in maker.folder.iterdir()) == ["source", "tiny.adapass"]

    def test_appears_whole_by_one_rename(self, maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
        rename = Path.rename
        seen: list[tuple[bool, int, str]] = []

        def watched(self: Path, target: Path) -> Path:
            seen.append((target.exists(), len(list(self.iterdir())), target.name))
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", watched)
        maker.write()

        assert seen == [(False, 5, "tiny.adapass")]

    def test_puts_the_old_artifact_back_when_the_swap_fails(
        self, maker: Maker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old = files_under(maker.write())
        rename = Path.rename

        def refuse_new(self: Path, target: Path) -> Path:
            if ".partial-" in self.name:
                raise OSError("no")
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", refuse_new)
        with pytest.raises(OSError, match="no"):
            maker.write(task="other")

        assert files_under(maker.folder / "tiny.adapass") == old
        assert sorted(p.name for p in maker.folder.iterdir()) == ["source", "tiny.adapass"]

    def test_clears_what_a_killed_writer_left(self, maker: Maker) -> None:
        killed = subprocess.run(
            [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
        )
        dead = int(killed.stdout)
        node = platform.node()
        leftover = maker.folder / f".tiny.adapass.partial-{node}-{dead}-abc"
        alive = maker.folder / f".tiny.adapass.partial-{node}-{os.getppid()}-abc"
        elsewhere = maker.folder / f".tiny.adapass.partial-another-machine-{dead}-abc"
        for folder in (leftover, alive, elsewhere):
            folder.mkdir()

        maker.write()

        assert not leftover.exists()
        assert alive.exists()
        assert elsewhere.exists()

    def test_a_killed_writer_leaves_a_whole_artifact_or_none(self, maker: Maker) -> None:
        destination = maker.folder / "tiny.adapass"
        pauses = random.Random(0)
        for _ in range(4):
            with _endless_writer(maker.model, destination) as writer:
                assert writer.stdout is not None
                assert writer.stdout.readline() == "written\n"
                time.sleep(pauses.uniform(0.0, 0.1))
                writer.kill()
            if destination.exists():
                read_artifact(destination)

        maker.write()
        assert sorted(p.name for p in maker.folder.iterdir()) == ["source", "tiny.adapass"]


def _endless_writer(model: Path, destination: Path) -> subprocess.Popen[str]:
    """A process that writes the artifact again and again and says so the first time."""
    code = """
import sys
from pathlib import Path
from adapass.artifact import Contents, Description, Kind, Original, write_artifact
from adapass.artifact.files import file_info

model, destination = Path(sys.argv[1]), Path(sys.argv[2])
info = file_info(model)
original = Original(name="m", sha256=info.sha256, size_bytes=info.size_bytes)
about = Description(kind=Kind.ORIGINAL, target="cpu", task="t", inputs=(), outputs=(), original=original)
contents = Contents(description=about, model=model, recipe={})
write_artifact(destination, contents)
print("written", flush=True)
for number in range(10**9):
    write_artifact(destination, contents)
    if number % 2:
        destination.rename(model.parent / str(number))
"""
    command = [sys.executable, "-c", code, str(model), str(destination)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
