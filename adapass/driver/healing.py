"""``--heal``: cut and heal the clean model first; the other families are then searched on what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import onnx_ir as ir

from adapass.budgeted import BudgetedPass
from adapass.cache import Json
from adapass.data import Dataset
from adapass.defaults import STRUCTURAL
from adapass.driver.clean import HEAL
from adapass.driver.context import Context
from adapass.errors import DataError, UsageError
from adapass.facts import FactCache
from adapass.graph.digest import digest
from adapass.graph.packed import pack_model, unpack_model
from adapass.graph.text import clone
from adapass.search.candidates import Search
from adapass.search.plan import Plan
from adapass.search.staged import Base, staged
from adapass.search.trials import Candidate, Trials
from adapass.text_form import build_pass, parse_pass

KIND = "healing-steps"


def structural_families(context: Context) -> list[BudgetedPass]:
    """Those of the run that cut; the usual ones where it has none.

    Raises:
        UsageError: all of them are to be skipped.

    """
    own = [step for step in context.families if step.structural]
    usual = [parse_pass(text) for text in STRUCTURAL]
    skipped = context.request.skip_passes
    found = own or [s for s in usual if isinstance(s, BudgetedPass) and s.name not in skipped]
    if not found:
        raise UsageError("--heal trains what is left of a cut model, and every pass that cuts is skipped")
    return found


def healed_base(context: Context, trials: Trials, seconds: float) -> Base | None:
    """The clean model cut and healed as boldly as the budget allows; ``None`` where healing does not reach.

    Raises:
        UsageError: torch is not installed.
        ModelError: an operator of the model has no torch twin.

    """
    _check_twin(context.clean)
    families = structural_families(context)
    search = Search(trials, families, context.request.effort.rounds, context.progress)
    return staged(
        trials, search.priced(), HealsHere(context, trials.evaluations.fit), seconds, classes=search.classes
    )


def behind(base: Base, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates found on a healed model, with all that made it in front of their plans."""
    return [replace(c, plan=Plan((*base.plan.parts, *c.plan.parts))) for c in candidates]


def _check_twin(model: ir.Model) -> None:
    """Refuse before anything long begins."""
    from adapass.twin.build import build_twin

    build_twin(model)


@dataclass(frozen=True)
class HealsHere:
    """Trains in this process; results and the state of an interrupted training are kept with the run."""

    context: Context
    samples: Dataset

    def step(self, model: ir.Model, seconds: float) -> BudgetedPass:
        """As many steps as take about ``seconds``: measured once, and replayed where measurements are."""
        from adapass.healing.heal import steps_within
        from adapass.healing.settings import Settings

        request, cache = self.context.request, self.context.cache
        key: Json = {
            "model": digest(model),
            "machine": self.context.machine,
            "threads": request.threads,
            "seconds": round(seconds, 3),
            "samples": len(self.samples),
            "seed": request.seed,
        }
        known = cache.get(KIND, key)
        if known is not None and (isinstance(known, bool) or not isinstance(known, int) or known < 1):
            raise DataError(f"the cache of measurements holds {known!r} healing steps; remove that entry")
        if known is None:
            settings = Settings(threads=request.threads)
            known = steps_within(
                self.context.clean, model, self.samples, settings, seconds=seconds, seed=request.seed
            )
            cache.put(KIND, key, known)
        step = build_pass(HEAL, {"steps": int(known), "threads": request.threads, "seed": request.seed})
        assert isinstance(step, BudgetedPass)  # the registry's own
        return step

    def heal(self, model: ir.Model, step: BudgetedPass, note: str) -> ir.Model:
        """Train, or read what an interrupted run had trained."""
        context = self.context
        name = f"{digest(model)}|{digest(context.clean)}|{step}|{context.fingerprint}"
        entry = context.store.packed("healed", name)
        known = entry.read()
        if known is not None and not isinstance(known, str):
            return unpack_model(known)
        healed = self._train(model, step, note, entry.path)
        entry.write(pack_model(healed))
        return healed

    def _train(self, model: ir.Model, step: BudgetedPass, note: str, place: Path | None) -> ir.Model:
        from adapass.healing.heal import heal
        from adapass.healing.weights import take_weights

        context, options = self.context, step.options()
        steps = int(cast("int", options["steps"]))
        context.progress.step(0, steps, note)
        healed = clone(model)
        facts = FactCache(healed)
        step.apply(healed, facts, step.propose(healed, facts).choices)
        checkpoint = None if place is None else place.with_suffix(".checkpoint.npz")
        if checkpoint is not None:
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
        found = heal(
            context.clean,
            healed,
            self.samples,
            steps=steps,
            seed=context.request.seed,
            threads=context.request.threads,
            progress=context.progress,
            checkpoint=checkpoint,
        )
        take_weights(healed, found.model)
        return healed
