"""Loading a description: what is accepted, and what each refusal says."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapass.errors import ExitCode, TargetError
from adapass.target import MAX_FILE_BYTES, load_target, parse_target

MINIMAL = """
schema = 1
name = "toaster"
kind = "cpu"
description = "a toaster"
codegen = ["onnxruntime"]

[arch]
family = "x86_64"
cores = 2

[compute]
f32 = 1e9

[memory]
dram_bytes = 1000
dram_bytes_per_second = 1e9

[overhead]
launch_seconds = 1e-6

[source]
"arch.cores" = "counted"
"compute.*" = "guessed from the colour"
"memory.*" = "data sheet"
"overhead.*" = "placeholder: not measured"
"""


def test_a_small_description_loads() -> None:
    target = parse_target(MINIMAL, "toaster.toml")

    assert (target.name, target.cores, target.peak("f32")) == ("toaster", 2, 1e9)
    assert target.peak("i8") is None
    assert target.placeholders() == ("overhead.launch_seconds",)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        pytest.param("[compute]", "[compute", "not TOML", id="not-toml"),
        pytest.param("schema = 1", "schema = 2", "schema is 2, expected 1", id="newer-schema"),
        pytest.param('name = "toaster"', "", "name is None", id="no-name"),
        pytest.param('kind = "cpu"', 'kind = "fpga"', "kind is 'fpga', expected one of cpu, gpu", id="kind"),
        pytest.param("codegen = [", "colour = 1\ncodegen = [", "unknown key 'colour'", id="unknown-key"),
        pytest.param('codegen = ["onnxruntime"]', "codegen = [1]", "codegen is", id="codegen-of-numbers"),
        pytest.param(
            'codegen = ["onnxruntime"]', 'codegen = "x"', "expected a list of generator", id="codegen-text"
        ),
        pytest.param("[arch]", "arch = 1\n[other]", "unknown key 'other'", id="unknown-table"),
        pytest.param("cores = 2", "cores = [[1]]", "arch.cores is", id="nested-list"),
        pytest.param("f32 = 1e9", "f32 = 0", "expected a positive number", id="zero"),
        pytest.param("f32 = 1e9", "f32 = nan", "expected a positive number", id="nan"),
        pytest.param("f32 = 1e9", "f32 = inf", "expected a positive number", id="infinite"),
        pytest.param("f32 = 1e9", 'f32 = "fast"', "compute.f32 is 'fast'", id="word-for-a-number"),
        pytest.param("f32 = 1e9", "f32 = true", "compute.f32 is True", id="boolean-for-a-number"),
        pytest.param("f32 = 1e9", "i8 = 1e9", "'compute.f32' is missing", id="required"),
        pytest.param("f32 = 1e9", "f32 = 1e9\nf31 = 1e9", "unknown number format 'compute.f31'", id="dtype"),
        pytest.param(
            "dram_bytes = 1000",
            "dram_bytes = 1000\nl2 = 5",
            "'memory.l2' does not end in its unit",
            id="unit",
        ),
        pytest.param(
            '"compute.*" = "guessed from the colour"', "", "'compute.f32' has no source", id="no-source"
        ),
        pytest.param('"guessed from the colour"', '" "', "'compute.f32' has no source", id="empty-source"),
        pytest.param('"arch.cores" = "counted"', "", "'arch.cores' has no source", id="no-source-for-arch"),
        pytest.param(
            '"arch.cores"', '"arch.*" = "x"\n"arch.core"', "'arch.core' matches no number", id="typo"
        ),
    ],
)
def test_refuses_and_says_why(old: str, new: str, message: str) -> None:
    assert old in MINIMAL

    with pytest.raises(TargetError, match=r"toaster\.toml") as caught:
        parse_target(MINIMAL.replace(old, new), "toaster.toml")

    assert message in str(caught.value)


def test_the_most_specific_source_wins() -> None:
    text = MINIMAL.replace('"memory.*"', '"memory.dram_bytes" = "weighed"\n"memory.*"')

    target = parse_target(text, "toaster.toml")

    assert target.source_of("memory.dram_bytes") == "weighed"
    assert target.source_of("memory.dram_bytes_per_second") == "data sheet"


def test_an_unknown_name_lists_near_ones() -> None:
    with pytest.raises(TargetError, match=r"unknown target 'cuda-h20' \(did you mean cuda-h200 ") as caught:
        load_target("cuda-h20")

    assert caught.value.exit_code is ExitCode.TARGET_UNAVAILABLE


def test_a_name_like_nothing_lists_all() -> None:
    with pytest.raises(TargetError, match=r"cpu or cuda or aarch64-generic"):
        load_target("qqqqqq")


@pytest.mark.parametrize("name", ["../targets/cuda-h200", "/etc/passwd", ""])
def test_a_name_is_never_a_path(name: str) -> None:
    with pytest.raises(TargetError, match="unknown target"):
        load_target(name)


def test_a_file_of_ones_own_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL, encoding="utf-8")

    assert load_target(path).name == "toaster"
    assert load_target(str(path)).name == "toaster"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"gone\.toml: No such file"):
        load_target(tmp_path / "gone.toml")


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.toml"
    path.write_text(MINIMAL + "#" * (MAX_FILE_BYTES - len(MINIMAL)), encoding="utf-8")
    assert load_target(path).name == "toaster"

    path.write_text(MINIMAL + "#" * (MAX_FILE_BYTES - len(MINIMAL) + 1), encoding="utf-8")
    with pytest.raises(TargetError, match="larger than"):
        load_target(path)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe")

    with pytest.raises(TargetError, match="not UTF-8"):
        load_target(path)


def test_the_example_of_the_documentation_loads() -> None:
    page = Path(__file__).parents[2] / "docs" / "concepts" / "targets.md"
    _, _, rest = page.read_text(encoding="utf-8").partition("```toml\n")

    target = parse_target(rest.partition("```")[0], page.name)

    assert target.name == "orin-nx"
    assert target.placeholders() == ("overhead.launch_seconds",)
