"""How to distil: everything with a default, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass

from adapass.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Options of ``distill``; the same settings, data and seed give the same weights."""

    block_epochs: int = 2
    """Rounds over the data for each block alone; 0 skips the layer-wise phase."""
    block_rate: float = 2e-2
    """Learning rate of the layer-wise phase, relative to the size of each tensor."""
    epochs: int = 10
    """Rounds over the data for the whole model; 0 skips the end-to-end phase."""
    rate: float = 1e-2
    """Learning rate of the end-to-end phase, relative to the size (root mean square) of each tensor.

    It rises over the first steps, then falls along a cosine.
    """
    batch_size: int = 32
    weight_decay: float = 0.0
    """What a tensor loses in a step, as a share of the learning rate."""
    clip_norm: float = 1.0
    """Gradients longer than this are shortened to it."""
    temperature: float = 2.0
    """Softens both sides of the divergence of class scores (Hinton et al. 2015)."""
    hidden_weight: float = 1.0
    """Weight of the relative error at the cut points beside that of the output."""
    held_out: float = 0.1
    """Share of the samples that is never trained on and picks the best weights."""
    mirror: bool = False
    """Mirror half of the images, left to right. Only where that leaves their meaning alone."""
    crop: int = 0
    """Shift images by up to so many pixels each way, repeating their edges."""
    rank: int = 0
    """Train corrections of this rank to frozen weights, folded in at the end; 0 trains the weights."""
    keep_zeros: bool = True
    """Leave weights at zero that a mask has put there (see ``adapass.healing.trainable``)."""
    patience: int = 0
    """Stop after so many rounds without a better held-out loss; 0 never stops early."""
    max_seconds: float | None = None
    """Stop after this time with the best weights so far. Then the result depends on the machine's speed."""
    max_cache_bytes: int = 512 << 20
    """How much of the original's values is kept in memory; beyond it they are computed again or left out."""
    threads: int = 1

    def __post_init__(self) -> None:
        positive = {
            "block_rate": self.block_rate,
            "rate": self.rate,
            "batch_size": self.batch_size,
            "clip_norm": self.clip_norm,
            "temperature": self.temperature,
            "threads": self.threads,
            "max_cache_bytes": self.max_cache_bytes,
        }
        for name, value in positive.items():
            if not value > 0:
                raise UsageError(f"healing: {name} is {value}; a number above 0 expected")
        for name in ("block_epochs", "epochs", "weight_decay", "hidden_weight", "crop", "rank", "patience"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"healing: {name} is {getattr(self, name)}; 0 or more expected")
        if not 0 < self.held_out < 1:
            raise UsageError(f"healing: held_out is {self.held_out}; a share between 0 and 1 expected")
