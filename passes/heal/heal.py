"""Train what is left of a model to do what the original does, as one step of a plan.

    w [C, D], as a cut and its closed-form fit have left it   ->   w' [C, D], distilled from the original

A plan that cuts first and heals then can be repeated like any other: the number of steps and threads are
options, and the same samples, seed and options give the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import onnx_ir as ir

from adapass.budgeted import BudgetedPass, Choice, Proposal, Samples
from adapass.errors import DataError, UsageError
from adapass.facts import FactCache
from adapass.rewrite import PassResult

SITE = "weights"
SETTING = "distill"
MARK = "adapass.healed"
"""Metadata key of a model that was healed."""


@dataclass(frozen=True, kw_only=True)
class Heal(BudgetedPass):
    """Weights of the whole model are distilled from the original on unlabeled samples.

    ``adapass optimize --heal`` decides when, and for how many steps. Needs the ``torch`` extra.
    """

    name: ClassVar[str] = "heal"
    max_distortion: ClassVar[float] = 2.0
    """It moves the output back by as much as what came before it has moved it away."""
    source: ClassVar[str] = "Hinton et al. 2015, arXiv:1503.02531"

    steps: int = 1000
    """Batches to learn from."""
    threads: int = 1
    """Of torch; another number rounds differently."""
    seed: int = 0
    """Of the order of the samples and of how they are varied."""

    def __post_init__(self) -> None:
        for name in ("steps", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")

    def propose(self, model: ir.Model, facts: FactCache) -> Proposal:
        del model, facts
        return Proposal((Choice(self.name, SITE, SETTING),))

    def apply(self, model: ir.Model, facts: FactCache, choices: Sequence[Choice]) -> PassResult:
        """Note that the model is healed; the weights change in ``fit_to``.

        Raises:
            UsageError: a choice names anything else than the weights.

        """
        del facts
        wrong = [choice.key for choice in choices if (choice.site, choice.setting) != (SITE, SETTING)]
        if wrong:
            raise UsageError(f"this model has no choice {wrong[0]}; propose() lists sites and settings")
        if not choices:
            return PassResult(0)
        rounds = int(model.metadata_props.get(MARK, "0")) + 1
        model.metadata_props[MARK] = str(rounds)
        return PassResult(1, MappingProxyType({}), (SITE,))

    def fit(self, model: ir.Model, data: Samples | None) -> None:
        """Healing has to know what the model should do.

        Raises:
            UsageError: always; plans call ``fit_to``.

        """
        del model, data
        raise UsageError(
            "heal trains a cut model to do what the original does, and needs the original: use it in a plan "
            "(adapass optimize --heal 10m), or call adapass.healing.heal(original, rewritten, samples)"
        )

    def fit_to(self, model: ir.Model, data: Samples | None, original: ir.Model) -> None:
        """Distil ``original`` into ``model``.

        Raises:
            DataError: there is no data.
            UsageError: torch is not installed.
            ModelError: an operator has no torch twin.

        """
        from adapass.healing.heal import heal
        from adapass.healing.weights import take_weights

        if data is None:
            raise DataError("heal: weights are trained on samples and no data was given; give data")
        healed = heal(original, model, data, steps=self.steps, seed=self.seed, threads=self.threads)
        take_weights(model, healed.model)
