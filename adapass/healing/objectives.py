"""How far a student is from what the original computed: what is minimised, and what judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapass.twin.classes import class_log_probabilities, has_classes
from adapass.twin.torch_import import Tensor, functional, torch

_TINY = 1e-12


def relative_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error over squared size, of the whole batch."""
    wanted = teacher.to(student.dtype)
    return (student - wanted).square().sum() / wanted.square().sum().clamp(min=_TINY)


def output_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """The divergence from the original's classes times the squared temperature, else the relative error."""
    if not has_classes(teacher):
        return relative_error(student, teacher)
    sure = class_log_probabilities(teacher.to(student.dtype), temperature)
    found = class_log_probabilities(student, temperature, like=teacher)
    return functional.kl_div(found, sure, reduction="batchmean", log_target=True) * temperature**2


def outputs_loss(
    student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], names: tuple[str, ...], temperature: float
) -> Tensor:
    """The mean over the model's floating-point outputs."""
    terms = [output_loss(student[n], teacher[n], temperature) for n in names]
    return torch.stack(terms).mean()


def hidden_loss(
    student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], pairs: Sequence[tuple[str, str]]
) -> Tensor:
    """The mean relative error over pairs of values (Romero et al. 2015).

    Pairs of different shapes, which only a run can tell where tokens are left behind, say nothing.
    """
    alike = [(student[a], teacher[b]) for a, b in pairs if student[a].shape == teacher[b].shape]
    if not alike:
        return torch.zeros(())
    return torch.stack([relative_error(ours, theirs) for ours, theirs in alike]).mean()
