"""Archives that lie, bomb or hide code."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapass.data.archive import MAX_ARRAYS, read_npz, write_npz
from adapass.errors import DataError


def member(shape: str, descr: str = "'<f4'", data: bytes = b"\0" * 12, version: bytes = b"\x01\x00") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + data


def archive(path: Path, members: dict[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as out:
        for name, data in members.items():
            out.writestr(name, data)
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(
            {"x.npy": member("(1000000000000000,)")}, r"claims shape \(1000000000000000,\)", id="header-lies"
        ),
        pytest.param({"x.npy": member("(18,)")}, "has 12 of 72 bytes; the file is cut off", id="short"),
        pytest.param({"x.npy": member("(-3,)")}, "claims shape", id="negative"),
        pytest.param({"x.npy": member("(2,)", "'|O'")}, "dtype object; numbers or booleans", id="pickle"),
        pytest.param({"x.npy": member("(1,)", "'<U3'")}, "dtype <U3; numbers or booleans", id="text"),
        pytest.param(
            {"x.npy": member("(1,)", "[('a', '<f4'), ('b', '<f8')]")}, "numbers or booleans", id="record"
        ),
        pytest.param(
            {"x.npy": member("__import__('os').getcwd()")}, "not a readable", id="code-in-the-header"
        ),
        pytest.param({"x.npy": member("(3,)", version=b"\x09\x00")}, "not a readable|version", id="version"),
        pytest.param({"x.npy": b"nonsense"}, "not a readable", id="no-magic"),
        pytest.param({"x.pkl": b"nonsense"}, r"'x\.pkl' found, \.npy arrays expected", id="other-member"),
        pytest.param(
            {f"x{k}.npy": b"" for k in range(MAX_ARRAYS + 1)}, "257 arrays found", id="many-members"
        ),
    ],
)
def test_refuses_what_is_not_plain_numbers(tmp_path: Path, content: dict[str, bytes], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_npz(archive(tmp_path / "x.npz", content))


def test_refuses_bombs_before_unpacking(tmp_path: Path) -> None:
    bomb = archive(tmp_path / "x.npz", {"x.npy": b"\0" * 50_000_000}, compression=zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 100_000

    with pytest.raises(DataError, match="50,000,000 bytes when unpacked, at most 1,000,000 allowed"):
        read_npz(bomb, max_bytes=1_000_000)


def test_a_directory_that_understates_the_size_gains_nothing(tmp_path: Path) -> None:
    raw = bytearray(archive(tmp_path / "x.npz", {"x.npy": member("(3,)") + b"\0" * 5000}).read_bytes())
    central = raw.rindex(b"PK\x01\x02")
    raw[central + 24 : central + 28] = struct.pack("<I", 100)
    (tmp_path / "x.npz").write_bytes(raw)

    with pytest.raises(DataError, match=r"not a readable|cut off|holds"):
        read_npz(tmp_path / "x.npz", max_bytes=1000)


def test_refuses_the_same_name_twice(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as out:
        out.writestr("x.npy", member("(3,)"))
        with pytest.warns(UserWarning, match="Duplicate name"):
            out.writestr("x.npy", member("(3,)"))

    with pytest.raises(DataError, match="array 'x' is there twice"):
        read_npz(tmp_path / "x.npz")


def test_says_what_to_do_with_a_bare_array(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones(3))
    with pytest.raises(DataError, match=r"write it with numpy\.savez"):
        read_npz(tmp_path / "x.npy")


@pytest.mark.parametrize("keep", [0, 10, 100, 300])
def test_refuses_a_cut_file(tmp_path: Path, keep: int) -> None:
    np.savez(tmp_path / "x.npz", x=np.arange(100))
    whole = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(whole[:keep])

    with pytest.raises(DataError, match="not a readable"):
        read_npz(tmp_path / "x.npz")


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_flipped_byte_is_an_error_or_harmless(tmp_path: Path, position: int, value: int) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.arange(50, dtype=np.float32))
    raw = bytearray(buffer.getvalue())
    raw[position % len(raw)] = value
    (tmp_path / "x.npz").write_bytes(raw)

    try:
        arrays = read_npz(tmp_path / "x.npz")
    except DataError:
        return
    assert all(array.dtype.kind in "biuf" for array in arrays.values())


def test_what_is_written_is_read_whatever_the_names(tmp_path: Path) -> None:
    """``numpy.savez`` takes 'file' and 'allow_pickle' for options."""
    arrays = {"file": np.arange(6.0).reshape(2, 3), "allow_pickle": np.array([True]), "a/b": np.zeros(0)}

    write_npz(tmp_path / "x.npz", arrays)

    found = read_npz(tmp_path / "x.npz")
    assert sorted(found) == sorted(arrays)
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())
