"""Run a model over samples and keep chosen values, batch by batch.

Only samples of equal shape share a batch, so nothing is padded and the values are those of batch 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array, Feeds, Samples
from adapass.execution import Session

BATCH = 32
IMAGE_RANK = 4
CHANNEL_COUNTS = frozenset({1, 3, 4})


def equal_shape_batches(samples: Samples, indices: Sequence[int], size: int) -> list[list[int]]:
    """Indices in groups of at most ``size`` whose feeds have equal shapes, in order of first appearance."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for index in indices:
        feeds = samples.feeds(index)
        shape = tuple((name, feeds[name].shape) for name in sorted(feeds))
        groups.setdefault(shape, []).append(index)
    return [group[at : at + size] for group in groups.values() for at in range(0, len(group), size)]


def fixed_batch(model: ir.Model) -> int | None:
    """The batch size a model insists on, ``None`` when it takes any."""
    for value in model.graph.inputs:
        if value.is_initializer() or value.shape is None or not value.shape.rank():
            continue
        size = value.shape[0]
        return size if isinstance(size, int) else None
    return None


def run_batches(
    model: ir.Model,
    names: Sequence[str],
    samples: Samples,
    batches: Sequence[list[int]],
    *,
    mirrored: bool = False,
) -> Iterator[tuple[list[int], dict[str, Array]]]:
    """Yield (indices, values by name) batch by batch; values have one row an index."""
    session = Session(model, outputs=names, optimize=True)
    fixed = fixed_batch(model)
    for group in batches:
        filled = group + [group[-1]] * ((fixed or len(group)) - len(group))
        feeds = samples.batch(filled)
        found = session.run(_mirrored(feeds) if mirrored else feeds)
        yield group, {name: value[: len(group)] for name, value in found.items()}


def collect_rows(
    model: ir.Model, names: Sequence[str], samples: Samples, indices: Sequence[int], *, mirrored: bool = False
) -> dict[str, Array]:
    """Values by name for all ``indices``, in their order. Only for values of one shape a sample."""
    rows: dict[str, Array] = {}
    place = {index: row for row, index in enumerate(indices)}
    batches = equal_shape_batches(samples, indices, fixed_batch(model) or BATCH)
    for group, values in run_batches(model, names, samples, batches, mirrored=mirrored):
        at = [place[index] for index in group]
        for name, value in values.items():
            if name not in rows:
                rows[name] = np.empty((len(indices), *value.shape[1:]), value.dtype)
            rows[name][at] = value
    return rows


def has_image(feeds: Feeds) -> bool:
    return any(_columns_axis(array) is not None for array in feeds.values())


def _mirrored(feeds: Feeds) -> Feeds:
    return {name: _mirror(array) for name, array in feeds.items()}


def _mirror(array: Array) -> Array:
    axis = _columns_axis(array)
    return array if axis is None else np.ascontiguousarray(np.flip(array, axis))


def _columns_axis(array: Array) -> int | None:
    """The horizontal axis of a batch of images, NCHW or NHWC; ``None`` for anything else."""
    if array.ndim != IMAGE_RANK or array.dtype.kind not in "fu":
        return None
    if array.shape[1] in CHANNEL_COUNTS:
        return 3
    return 2 if array.shape[3] in CHANNEL_COUNTS else None
