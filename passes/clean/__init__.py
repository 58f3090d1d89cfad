"""Exact rewrites: the same function, fewer and better operators."""

from __future__ import annotations

DEFAULT: tuple[str, ...] = (
    "remove-dead-code",
    # Half-precision weights become constants here; everything below wants to see constants.
    "fold-constants",
    # Before folding and merging again: constant targets end the chains that computed them.
    "simplify-reshapes",
    "remove-redundant-expands",
    "remove-redundant-scatters",
    "merge-casts",
    "merge-layout-chains",
    # Behind the merging passes: what cancels out leaves an Identity.
    "remove-identities",
    "fuse-layer-norm",
    "fuse-gelu",
    "fuse-clips",
    # Padding first: a normalisation behind a padded convolution then finds the convolution.
    "fuse-pad-into-conv",
    # Batch norms before scales: a scale behind a batch norm then meets the convolution.
    "fold-batch-norm",
    "fold-output-scale",
    "remove-zero-bias",
    # What the passes above made constant, equal or dead.
    "fold-constants",
    "merge-common-subexpressions",
    "remove-dead-code",
)
"""The clean pipeline. ``merge-parallel-matmuls`` is not in it: whether it pays has to be measured."""
