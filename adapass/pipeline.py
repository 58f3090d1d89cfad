"""A pipeline is a value: a tuple of passes with a text form. Running it verifies after every pass.

After each pass that reports a change: structure (ONNX checker, types, shapes), then numbers,
against the model before the pass, at the exactness the pass declares. A pass that reports no
change must have left every byte of the graph alone. What fails is named: the pass, its options,
the passes before it, and what differed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import onnx_ir as ir

from adapass.budgeted import Array, BudgetedPass, Feeds, Samples
from adapass.errors import AdapassError, DataError, ModelError, VerificationError
from adapass.facts import FactCache
from adapass.graph.check import check_structure
from adapass.graph.digest import digest
from adapass.graph.text import clone
from adapass.observe import Observer, Step
from adapass.rewrite import Exactness, Pass, PassResult
from adapass.text_form import parse_passes
from adapass.verification import Comparison, bound_of, compare_outputs, run_all, usable_feeds

CHECKED_SAMPLES = 4


class PassError(VerificationError):
    """A pass broke the model, lied about changing it, or raised. Carries what bisection needs."""

    def __init__(self, step: Step, before: Sequence[Pass], why: str, sites: Sequence[str] = ()) -> None:
        earlier = ", ".join(str(p) for p in before) or "none"
        super().__init__(
            f"pass '{step.step}' (number {step.index + 1} of {step.total}) {why}. "
            f"Passes before it: {earlier}. "
            "`adapass bisect` narrows it down and writes a reproducer."
        )
        self.culprit = step.step
        self.index = step.index
        self.why = why
        self.sites = tuple(sites)


class TooLossyError(PassError):
    """A lossy pass moved an output further than it declares it may: broken, or too much was asked of it."""


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """The rewritten model, and what each pass did."""

    model: ir.Model
    results: tuple[PassResult, ...]

    @property
    def changed(self) -> bool:
        return any(result.changed for result in self.results)


@dataclass(frozen=True, init=False)
class Pipeline:
    """Passes in order. ``str(pipeline)`` parses back with ``Pipeline.parse``."""

    passes: tuple[Pass, ...]

    def __init__(self, passes: Iterable[Pass] = ()) -> None:
        object.__setattr__(self, "passes", tuple(passes))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text form.

        Raises:
            RecipeError: see ``adapass.text_form``.

        """
        return cls(parse_passes(text))

    def __str__(self) -> str:
        return ",".join(str(p) for p in self.passes)

    def run(
        self,
        model: ir.Model,
        *,
        data: Samples | None = None,
        feeds: Sequence[Feeds] | None = None,
        observers: Sequence[Observer] = (),
        verify: bool = True,
        seed: int = 0,
    ) -> PipelineResult:
        """Run all passes on a copy of ``model``; the argument is left as it is.

        Numbers are checked on ``feeds``, else on some of ``data``, else on generated inputs of
        several shapes and batch sizes. ``verify=False`` is for bisection and for the search, which
        checks whole plans itself.

        Raises:
            PassError: a pass raised, lied, or broke the model.
            DataError: a pass needs data to fit on and there is none.

        """
        current = clone(model)
        checker = _Checker(current, feeds, data, seed) if verify else None
        facts = FactCache(current)
        results: list[PassResult] = []
        for index, step in enumerate(self.passes):
            watched = Step(index, len(self.passes), step)
            for observer in observers:
                observer.before(watched, current)
            result = self._run_one(watched, current, facts, data, model)
            for observer in observers:
                observer.after(watched, current, result)
            comparison = checker.check(watched, self.passes[:index], current, result) if checker else None
            if result.changed:
                facts.keep_only(step.preserves)
            for observer in observers:
                observer.checked(watched, comparison)
            results.append(result)
        return PipelineResult(current, tuple(results))

    def _run_one(
        self, step: Step, model: ir.Model, facts: FactCache, data: Samples | None, original: ir.Model
    ) -> PassResult:
        try:
            result = step.step.run(model, facts)
            if isinstance(step.step, BudgetedPass) and result.changed:
                step.step.fit_to(model, data, original)
        except AdapassError:
            raise
        except Exception as error:
            # Passes are foreign code here (plugins, wrapped library passes): what they raise is a bug.
            raise PassError(
                step, self.passes[: step.index], f"raised {type(error).__name__}: {error}"
            ) from error
        return result


class _Checker:
    """Compares each model of a run with the one before it, running every model once."""

    def __init__(
        self, model: ir.Model, feeds: Sequence[Feeds] | None, data: Samples | None, seed: int
    ) -> None:
        self._feeds = feeds if feeds is not None else _sample_feeds(data) or usable_feeds(model, seed=seed)
        self._outputs: list[dict[str, Array]] = run_all(model, self._feeds)
        self._digest = digest(model)
        self._model = clone(model)

    def check(
        self, step: Step, before: Sequence[Pass], model: ir.Model, result: PassResult
    ) -> Comparison | None:
        new_digest = digest(model)
        if not result.changed:
            if new_digest != self._digest:
                raise PassError(step, before, "says it changed nothing, but the graph is different")
            return None
        if new_digest == self._digest:
            raise PassError(
                step, before, f"says it applied {result.applied} times, but the graph is the same"
            )
        try:
            check_structure(model)
            outputs = run_all(model, self._feeds)
            comparison = compare_outputs(self._outputs, outputs)
        except (VerificationError, ModelError, DataError) as error:
            raise PassError(step, before, f"left a model that is not valid: {error}", result.sites) from error
        self._judge(step, before, comparison, result)
        if isinstance(step.step, BudgetedPass):
            self._look_closer(step.step, step, before, model, result)
        self._model = clone(model)
        self._digest, self._outputs = new_digest, outputs
        return comparison

    def _look_closer(
        self, family: BudgetedPass, step: Step, before: Sequence[Pass], model: ir.Model, result: PassResult
    ) -> None:
        try:
            family.check(self._model, model, self._feeds)
        except (VerificationError, ModelError, DataError) as error:
            raise PassError(step, before, f"does not keep its word: {error}", result.sites) from error

    def _judge(self, step: Step, before: Sequence[Pass], comparison: Comparison, result: PassResult) -> None:
        for difference in comparison.differences:
            dtype = self._outputs[0][difference.output].dtype.name
            bound = bound_of(step.step, dtype)
            if difference.within(step.step.exactness, bound):
                continue
            found = (
                difference.note
                or f"relative error {difference.relative_max:.3g} (RMS {difference.relative_rms:.3g})"
            )
            declared = f"declares '{step.step.exactness}' (at most {bound:g})"
            why = f"{declared} but output '{difference.output}' has {found}"
            kind = TooLossyError if step.step.exactness is Exactness.LOSSY else PassError
            raise kind(step, before, why, result.sites)


def _sample_feeds(data: Samples | None) -> list[Feeds]:
    """A few real samples alone, and the same ones as a batch where the model takes batches."""
    if data is None or len(data) == 0:
        return []
    indices = list(range(min(CHECKED_SAMPLES, len(data))))
    single = [data.feeds(i) for i in indices]
    try:
        return [*single, data.batch(indices)]
    except DataError:
        return single
