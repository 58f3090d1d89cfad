from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapass.artifact import GeneratorInfo, Kind, read_artifact
from adapass.artifact.manifest import BLANK, FileInfo, Manifest, manifest_from_bytes, manifest_to_bytes
from adapass.errors import ArtifactError


class Maker(Protocol):
    folder: Path

    def write(self, name: str = ..., **changes: object) -> Path: ...

    def write_built(self, built: Path, name: str = ..., **changes: object) -> Path: ...


def forge(folder: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Change the manifest and make its own hash fit again, as an attacker would."""
    path = folder / "manifest.json"
    document = json.loads(path.read_bytes())
    change(document)
    document["self_sha256"] = BLANK
    blank = json.dumps(document)
    path.write_text(blank.replace(BLANK, hashlib.sha256(blank.encode()).hexdigest()))


def test_reads_back_what_was_written(maker: Maker) -> None:
    artifact = read_artifact(maker.write(task="classification", warnings=("uncertified",)))

    assert artifact.manifest.task == "classification"
    assert artifact.manifest.warnings == ("uncertified",)
    assert artifact.recipe() == {"schema": 1, "passes": ["clean"], "options": {"seed": 0}}
    assert artifact.generator_folder is None


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "recipe.yaml", "report.html", "pareto.json"])
def test_names_a_missing_file(maker: Maker, name: str) -> None:
    folder = maker.write()
    (folder / name).unlink()

    with pytest.raises(ArtifactError, match=name):
        read_artifact(folder)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_notices_one_flipped_bit_anywhere(maker: Maker, data: st.DataObject) -> None:
    folder = maker.folder / "tiny.adapass"
    if not folder.exists():
        maker.write()
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    good = path.read_bytes()
    position = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bad)
    try:
        with pytest.raises(ArtifactError, match=path.name):
            read_artifact(folder)
    finally:
        path.write_bytes(good)


def test_refuses_a_file_that_does_not_belong(maker: Maker) -> None:
    folder = maker.write()
    (folder / "extra.so").write_bytes(b"")

    with pytest.raises(ArtifactError, match=r"extra\.so does not belong"):
        read_artifact(folder)


def test_refuses_an_empty_folder_inside(maker: Maker) -> None:
    folder = maker.write()
    (folder / "empty").mkdir()

    with pytest.raises(ArtifactError, match="unexpected empty folder"):
        read_artifact(folder)


def test_says_how_many_bytes_are_missing(maker: Maker) -> None:
    folder = maker.write()
    model = folder / "model.onnx"
    size_bytes = model.stat().st_size
    model.write_bytes(model.read_bytes()[:-1])

    with pytest.raises(ArtifactError, match=f"has {size_bytes - 1} bytes, expected {size_bytes}"):
        read_artifact(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [("recipe.yaml", r"recipe\.yaml is a link"), ("manifest.json", r"has no manifest\.json")],
)
def test_refuses_a_link(maker: Maker, name: str, message: str) -> None:
    folder = maker.write()
    (folder / name).rename(maker.folder / "moved")
    (folder / name).symlink_to(maker.folder / "moved")

    with pytest.raises(ArtifactError, match=message):
        read_artifact(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_refuses_a_pipe_instead_of_waiting_on_it(maker: Maker) -> None:
    folder = maker.write()
    (folder / "recipe.yaml").unlink()
    os.mkfifo(folder / "recipe.yaml")

    with pytest.raises(ArtifactError, match="not a regular file"):
        read_artifact(folder)


def test_asks_to_upgrade_for_a_newer_schema(maker: Maker) -> None:
    folder = maker.write()
    forge(folder, lambda document: document.update(schema_version=3, invented=True))

    with pytest.raises(ArtifactError, match=r"schema version 3, this adapass reads up to 2.*upgrade"):
        read_artifact(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"format": "zip"}, "this is no artifact", id="another-format"),
        pytest.param({"schema_version": "1"}, "schema_version is '1'", id="schema-is-text"),
        pytest.param({"schema_version": True}, "schema_version is True", id="schema-is-true"),
        pytest.param({"surprise": 1}, "field 'surprise'", id="unknown-field"),
        pytest.param({"kind": "magic"}, "field 'kind'", id="unknown-kind"),
        pytest.param({"task": "other"}, "content_hash", id="content-hash-does-not-fit"),
    ],
)
def test_refuses_a_forged_manifest(maker: Maker, changes: dict[str, object], message: str) -> None:
    folder = maker.write()
    forge(folder, lambda document: document.update(changes))

    with pytest.raises(ArtifactError, match=message):
        read_artifact(folder)


def rewrite(folder: Path, **changes: object) -> None:
    """Replace fields of the manifest with every hash right: only the contents can give it away."""
    path = folder / "manifest.json"
    manifest: Manifest = manifest_from_bytes(path.read_bytes(), "manifest").model_copy(update=changes)
    path.write_bytes(manifest_to_bytes(manifest))


@pytest.mark.parametrize(
    "name", ["../model.onnx", "/etc/passwd", "a//b", "a\\b", "c:x", "./x", "a/" * 9 + "b"]
)
def test_refuses_paths_that_leave_the_folder(maker: Maker, name: str) -> None:
    folder = maker.write()
    files = dict(read_artifact(folder).manifest.files)
    rewrite(folder, files={**files, name: files["model.onnx"]})

    with pytest.raises(ArtifactError, match="not a plain path inside the artifact"):
        read_artifact(folder)


def test_refuses_a_manifest_without_a_model(maker: Maker) -> None:
    folder = maker.write()
    (folder / "model.onnx").unlink()
    files = dict(read_artifact_files(folder))
    rewrite(folder, kind=Kind.OPTIMIZED, files={k: v for k, v in files.items() if k != "model.onnx"})

    with pytest.raises(ArtifactError, match=r"does not list model\.onnx"):
        read_artifact(folder)


def read_artifact_files(folder: Path) -> dict[str, FileInfo]:
    return manifest_from_bytes((folder / "manifest.json").read_bytes(), "manifest").files


def test_refuses_a_generator_folder_outside(maker: Maker) -> None:
    folder = maker.write()
    info = GeneratorInfo(name="onnxruntime", variant="v")
    rewrite(folder, generator=info, generator_folder="../../outside")

    with pytest.raises(ArtifactError, match="not a plain path"):
        read_artifact(folder)


def test_refuses_a_generator_folder_without_files(maker: Maker) -> None:
    folder = maker.write()
    rewrite(folder, generator=GeneratorInfo(name="tvm", variant="v"), generator_folder="tvm")

    with pytest.raises(ArtifactError, match="lists no file under 'tvm'"):
        read_artifact(folder)


def test_refuses_a_generator_without_its_folder(maker: Maker) -> None:
    folder = maker.write()
    rewrite(folder, generator=GeneratorInfo(name="onnxruntime", variant="v"))

    with pytest.raises(ArtifactError, match="go together"):
        read_artifact(folder)


def test_does_not_write_outside_for_a_strange_generator(maker: Maker, tmp_path: Path) -> None:
    built = tmp_path / "built"
    built.mkdir()
    (built / "a.txt").write_text("a")

    with pytest.raises(ArtifactError, match="not a plain path"):
        maker.write_built(built, generator=GeneratorInfo(name="../../outside", variant="v"))


def test_refuses_an_original_that_is_another_model(maker: Maker) -> None:
    folder = maker.write()
    other = read_artifact(folder).manifest.original.model_copy(update={"sha256": "a" * 64})
    rewrite(folder, original=other)

    with pytest.raises(ArtifactError, match="says it returns the original"):
        read_artifact(folder)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"[" * 100_000, b"\xff\xfe", b"null"])
def test_refuses_garbage_for_a_manifest(maker: Maker, raw: bytes) -> None:
    folder = maker.write()
    (folder / "manifest.json").write_bytes(raw)

    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        read_artifact(folder)


def test_says_what_was_expected_of_a_path(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    for path, found in ((tmp_path / "missing", "does not exist"), (tmp_path / "model.onnx", "is a file")):
        with pytest.raises(ArtifactError, match=found):
            read_artifact(path)
