"""Damage of each choice alone: how far the output moves when only this choice is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array, BudgetedPass, Choice, Samples
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
) -> dict[str, float]:
    """Relative RMS distortion of the first output by ``Choice.key``, measured on ``samples``.

    A family that knows a quicker way than applying every choice alone provides it (``damages``).
    """
    own = step.damages(model, FactCache(model), choices, samples)
    if own is not None:
        return dict(own)
    reference = _outputs(model, samples)
    found: dict[str, float] = {}
    for done, choice in enumerate(choices):
        # How far the output moves is what is asked here; whether that is too far is asked of whole plans.
        changed = apply_plan(model, Plan((Part(step, (choice,)),)), fit=fit, verify=False)
        found[choice.key] = distortion(reference, _outputs(changed, samples))
        if report is not None:
            report(done + 1, len(choices), choice.site)
    return found


def distortion(reference: Array, output: Array) -> float:
    """RMS of the difference over RMS of the reference."""
    a, b = reference.astype(np.float64), output.astype(np.float64)
    scale = float(np.sqrt(np.mean(a**2)))
    return float(np.sqrt(np.mean((a - b) ** 2))) / max(scale, 1e-12)


def levels(
    choices: Sequence[Choice], damage: Mapping[str, float], shares: Sequence[float]
) -> list[tuple[Choice, ...]]:
    """For each share of sites to spare, all choices but the most damaging ones; duplicates left out."""
    ordered = sorted(choices, key=lambda c: (damage[c.key], c.site))
    picked: list[tuple[Choice, ...]] = []
    for share in shares:
        kept = ordered[: len(ordered) - round(share * len(ordered))]
        level = tuple(sorted(kept, key=lambda c: c.site))
        if level and level not in picked:
            picked.append(level)
    return picked


def _outputs(model: ir.Model, samples: Samples) -> Array:
    name = model.graph.outputs[0].name or ""
    session = Session(model, outputs=[name], optimize=True)
    return np.concatenate([session.run(samples.feeds(i))[name] for i in range(len(samples))])
