"""The file of a delta, ``.adelta``. Whoever made it need not be trusted: nothing in it is executed.

    magic 8 | size of the header 4 | size of the header, deflated 4 | header | blobs | SHA-256 of all that 32

The header is JSON: digests of the base, of the fine-tune and of what unpacking gives, and for every tensor
that changes its graph, name, kind and the sizes of its blobs, which lie one behind the other. Numbers are
little-endian.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from adapass.deltas.parts import Kind, Part, inflated
from adapass.deltas.structure import Key
from adapass.errors import ArtifactError

MAGIC = b"adelta\r\n"
SCHEMA = 1
SUFFIX = ".adelta"
MAX_HEADER_BYTES = 1 << 26
MAX_FILE_BYTES = 1 << 36
_HASH_BYTES = 32
_FRONT_BYTES = len(MAGIC) + 8
BLOBS = {Kind.TERNARY: 3, Kind.EXCLUSIVE: 1, Kind.WHOLE: 1}
Dims = tuple[int | str | None, ...]


@dataclass(frozen=True, slots=True)
class Delta:
    """What a fine-tune changes in its base."""

    base: str
    """Digest of the model it belongs to."""
    fine: str
    """Digest of the fine-tune it was made from."""
    result: str
    """Digest of what unpacking gives: that of the fine-tune, where the delta is exact."""
    density: float
    alpha: float
    """Multiple of the least-squares scale."""
    parts: Mapping[Key, Part]
    """Tensors that are not listed stay as they are in the base."""
    outputs: Mapping[str, Dims]
    """Shapes of outputs that differ from the base's."""

    @property
    def exact(self) -> bool:
        return self.result == self.fine


def to_bytes(delta: Delta) -> bytes:
    """The file's content; equal deltas give equal bytes."""
    entries = [
        {
            "graph": graph,
            "name": name,
            "kind": str(part.kind),
            "sizes": [len(b) for b in part.blobs],
            **part.head,
        }
        for (graph, name), part in sorted(delta.parts.items())
    ]
    header = {
        "schema": SCHEMA,
        "base": delta.base,
        "fine": delta.fine,
        "result": delta.result,
        "density": delta.density,
        "alpha": delta.alpha,
        "outputs": {name: list(dims) for name, dims in sorted(delta.outputs.items())},
        "parts": entries,
    }
    plain = json.dumps(header, separators=(",", ":"), sort_keys=True, allow_nan=False).encode()
    packed = zlib.compress(plain, 9)
    sizes = len(plain).to_bytes(4, "little") + len(packed).to_bytes(4, "little")
    blobs = [blob for _, part in sorted(delta.parts.items()) for blob in part.blobs]
    body = b"".join([MAGIC, sizes, packed, *blobs])
    return body + hashlib.sha256(body).digest()


def write_delta(delta: Delta, path: Path) -> int:
    """Write it whole or not at all; how many bytes."""
    data = to_bytes(delta)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return len(data)


def read_delta(path: Path) -> Delta:
    """Read and check a delta.

    Raises:
        ArtifactError: missing, truncated, damaged, too large, or written by a newer adapass.

    """
    if not path.is_file():
        raise ArtifactError(f"delta '{path}' is missing; make one with `adapass pack`")
    size_bytes = path.stat().st_size
    if size_bytes > MAX_FILE_BYTES:
        raise ArtifactError(f"delta '{path}' has {size_bytes:,} bytes, at most {MAX_FILE_BYTES:,} are read")
    try:
        return from_bytes(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"delta '{path}' cannot be read: {error}") from error
    except ArtifactError as error:
        raise ArtifactError(f"delta '{path}': {error}") from error


def from_bytes(data: bytes) -> Delta:
    """Check the content of a file, before anything in it is relied on.

    Raises:
        ArtifactError: what ``read_delta`` refuses.

    """
    if not data.startswith(MAGIC):
        raise ArtifactError("this is no delta of adapass; make one with `adapass pack`")
    body, checksum = data[:-_HASH_BYTES], data[-_HASH_BYTES:]
    if len(body) < _FRONT_BYTES or hashlib.sha256(body).digest() != checksum:
        raise ArtifactError("its checksum does not match: it is truncated or damaged; copy it again")
    plain_bytes = int.from_bytes(body[len(MAGIC) : len(MAGIC) + 4], "little")
    packed_bytes = int.from_bytes(body[len(MAGIC) + 4 : _FRONT_BYTES], "little")
    if plain_bytes > MAX_HEADER_BYTES or _FRONT_BYTES + packed_bytes > len(body):
        raise ArtifactError(f"its header claims {plain_bytes:,} and {packed_bytes:,} bytes; it is damaged")
    header = _parsed(inflated(body[_FRONT_BYTES : _FRONT_BYTES + packed_bytes], plain_bytes))
    return _delta(header, body, _FRONT_BYTES + packed_bytes)


def _parsed(plain: bytes) -> Mapping[str, object]:
    try:
        found: object = json.loads(plain, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"its header is not JSON ({error})") from error
    return _mapping(found, "header")


def _delta(header: Mapping[str, object], body: bytes, start: int) -> Delta:
    if header.get("schema") != SCHEMA:
        raise ArtifactError(
            f"it has schema {header.get('schema')!r}, {SCHEMA} expected; it was written by a newer adapass"
        )
    parts: dict[Key, Part] = {}
    for entry in _list(header.get("parts"), "parts"):
        key, part, start = _part(_mapping(entry, "part"), body, start)
        if key in parts:
            raise ArtifactError(f"tensor '{key[1]}' is there twice")
        parts[key] = part
    if start != len(body):
        raise ArtifactError(f"{len(body) - start} bytes are left over behind its last part; it is damaged")
    outputs = _mapping(header.get("outputs"), "outputs")
    return Delta(
        base=_text(header, "base"),
        fine=_text(header, "fine"),
        result=_text(header, "result"),
        density=_share(header, "density"),
        alpha=_share(header, "alpha"),
        parts=parts,
        outputs={name: _dims(name, dims) for name, dims in outputs.items()},
    )


def _part(entry: Mapping[str, object], body: bytes, start: int) -> tuple[Key, Part, int]:
    name, graph, sizes = _text(entry, "name"), entry.get("graph"), _list(entry.get("sizes"), "sizes")
    kind = next((k for k in BLOBS if k == entry.get("kind")), None)
    if kind is None or type(graph) is not int or len(sizes) != BLOBS[kind]:
        raise ArtifactError(f"tensor '{name}' is stored as {entry.get('kind')!r} in {len(sizes)} parts")
    blobs: list[bytes] = []
    for size in sizes:
        if type(size) is not int or not 0 <= size <= len(body) - start:
            raise ArtifactError(f"tensor '{name}' claims {size!r} bytes, {len(body) - start} are left")
        blobs.append(body[start : start + size])
        start += size
    head = {key: entry[key] for key in entry.keys() - {"name", "graph", "kind", "sizes"}}
    return (graph, name), Part(kind, head, tuple(blobs)), start


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _mapping(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise ArtifactError(f"its {what} is {type(value).__name__}, a JSON object expected")
    return cast("dict[str, object]", value)


def _list(value: object, what: str) -> list[object]:
    if not isinstance(value, list):
        raise ArtifactError(f"its {what} are {type(value).__name__}, a JSON list expected")
    return cast("list[object]", value)


def _text(header: Mapping[str, object], key: str) -> str:
    value = header.get(key)
    if not isinstance(value, str):
        raise ArtifactError(f"it says {key}={value!r}, a text expected")
    return value


def _share(header: Mapping[str, object], key: str) -> float:
    value = header.get(key)
    if type(value) not in (int, float):
        raise ArtifactError(f"it says {key}={value!r}, a number expected")
    return float(cast("float", value))


def _dims(name: str, value: object) -> Dims:
    dims = _list(value, f"dimensions of '{name}'")
    for dim in dims:
        if not (dim is None or isinstance(dim, str) or (type(dim) is int and dim >= 0)):
            raise ArtifactError(f"it says that output '{name}' has a dimension {dim!r}")
    return cast("Dims", tuple(dims))
