"""Comparing the numbers two models compute, at tolerances that follow from exactness and magnitude.

The error of an output is measured against the size of that output (its root mean square over the
whole batch), never against one element, so values near zero do not raise false alarms and a
doubled output never passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array, Feeds
from adapass.errors import VerificationError
from adapass.execution import Session
from adapass.graph.inputs import generate_feeds
from adapass.rewrite import Exactness, Pass

ROUNDING_TOLERANCE: Mapping[str, float] = {
    "float64": 1e-9,
    "float32": 2e-4,
    "float16": 2e-2,
    "bfloat16": 1e-1,
}
"""Largest error relative to the output's root mean square. Rounding in the 24-bit products and sums
of a network of a hundred layers stays below 1e-5 to 1e-4; a wrong weight or axis is far above."""
TINY_RMS = 1e-12


@dataclass(frozen=True, slots=True)
class Difference:
    """How far one output of two models is apart, over all inputs tried."""

    output: str
    relative_max: float
    """Largest absolute error over the root mean square of the reference; ``inf`` for a different shape,
    type or pattern of non-finite values."""
    relative_rms: float
    note: str = ""

    def within(self, exactness: Exactness, bound: float) -> bool:
        if exactness is Exactness.BITWISE:
            return self.relative_max == 0.0
        return (self.relative_rms if exactness is Exactness.LOSSY else self.relative_max) <= bound


@dataclass(frozen=True, slots=True)
class Comparison:
    """The outcome of ``compare``: one difference an output, the worst of all inputs."""

    differences: tuple[Difference, ...]
    cases: int

    def worst(self) -> Difference:
        return max(self.differences, key=lambda d: d.relative_max)

    def to_dict(self) -> dict[str, object]:
        return {
            "cases": self.cases,
            "outputs": [
                {
                    "name": d.output,
                    "relative_max": d.relative_max,
                    "relative_rms": d.relative_rms,
                    "note": d.note,
                }
                for d in self.differences
            ],
        }


def compare(a: ir.Model, b: ir.Model, *, feeds: Sequence[Feeds] | None = None, seed: int = 0) -> Comparison:
    """Run both models on the same inputs (generated ones of several shapes unless given).

    Outputs are matched by name; ``b`` may have more outputs than ``a``. Inputs only ``b`` has must
    have default values.

    Raises:
        VerificationError: an output of ``a`` is missing in ``b``, or one of the models does not run.

    """
    cases = list(feeds) if feeds is not None else usable_feeds(a, seed=seed)
    return compare_outputs(run_all(a, cases), run_all(b, cases))


def usable_feeds(model: ir.Model, *, seed: int = 0, cases: int = 3) -> list[Feeds]:
    """Generated inputs on which ``model`` runs.

    Raises:
        VerificationError: it runs on none of them, so nothing could be compared.

    """
    usable: list[Feeds] = []
    refused: list[str] = []
    session = Session(model)
    for candidate in generate_feeds(model, seed=seed, cases=cases):
        try:
            session.run(candidate)
        except VerificationError as error:
            refused.append(str(error))
        else:
            usable.append(candidate)
    if not usable:
        raise VerificationError(
            f"the model runs on none of {len(refused)} generated inputs; give data. {refused[:1]}"
        )
    return usable


def run_all(model: ir.Model, cases: Sequence[Feeds]) -> list[dict[str, Array]]:
    """The outputs of ``model`` for every case, through the reference session (no graph optimisations)."""
    session = Session(model)
    return [session.run(case) for case in cases]


def compare_outputs(
    reference: Sequence[Mapping[str, Array]], results: Sequence[Mapping[str, Array]]
) -> Comparison:
    """Compare outputs already computed, case by case."""
    worst: dict[str, Difference] = {}
    for expected, found in zip(reference, results, strict=True):
        for name, value in expected.items():
            if name not in found:
                raise VerificationError(f"output '{name}' is gone; outputs now: {', '.join(found) or 'none'}")
            difference = _difference(name, value, found[name])
            if name not in worst or difference.relative_max > worst[name].relative_max:
                worst[name] = difference
    return Comparison(differences=tuple(worst.values()), cases=len(reference))


def bound_of(step: Pass, dtype_name: str) -> float:
    """The largest error a pass may cause at its declared exactness, for an output of this type."""
    if step.exactness is Exactness.BITWISE:
        return 0.0
    if step.exactness is Exactness.LOSSY:
        return step.max_distortion
    return ROUNDING_TOLERANCE.get(dtype_name, 0.0)


def _difference(name: str, expected: Array, found: Array) -> Difference:
    if expected.shape != found.shape:
        return Difference(name, np.inf, np.inf, f"shape {list(found.shape)}, expected {list(expected.shape)}")
    if expected.dtype != found.dtype:
        return Difference(name, np.inf, np.inf, f"type {found.dtype}, expected {expected.dtype}")
    if expected.size == 0:
        return Difference(name, 0.0, 0.0)
    if expected.dtype.kind not in "fc" and expected.dtype.name != "bfloat16":
        same = bool(np.array_equal(expected, found))
        return Difference(
            name, 0.0 if same else np.inf, 0.0 if same else np.inf, "" if same else "values differ"
        )
    return _float_difference(name, expected.astype(np.float64), found.astype(np.float64))


def _float_difference(name: str, expected: Array, found: Array) -> Difference:
    a, b = np.asarray(expected, np.float64), np.asarray(found, np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(
        a[~finite], b[~finite], equal_nan=True
    ):
        return Difference(name, np.inf, np.inf, "infinities or NaNs at different places")
    if not finite.any() or np.array_equal(a, b, equal_nan=True):
        return Difference(name, 0.0, 0.0)
    scale = max(float(np.sqrt(np.mean(a[finite] ** 2))), TINY_RMS)
    error = np.abs(a[finite] - b[finite])
    return Difference(name, float(error.max()) / scale, float(np.sqrt(np.mean(error**2))) / scale)
