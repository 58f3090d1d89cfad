"""The default pipelines, as names in order. What a pass does is in its file; here is only what runs when."""

from __future__ import annotations

from typing import Final

CLEAN: Final[tuple[str, ...]] = (
    "remove-dead-code",
    # Half-precision weights become constants here; everything below wants to see constants.
    "fold-constants",
    # Before folding and merging again: constant targets end the chains that computed them.
    "simplify-reshapes",
    "remove-identities",
    "remove-redundant-expands",
    "remove-redundant-scatters",
    "merge-casts",
    # What cancels out leaves an Identity.
    "merge-layout-chains",
    "remove-identities",
    "fuse-layer-norm",
    "fuse-gelu",
    "fuse-clips",
    # Padding first: a normalisation behind a padded convolution then finds the convolution.
    "fuse-pad-into-conv",
    "convolve-shortcuts",
    # Batch norms before scales: a scale behind a batch norm then meets the convolution.
    "fold-batch-norm",
    "fold-output-scale",
    "remove-zero-bias",
    # After the fusions: norms and activations are one operator each, which it can look through.
    "remove-unread-positions",
    # What the passes above made constant, equal or dead.
    "fold-constants",
    "merge-common-subexpressions",
    "remove-dead-code",
)
"""``merge-parallel-matmuls`` is not in it: whether it pays has to be measured."""

STRUCTURAL: Final[tuple[str, ...]] = (
    # A linear map of its own in the place of a branch was never worth its latency.
    'remove-blocks{settings=["remove", "convolve"]}',
    "prune-tokens",
    "prune-structures",
)
"""What cuts. Not in quick mode: what each choice damages takes a minute to measure.

``skip-feed-forward`` is in extensive mode only: its scores need torch, and a quarter of the tokens saved less
than gathering them costs where it was measured."""

FAMILIES: Final[tuple[str, ...]] = (
    *STRUCTURAL,
    "quantize-8bit",
    "insert-exits{max-exits=14}",  # more of them cost minutes to fit
)

QUICK_FAMILIES: Final[tuple[str, ...]] = (
    "quantize-8bit",
    "insert-exits{head=linear max-exits=6}",
)

EXTENSIVE_FAMILIES: Final[tuple[str, ...]] = (
    *STRUCTURAL,
    "skip-feed-forward",
    "quantize-8bit",
    "insert-exits",
    "insert-exits{rule=margin}",
    "insert-exits{rule=entropy}",
    "insert-exits{rule=patience}",
)
