"""What class scores say: the log-probabilities behind logits, or behind probabilities."""

from __future__ import annotations

from adapass.twin.torch_import import Tensor, torch

_TINY = 1e-12


def has_classes(output: Tensor) -> bool:
    """``[N, C]`` with several columns counts as class scores, as everywhere in adapass."""
    return bool(output.ndim == 2 and output.shape[1] > 1)


def class_log_probabilities(scores: Tensor, temperature: float = 1.0, like: Tensor | None = None) -> Tensor:
    """Of scores ``[N, C]``, or of probabilities where ``like`` (``scores`` itself) has rows that sum to 1."""
    reference = scores if like is None else like
    sums = reference.sum(1)
    if bool((reference >= 0).all()) and bool(torch.allclose(sums, torch.ones_like(sums), atol=1e-3)):
        scores = scores.clamp(min=_TINY).log()
    return torch.log_softmax(scores / temperature, 1)
