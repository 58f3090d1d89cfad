"""Load data for a model: an ``.npz`` file, a folder of them, arrays in memory, or a function."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import cast

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array
from adapass.data.archive import MAX_BYTES, read_npz
from adapass.data.checks import LABELS, check_labels, checked
from adapass.data.dataset import Dataset
from adapass.data.inputs import InputSpec, input_specs, max_batch, output_shapes
from adapass.data.join import join
from adapass.data.padding import find_padding
from adapass.errors import DataError, UsageError

logger = logging.getLogger(__name__)

Source = str | Path | Mapping[str, Array]
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
MAX_FILES = 10_000
SYNTHETIC = "adapass_synthetic"
"""An array of this name marks samples that were made from a model (`adapass synthesize`)."""


def load_data(
    source: Source,
    model: ir.Model,
    *,
    allow_code: bool = False,
    mask: str | None = None,
    trim: bool = True,
    max_bytes: int = MAX_BYTES,
) -> Dataset:
    """Data for the inputs of ``model`` (plus ``labels``), checked, cast, with padding found.

    ``source`` is an ``.npz`` file whose arrays are named like the inputs, a folder of such files (joined in
    sorted order), a mapping of arrays, or, with ``allow_code``, ``package.module:function`` that takes
    nothing and returns a mapping or an iterable of mappings. ``mask`` names the input that marks padding
    where it is not obvious; ``trim=False`` keeps the padding.

    Raises:
        DataError: the data does not fit; the message names the array, what was found and what is expected.
        UsageError: a function was named without ``allow_code``.

    """
    specs = input_specs(model)
    batch = max_batch(specs)
    marked: set[str] = set()
    arrays = join(_parts(source, specs, marked, allow_code=allow_code, max_bytes=max_bytes), specs, mask=mask)
    labels = None if LABELS in {spec.name for spec in specs} else arrays.pop(LABELS, None)
    if labels is not None:
        check_labels(labels, output_shapes(model))
    padding = find_padding(arrays, specs, mask=mask) if trim else None
    text = "arrays" if isinstance(source, Mapping) else Path(str(source)).name
    rows = np.arange(len(next(iter(arrays.values()))), dtype=np.int64)
    logger.info("%s: %s samples, %s labels", text, len(rows), "with" if labels is not None else "without")
    text = f"{text} (synthetic samples: no data)" if marked else text
    return Dataset(MappingProxyType(arrays), labels, rows, padding, batch, text, bool(marked))


def _parts(
    source: Source, specs: tuple[InputSpec, ...], marked: set[str], *, allow_code: bool, max_bytes: int
) -> Iterator[tuple[str, dict[str, Array]]]:
    """Checked parts with the words that name them, within ``max_bytes`` altogether.

    Names of synthetic ones are added to ``marked``.
    """
    left = max_bytes
    for where, arrays in _raw(source, allow_code=allow_code, max_bytes=max_bytes):
        if SYNTHETIC in arrays:
            marked.add(where)
        part = checked({name: array for name, array in arrays.items() if name != SYNTHETIC}, specs, where)
        left -= sum(array.nbytes for array in part.values())
        if left < 0:
            raise DataError(f"{where}: more than {max_bytes:,} bytes of data altogether; use fewer samples")
        yield where, part


def _raw(source: Source, *, allow_code: bool, max_bytes: int) -> Iterator[tuple[str, Mapping[str, Array]]]:
    if isinstance(source, Mapping):
        return iter([("arrays", source)])
    path = Path(source)
    if path.is_file():
        return iter([(str(path), read_npz(path, max_bytes=max_bytes))])
    if path.is_dir():
        return ((str(file), read_npz(file, max_bytes=max_bytes)) for file in _files(path))
    if _FUNCTION.fullmatch(str(source)):
        return _from_code(str(source), allow_code=allow_code)
    raise DataError(
        f"data '{source}' not found; an .npz file, a folder of them or package.module:function expected"
    )


def _files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise DataError(f"{folder}: no .npz files found; at least one expected")
    if len(files) > MAX_FILES:
        raise DataError(f"{folder}: {len(files)} .npz files found, at most {MAX_FILES} expected; join some")
    root = folder.resolve()
    for file in files:
        if not file.resolve().is_relative_to(root):
            raise DataError(f"{file}: links to {file.resolve()}, outside its folder; copy the file instead")
    return files


def _from_code(name: str, *, allow_code: bool) -> Iterator[tuple[str, Mapping[str, Array]]]:
    if not allow_code:
        raise UsageError(
            f"data '{name}' would run Python code; allow it with --allow-code (allow_code=True), "
            "or save the arrays with numpy.savez"
        )
    module, _, attribute = name.partition(":")
    try:
        made: object = getattr(import_module(module), attribute)()
    except Exception as error:
        raise DataError(f"data '{name}': the function failed with {type(error).__name__}: {error}") from error
    if isinstance(made, Mapping):
        return iter([(name, cast("Mapping[str, Array]", made))])
    if not isinstance(made, Iterable):
        raise DataError(
            f"data '{name}' returned {type(made).__name__}; a mapping of arrays or an iterable expected"
        )
    return _numbered(name, cast("Iterable[object]", made))


def _numbered(name: str, batches: Iterable[object]) -> Iterator[tuple[str, Mapping[str, Array]]]:
    for number, batch in enumerate(batches):
        if not isinstance(batch, Mapping):
            raise DataError(
                f"data '{name}', batch {number}: {type(batch).__name__} found; a mapping of arrays expected"
            )
        yield f"{name}, batch {number}", cast("Mapping[str, Array]", batch)
