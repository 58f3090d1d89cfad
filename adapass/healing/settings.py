"""How to distil: everything with a default, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass

from adapass.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Options of ``distill``; the same settings, data and seed give the same weights."""

    steps: int = 2000
    """Batches the whole model learns from; 0 skips the end-to-end phase."""
    rate: float = 2e-3
    """Learning rate of the end-to-end phase, relative to the size (root mean square) of each tensor.

    It rises over the first steps, then falls along a cosine.
    """
    block_epochs: int | None = None
    """Rounds over the data for each block alone before that; 0 skips the layer-wise phase.

    ``None``: some where the model is far from the original, as one is in which nothing was fitted.
    """
    block_rate: float = 2e-2
    """Learning rate of the layer-wise phase, relative to the size of each tensor."""
    batch_size: int = 32
    weight_decay: float = 0.0
    """What a tensor loses in a step, as a share of the learning rate."""
    clip_norm: float = 1.0
    """Gradients longer than this are shortened to it."""
    temperature: float = 2.0
    """Softens both sides of the divergence of class scores (Hinton et al. 2015)."""
    hidden_weight: float = 1.0
    """Weight of the relative error at the ends of blocks beside that of the output."""
    vary: bool = True
    """Learn from varied samples, as far as the original recognises them (``adapass.healing.variations``)."""
    average: float = 0.02
    """The weights that are judged and kept are running means over this share of the steps; 0 for none."""
    held_out: float = 0.1
    """Share of the samples that is never trained on and picks the best weights."""
    judgements: int = 20
    """How often the held-out samples are looked at (and a checkpoint is written)."""
    patience: int = 0
    """Stop after so many judgements without a better held-out loss; 0 never stops early."""
    rank: int = 0
    """Train corrections of this rank to frozen weights, folded in at the end; 0 trains the weights."""
    keep_zeros: bool = True
    """Leave weights at zero that a mask has put there (see ``adapass.healing.trainable``)."""
    tables: bool = False
    """Train embedding tables too. A few samples move the rows they read and no others."""
    mixed: bool | None = None
    """Multiply in bfloat16, weights in single precision. ``None``: where the processor is built for it."""
    max_seconds: float | None = None
    """Stop after this time with the best weights so far. Then the result depends on the machine's speed."""
    max_cache_bytes: int = 512 << 20
    """How much of the original's values is kept in memory; beyond it they are computed again or left out."""
    threads: int = 1

    def __post_init__(self) -> None:
        for name in (
            "block_rate",
            "rate",
            "batch_size",
            "clip_norm",
            "temperature",
            "threads",
            "judgements",
            "max_cache_bytes",
        ):
            if not getattr(self, name) > 0:
                raise UsageError(f"healing: {name} is {getattr(self, name)}; a number above 0 expected")
        if self.block_epochs is not None and self.block_epochs < 0:
            raise UsageError(f"healing: block_epochs is {self.block_epochs}; 0 or more expected")
        for name in ("steps", "weight_decay", "hidden_weight", "rank", "patience"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"healing: {name} is {getattr(self, name)}; 0 or more expected")
        if not 0 < self.held_out < 1:
            raise UsageError(f"healing: held_out is {self.held_out}; a share between 0 and 1 expected")
        if not 0 <= self.average < 1:
            raise UsageError(f"healing: average is {self.average}; 0 or a share below 1 expected")
