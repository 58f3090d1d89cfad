"""A delta file is refused when it is truncated, damaged, or made to do harm."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from adapass.deltas.container import MAGIC, from_bytes, read_delta, to_bytes, write_delta
from adapass.deltas.pack import pack, unpack
from adapass.deltas.parts import inflated
from adapass.errors import ArtifactError
from tests.deltas.conftest import MakeFine

Header = dict[str, Any]


@pytest.fixture
def data(base: ir.Model, make_fine: MakeFine) -> bytes:
    return to_bytes(pack(base, make_fine(), density=0.1).delta)


def forged(data: bytes, change: Callable[[Header], object], *, more: bytes = b"") -> bytes:
    """The same file with its header changed and a checksum that fits."""
    packed = int.from_bytes(data[12:16], "little")
    header: Header = json.loads(zlib.decompress(data[16 : 16 + packed]))
    change(header)
    plain = json.dumps(header).encode()
    new = zlib.compress(plain)
    sizes = len(plain).to_bytes(4, "little") + len(new).to_bytes(4, "little")
    return signed(MAGIC + sizes + new + data[16 + packed : -32] + more)


def signed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


def test_equal_deltas_give_equal_bytes(base: ir.Model, make_fine: MakeFine, data: bytes) -> None:
    assert to_bytes(pack(base, make_fine(), density=0.1).delta) == data
    assert to_bytes(from_bytes(data)) == data


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_truncated_files_are_refused(data: bytes, share: float) -> None:
    with pytest.raises(ArtifactError, match=r"truncated or damaged|is no delta"):
        from_bytes(data[: int(share * len(data))])


def test_every_flipped_byte_is_noticed(data: bytes) -> None:
    for place in range(0, len(data), max(1, len(data) // 50)):
        broken = bytearray(data)
        broken[place] ^= 1
        with pytest.raises(ArtifactError):
            from_bytes(bytes(broken))


def first(header: Header, **values: object) -> None:
    header["parts"][0].update(values)


FORGED_HEADERS: list[tuple[Callable[[Header], object], str]] = [
    (lambda h: h.update(schema=2), "written by a newer adapass"),
    (lambda h: h.update(parts={}), "its parts are dict"),
    (lambda h: h.update(parts=["x"]), "its part is str"),
    (lambda h: h.update(base=3), "base=3"),
    (lambda h: h.update(density="x"), "density='x'"),
    (lambda h: h.update(outputs={"y": [-1]}), "dimension -1"),
    (lambda h: first(h, kind="pickle"), "stored as 'pickle'"),
    (lambda h: first(h, sizes=[1]), "in 1 parts"),
    (lambda h: first(h, sizes=[-1, 0, 0]), "claims -1 bytes"),
    (lambda h: first(h, sizes=[1 << 40, 0, 0]), "claims 1099511627776 bytes"),
    (lambda h: first(h, graph="0"), "stored as"),
    (lambda h: h["parts"].append(dict(h["parts"][0])), "claims|twice"),
    (lambda h: h["parts"].pop(), "left over"),
]


@pytest.mark.parametrize(
    ("change", "message"),
    FORGED_HEADERS,
)
def test_forged_headers_are_refused(data: bytes, change: Callable[[Header], object], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        from_bytes(forged(data, change))


def test_a_tensor_that_is_there_twice_is_refused(data: bytes) -> None:
    def twice(header: Header) -> None:
        header["parts"].append({**header["parts"][0], "sizes": [0, 0, 0]})

    with pytest.raises(ArtifactError, match="is there twice"):
        from_bytes(forged(data, twice))


FORGED_PARTS: list[tuple[Callable[[Header], object], str]] = [
    (lambda h: first(h, count=1 << 50), "positions"),
    (lambda h: first(h, count=-1), "count=-1"),
    (lambda h: first(h, count=True), "count=True"),
    (lambda h: first(h, low_bits=60), "60 low bits"),
    (lambda h: first(h, scale="inf"), "scale='inf'"),
    (lambda h: first(h, scale="-0x1p0"), "scale='-0x1p0'"),
    (lambda h: first(h, scale=1.0), "scale=1.0"),
    (lambda h: first(h, scale="0x1p99999"), "scale='0x1p99999'"),
    (lambda h: first(h, scale="0x1p0"), "digest"),
    (lambda h: first(h, name="absent"), "'absent', which the base does not have"),
    (lambda h: first(h, graph=7), "which the base does not have"),
    (lambda h: first(h, name="target"), "is INT64; ternary changes are of floats only"),
    (lambda h: h.update(outputs={"z": [1]}), "output 'z'"),
]


@pytest.mark.parametrize(
    ("change", "message"),
    FORGED_PARTS,
)
def test_forged_parts_are_refused(
    data: bytes, change: Callable[[Header], object], message: str, base: ir.Model
) -> None:
    delta = from_bytes(forged(data, change))

    with pytest.raises(ArtifactError, match=message):
        unpack(base, delta)


@pytest.mark.parametrize(
    ("claimed", "message"),
    [
        ({"dtype": "FLOAT", "shape": [1 << 40]}, "claims shape"),
        ({"dtype": "FLOAT", "shape": [-4]}, r"shape=\[-4\]"),
        ({"dtype": "FLOAT", "shape": "x"}, "shape='x'"),
        ({"dtype": "FLOAT", "shape": [2] * 65}, "a list of whole numbers"),
        ({"dtype": "STRING", "shape": [4]}, "dtype='STRING'"),
        ({"dtype": "__class__", "shape": [4]}, "dtype='__class__'"),
        ({"dtype": "FLOAT", "shape": [5]}, "does not hold the 20 bytes"),
    ],
)
def test_whole_tensors_are_bounded(claimed: Header, message: str, data: bytes, base: ir.Model) -> None:
    blob = zlib.compress(np.zeros(4, np.float32).tobytes())

    def add(header: Header) -> None:
        header["parts"].append({"graph": 0, "name": "zz", "kind": "whole", "sizes": [len(blob)], **claimed})
        header["parts"][-1]["name"] = "target"

    delta = from_bytes(forged(data, add, more=blob))

    with pytest.raises(ArtifactError, match=message):
        unpack(base, delta)


def test_a_bomb_is_not_unpacked() -> None:
    bomb = zlib.compress(b"\0" * (1 << 24))

    tracemalloc.start()
    with pytest.raises(ArtifactError, match="does not hold the 64 bytes"):
        inflated(bomb, 64)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 1 << 20
    with pytest.raises(ArtifactError, match="cannot be unpacked"):
        inflated(b"nonsense", 64)


def test_a_header_that_claims_too_much_is_refused() -> None:
    body = MAGIC + (1 << 31).to_bytes(4, "little") + (10).to_bytes(4, "little") + b"0123456789"

    with pytest.raises(ArtifactError, match="its header claims"):
        from_bytes(signed(body))


@pytest.mark.parametrize("plain", [b"[1]", b"{", b'{"schema": NaN}', b"[" * 100_000])
def test_a_header_that_is_no_object_is_refused(plain: bytes) -> None:
    packed = zlib.compress(plain)
    sizes = len(plain).to_bytes(4, "little") + len(packed).to_bytes(4, "little")

    with pytest.raises(ArtifactError, match=r"JSON"):
        from_bytes(signed(MAGIC + sizes + packed))


def test_files_are_named_in_messages(tmp_path: Path, base: ir.Model, make_fine: MakeFine) -> None:
    path = tmp_path / "x.adelta"
    with pytest.raises(ArtifactError, match=r"x\.adelta' is missing"):
        read_delta(path)
    written = write_delta(pack(base, make_fine()).delta, path)
    assert path.stat().st_size == written
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"x\.adelta': its checksum"):
        read_delta(path)
    assert [file.name for file in tmp_path.iterdir()] == ["x.adelta"]
