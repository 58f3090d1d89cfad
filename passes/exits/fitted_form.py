"""A fitted head as plain arrays: what travels between processes and lies on disk."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from adapass.budgeted import Array, SiteFit
from adapass.errors import ModelError
from adapass.passes.exits.fit_heads import Winner
from adapass.passes.exits.heads import HeadKind, HeadSpec
from adapass.passes.exits.solvers import Affine, Fitted

NAMES = ("kind", "features", "weight", "bias", "queries", "numbers", "readiness")


def pack(winner: Winner) -> SiteFit:
    """``queries`` is empty for a head without; ``numbers`` are cross-entropy, disagreement, strength."""
    spec, fitted = winner.spec, winner.fitted
    queries = np.zeros((0, 0), np.float32) if winner.queries is None else winner.queries
    return {
        "kind": np.asarray(spec.kind.value),
        "features": np.asarray(spec.features),
        "weight": fitted.head.weight,
        "bias": fitted.head.bias,
        "queries": queries,
        "numbers": np.asarray(
            [fitted.cross_entropy, fitted.disagreement, fitted.strength, spec.queries], np.float64
        ),
        "readiness": np.asarray(fitted.readiness, np.float64),
    }


def unpack(fit: SiteFit) -> Winner:
    """Read what ``pack`` wrote.

    Raises:
        ModelError: an array is missing or of the wrong kind.

    """
    _check(fit)
    cross_entropy, disagreement, strength, queries = (float(n) for n in fit["numbers"])
    head = Affine(np.asarray(fit["weight"], np.float32), np.asarray(fit["bias"], np.float32))
    spec = HeadSpec(HeadKind(str(fit["kind"])), str(fit["features"]), int(queries))
    learned = np.asarray(fit["queries"], np.float32) if fit["queries"].size else None
    slope, offset = (float(n) for n in fit["readiness"])
    return Winner(spec, Fitted(head, cross_entropy, disagreement, strength, (slope, offset)), learned)


def _check(fit: Mapping[str, Array]) -> None:
    for name in NAMES:
        if name not in fit:
            raise ModelError(f"a fitted head has no '{name}'; fit the exits again")
    if str(fit["kind"]) not in list(HeadKind):
        raise ModelError(f"a fitted head is of unknown kind '{fit['kind']}'; fit the exits again")
    for name in ("weight", "bias", "queries", "numbers", "readiness"):
        if fit[name].dtype.kind != "f" or not np.isfinite(fit[name]).all():
            raise ModelError(f"'{name}' of a fitted head is not all finite numbers; fit the exits again")
    if fit["numbers"].shape != (4,):
        raise ModelError(f"'numbers' of a fitted head has shape {fit['numbers'].shape}, expected (4,)")
    if fit["readiness"].shape != (2,):
        raise ModelError(f"'readiness' of a fitted head has shape {fit['readiness'].shape}, expected (2,)")
