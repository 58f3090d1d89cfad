"""A data set that fits a model: one row a sample, padding trimmed when it is handed out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from adapass.budgeted import Array, Feeds
from adapass.data.padding import Padding
from adapass.errors import DataError

Integers = npt.NDArray[np.int64]
Indices = Sequence[int] | Integers


@dataclass(frozen=True, eq=False, slots=True)
class Dataset:
    """Samples for a model (``budgeted.Samples``). Subsets share the arrays; nothing is copied."""

    arrays: Mapping[str, Array]
    """All inputs as given, the samples on the first axis, padded to a common length."""
    targets: Array | None
    """Labels of all rows of ``arrays``, ``None`` when unknown."""
    rows: Integers
    """The rows of ``arrays`` that belong to this data set, in order."""
    padding: Padding | None = None
    max_batch: int | None = None
    """The largest batch the model takes; ``None`` for any."""
    source: str = "arrays"
    """Where the data came from, in words."""
    synthetic: bool = False
    """Made from a model, not collected: nothing may be certified on it."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> Array | None:
        return None if self.targets is None else self.targets[self.rows]

    @property
    def lengths(self) -> Integers | None:
        """True length of every sample; ``None`` where nothing is padded."""
        return None if self.padding is None else self.padding.lengths[self.rows]

    def feeds(self, index: int) -> Feeds:
        return self._take(self.rows[[index]])

    def batch(self, indices: Indices) -> Feeds:
        """Several samples, padded to the longest of them only.

        Raises:
            DataError: more samples than the model takes at once, or none.

        """
        if len(indices) == 0:
            raise DataError("a batch of 0 samples was asked for; at least 1 expected")
        if self.max_batch is not None and len(indices) > self.max_batch:
            raise DataError(
                f"a batch of {len(indices)} samples was asked for; "
                f"the model's batch axis is fixed to {self.max_batch}: "
                "run samples one by one, or export the model with a dynamic batch axis"
            )
        return self._take(self.rows[np.asarray(indices, np.int64)])

    def batches(self, size: int, *, by_length: bool = False) -> Iterator[tuple[Integers, Feeds]]:
        """All samples in batches of at most ``size`` (and of what the model takes), with their indices.

        ``by_length`` puts samples of similar length together, shortest first: less padding, another order.
        """
        if size < 1:
            raise DataError(f"batch size {size} was asked for; at least 1 expected")
        size = size if self.max_batch is None else min(size, self.max_batch)
        order = np.arange(len(self), dtype=np.int64)
        if by_length and (lengths := self.lengths) is not None:
            order = np.argsort(lengths, kind="stable").astype(np.int64)
        for start in range(0, len(order), size):
            indices = order[start : start + size]
            yield indices, self.batch(indices)

    def subset(self, indices: Indices) -> Dataset:
        """These samples in this order, as a view on the same arrays."""
        return replace(self, rows=self.rows[np.asarray(indices, np.int64)])

    def compact(self) -> Dataset:
        """The same samples without the other rows of ``arrays``: what is sent elsewhere."""
        padding = self.padding
        kept = {name: np.ascontiguousarray(array[self.rows]) for name, array in self.arrays.items()}
        return replace(
            self,
            arrays=kept,
            targets=None if self.targets is None else self.targets[self.rows],
            rows=np.arange(len(self.rows), dtype=np.int64),
            padding=None
            if padding is None
            else replace(padding, axes=dict(padding.axes), lengths=padding.lengths[self.rows]),
        )

    def _take(self, rows: Integers) -> dict[str, Array]:
        width = None if self.padding is None else int(self.padding.lengths[rows].max())
        return {name: np.ascontiguousarray(self._trimmed(name, width)[rows]) for name in self.arrays}

    def _trimmed(self, name: str, width: int | None) -> Array:
        array = self.arrays[name]
        if self.padding is None or name not in self.padding.axes:
            return array
        cut = [slice(None)] * array.ndim
        for axis in self.padding.axes[name]:
            cut[axis] = slice(0, width)
        return array[tuple(cut)]


def sample_digests(dataset: Dataset) -> tuple[bytes, ...]:
    """A digest of every sample's trimmed inputs (not its label), the same whatever the padding."""
    return tuple(_digest(dataset.feeds(index)) for index in range(len(dataset)))


def fingerprint(dataset: Dataset) -> str:
    """Hex digest of all samples and labels in order, for manifests."""
    total = blake2b(digest_size=32)
    for digest in sample_digests(dataset):
        total.update(digest)
    if (labels := dataset.labels) is not None:
        total.update(_digest({"labels": labels}))
    return total.hexdigest()


def describe(dataset: Dataset) -> dict[str, object]:
    """What a report says about the data; JSON values only."""
    lengths, labels = dataset.lengths, dataset.labels
    digests = sample_digests(dataset)
    return {
        "source": dataset.source,
        "synthetic": dataset.synthetic,
        "samples": len(dataset),
        "repeated_samples": len(digests) - len(set(digests)),
        "inputs": {
            name: {"dtype": str(a.dtype), "shape": list(a.shape[1:])} for name, a in dataset.arrays.items()
        },
        "labels": None if labels is None else {"dtype": str(labels.dtype), "shape": list(labels.shape[1:])},
        "max_batch": dataset.max_batch,
        "mask": None if dataset.padding is None else dataset.padding.mask,
        "lengths": None
        if lengths is None
        else {"min": int(lengths.min()), "mean": round(float(lengths.mean()), 3), "max": int(lengths.max())},
    }


def _digest(feeds: Feeds) -> bytes:
    digest = blake2b(digest_size=16)
    for name in sorted(feeds):
        array = np.ascontiguousarray(feeds[name])
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.digest()
