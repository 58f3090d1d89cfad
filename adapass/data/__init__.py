"""Data for fitting, searching and certifying: loaded safely, checked, trimmed, split by content."""

from __future__ import annotations

from adapass.data.dataset import Dataset, describe, fingerprint, sample_digests
from adapass.data.load import Source, load_data
from adapass.data.split import overlap, split_by_hash, without

__all__ = [
    "Dataset",
    "Source",
    "describe",
    "fingerprint",
    "load_data",
    "overlap",
    "sample_digests",
    "split_by_hash",
    "without",
]
