"""Damage: how far the output moves when a choice, or a whole plan, is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from scipy.special import log_softmax

from adapass.budgeted import Array, BudgetedPass, Choice, Damage, Samples
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.search.plan import Part, Plan, apply_plan

Report = Callable[[int, int, str], None]


def damages(
    model: ir.Model,
    step: BudgetedPass,
    choices: Sequence[Choice],
    *,
    fit: Samples,
    samples: Samples,
    report: Report | None = None,
) -> dict[str, Damage]:
    """Damage to the first output by ``Choice.key``, measured on ``samples``.

    A family that knows a quicker way than applying every choice alone provides it (``damages``).
    """
    own = step.damages(model, FactCache(model), choices, samples)
    if own is not None:
        return dict(own)
    return one_by_one(model, step, choices, fit=fit, samples=samples, report=report)


def one_by_one(
    model: ir.Model,
    step: BudgetedPass,
    choices: Sequence[Choice],
    *,
    fit: Samples,
    samples: Samples,
    report: Report | None = None,
) -> dict[str, Damage]:
    """The same by applying and fitting every choice alone, whatever the family knows."""
    step = step.sketch
    reference = _outputs(model, samples)
    found: dict[str, Damage] = {}
    for done, choice in enumerate(choices):
        # How far the output moves is what is asked here; whether that is too far is asked of whole plans.
        changed = apply_plan(model, Plan((Part(step, (choice,)),)), fit=fit, verify=False)
        found[choice.key] = damage_of(reference, _outputs(changed, samples))
        if report is not None:
            report(done + 1, len(choices), choice.site)
    return found


def distortion(reference: Array, output: Array) -> float:
    """RMS of the difference over RMS of the reference."""
    a, b = reference.astype(np.float64), output.astype(np.float64)
    scale = float(np.sqrt(np.mean(a**2)))
    return float(np.sqrt(np.mean((a - b) ** 2))) / max(scale, 1e-12)


def damage_of(reference: Array, output: Array) -> Damage:
    """The damage between two outputs of the same samples, [N, ...]; of [N, C], C are classes."""
    divergence = None
    if reference.ndim == 2 and reference.shape[1] > 1:
        divergence = divergence_of(reference, output)
    return Damage(distortion(reference, output), divergence)


def divergence_of(a: Array, b: Array) -> float:
    """Mean Kullback-Leibler divergence, in nats, between class scores or probabilities [N, C]."""
    return float(divergences(a, b).mean())


def divergences(a: Array, b: Array) -> npt.NDArray[np.float64]:
    """That of each row, [N]."""
    p, q = _log_probabilities(a), _log_probabilities(b)
    return np.asarray(np.maximum((np.exp(p) * (p - q)).sum(axis=1), 0.0))


def _log_probabilities(scores: Array) -> npt.NDArray[np.float64]:
    """Of logits, or of probabilities (rows that sum to 1)."""
    rows = np.asarray(scores, np.float64)
    if (rows >= 0.0).all() and np.allclose(rows.sum(axis=1), 1.0, atol=1e-3):
        return np.asarray(np.log(np.maximum(rows, 1e-12)))
    return np.asarray(log_softmax(rows, axis=1))


def _outputs(model: ir.Model, samples: Samples) -> Array:
    name = model.graph.outputs[0].name or ""
    session = Session(model, outputs=[name], optimize=True)
    return np.concatenate([session.run(samples.feeds(i))[name] for i in range(len(samples))])
