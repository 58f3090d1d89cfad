"""Read ``.npz`` archives that nobody vouches for, and write some.

Sizes are checked in the archive's directory and again in each array's header, before anything is
unpacked or allocated; object arrays (pickles) are never touched. ``numpy.load`` would allocate what
the header claims before it notices that the data is not there.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from adapass.budgeted import Array
from adapass.errors import DataError

MAX_ARRAYS = 256
MAX_BYTES = 16 * 1024**3
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError)


def read_npz(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Array]:
    """The arrays of an archive, read-only, native byte order, numbers and booleans only.

    Raises:
        DataError: not an archive, damaged, too large, or with arrays that are not plain numbers.

    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = _checked(archive.infolist(), path, max_bytes)
            return {name: _read(archive, member, path) for name, member in members.items()}
    except _BROKEN as error:
        hint = "; a single .npy is not enough, write it with numpy.savez" if _is_npy(path) else ""
        raise DataError(f"{path}: not a readable .npz archive ({error}){hint}") from error


def _is_npy(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(6) == npy.MAGIC_PREFIX
    except OSError:
        return False


def write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays under any names; ``numpy.savez`` takes some names for options of its own."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                npy.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)


def _checked(infos: list[zipfile.ZipInfo], path: Path, max_bytes: int) -> dict[str, zipfile.ZipInfo]:
    if len(infos) > MAX_ARRAYS:
        raise DataError(f"{path}: {len(infos)} arrays found, at most {MAX_ARRAYS} expected")
    total_bytes = sum(info.file_size for info in infos)
    if total_bytes > max_bytes:
        raise DataError(
            f"{path}: {total_bytes:,} bytes when unpacked, at most {max_bytes:,} allowed; use fewer samples"
        )
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = info.filename.removesuffix(".npy")
        if name == info.filename:
            raise DataError(
                f"{path}: member '{info.filename}' found, .npy arrays expected; write it with numpy.savez"
            )
        if name in members:
            raise DataError(f"{path}: array '{name}' is there twice")
        members[name] = info
    return members


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> Array:
    with archive.open(info) as stream:
        shape, by_columns, dtype = _header(stream, info.filename, path)
        if dtype.hasobject or dtype.kind not in "biuf":
            raise DataError(
                f"{path}: array '{info.filename.removesuffix('.npy')}' has dtype {dtype}; "
                "numbers or booleans expected (object arrays are pickles and are never opened)"
            )
        size_bytes = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or size_bytes > info.file_size:
            raise DataError(
                f"{path}: '{info.filename}' claims shape {shape} ({size_bytes:,} bytes) "
                f"but holds {info.file_size:,} bytes; the file is damaged"
            )
        data = stream.read(size_bytes)
    if len(data) != size_bytes:
        raise DataError(
            f"{path}: '{info.filename}' has {len(data):,} of {size_bytes:,} bytes; the file is cut off"
        )
    flat = np.frombuffer(data, dtype=dtype).astype(dtype.newbyteorder("="), copy=False)
    return flat.reshape(shape, order="F" if by_columns else "C")


def _header(stream: IO[bytes], name: str, path: Path) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = npy.read_magic(stream)
    if version == (1, 0):
        return npy.read_array_header_1_0(stream)
    if version == (2, 0):
        return npy.read_array_header_2_0(stream)
    raise DataError(
        f"{path}: '{name}' has .npy version {version}, 1.0 or 2.0 expected; write it with numpy.savez"
    )
