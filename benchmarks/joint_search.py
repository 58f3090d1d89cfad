"""The joint allocation against each family alone and against families one after the other.

    python -m benchmarks.joint_search [minilm-sst2] [resnet56-cifar10]

For every budget each strategy gets the same fits, the same search samples and the same loss to spend:

    joint               one allocation over all families (what ``adapass optimize`` does)
    a family            that one alone: fewer blocks, 8 bits, or exits
    a, b, c             a for itself first, b with what it left of the budget, then c

The winners are built in every variant and timed in turns in one process; quality is taken on the certify part
 of the evaluation data, which no strategy has seen. Needs an idle machine.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path

import numpy as np

from adapass.artifact.plain import PlainRunner
from adapass.budgeted import Array, BudgetedPass, OperatingPoint
from adapass.cost.measure import interleaved
from adapass.driver.choosing import SEARCH_SHARE, trials_of
from adapass.driver.context import Context
from adapass.driver.finals import ORIGINAL, Build, at_point, build_all, knob_feeds
from adapass.driver.optimize import open_context
from adapass.driver.request import Request
from adapass.generator import Runner
from adapass.graph.digest import digest
from adapass.machine import fingerprint
from adapass.progress import Silent
from adapass.search.candidates import Search
from adapass.search.joint import JointProblem, Rates
from adapass.search.judge import Judge, stack_outputs
from adapass.search.plan import tunes
from adapass.search.statics import StaticOption
from adapass.search.trials import Candidate, Trials, describe
from benchmarks.harness import shared_folder, write_results

DATA = {"minilm-sst2": "sst2", "resnet56-cifar10": "cifar10"}
THREADS = 2
BUDGETS = (0.01, 0.02)
ROUNDS = 8


@dataclass(frozen=True, slots=True)
class Result:
    """What a strategy ends with at one budget."""

    strategy: str
    budget: float
    plan: str
    seconds: float
    search_loss: float
    fresh_loss: float

    def to_json(self) -> dict[str, object]:
        return {
            "strategy": self.strategy,
            "budget": self.budget,
            "plan": self.plan,
            "seconds": self.seconds,
            "search_loss": self.search_loss,
            "fresh_loss": self.fresh_loss,
        }


def strategies(context: Context, trials: Trials, allowed: float) -> dict[str, Candidate | None]:
    """The best candidate of each strategy that may lose ``allowed`` on the search samples."""
    static = [step for step in context.families if not tunes(step)]
    knobs = [step for step in context.families if tunes(step)]
    own = _fresh(trials, allowed)
    found = {"joint": _searched(context, own, context.families)}
    for step in context.families:
        found[step.name] = _searched(context, _fresh(trials, allowed), [step])
    for order in permutations(static):
        name = ", ".join(step.name for step in (*order, *knobs))
        found[name] = _one_after_the_other(context, _fresh(trials, allowed), order, knobs[0])
    found[", ".join(step.name for step in (*knobs, *static))] = _exits_first(own)
    return found


def _searched(context: Context, own: Trials, families: Sequence[BudgetedPass]) -> Candidate | None:
    found = Search(own, families, context.request.effort.rounds, Silent()).run()
    return next((c for c in found if c.plan.parts), None)


def _one_after_the_other(
    context: Context, own: Trials, order: Sequence[BudgetedPass], knobs: BudgetedPass
) -> Candidate | None:
    """Each family takes as much as the budget allows of what the ones before it have left."""
    own.predictor.anchor(own.clean().model)
    taken: list[StaticOption] = []
    best: Candidate | None = None
    for step in order:
        search = Search(own, [step], context.request.effort.rounds, Silent())
        options = search.priced()
        whole = JointProblem((*taken, *options), (), Rates(1.0), search.classes)
        search.bracketed([option for option in options if whole.allows([*taken, option])], taken)
        kept = [c for c in own.found if c.plan.parts and own.keeps(c)]
        if not kept:
            continue
        best = min(kept, key=lambda c: (c.seconds.seconds, describe(c.plan)))
        keys = {choice.key for part in best.plan.parts for choice in part.choices}
        taken = [option for option in (*taken, *options) if option.choice.key in keys]
    if (settled := own.settle(knobs)) is not None:
        # The sites that pay, as for everybody else; but thresholds are sought for this model alone.
        own.settled[str(knobs)] = replace(settled, points=())
    both = own.try_plan(taken, knobs)
    return own.trimmed(both) if both is not None else best


def _exits_first(own: Trials) -> Candidate | None:
    """Thresholds are settled on the clean model; then the fastest static part that stays within the budget.

    ``own`` holds what the joint search tried, static parts of several sizes among it.
    """
    exits = [c for c in own.found if c.points and len(c.plan.parts) == 1]
    if not exits:
        return None
    settled = min(exits, key=lambda c: c.seconds.seconds)
    thresholds = settled.points[-1]
    within: list[Candidate] = [settled]
    for candidate in own.found:
        if len(candidate.plan.parts) > 1 and candidate.plan.knobs == settled.plan.knobs:
            turned = _turned(candidate, thresholds, own)
            if turned.loss <= own.allowed:
                within.append(turned)
    return min(within, key=lambda c: c.seconds.seconds)


def _turned(candidate: Candidate, point: OperatingPoint, trials: Trials) -> Candidate:
    """The candidate at thresholds that were chosen for another model."""
    services = trials.services
    model = at_point(candidate.model, point)
    loss = float(np.mean(services.losses(trials.evaluations.outputs(model))))
    return replace(candidate, loss=loss, points=(replace(point, loss=loss),))


def _fresh(trials: Trials, allowed: float) -> Trials:
    """Nothing tried yet; fits and outputs are shared through the store."""
    proving = replace(trials.proving, max_drop=allowed / SEARCH_SHARE)
    return replace(trials, allowed=allowed, proving=proving, found=[], notes=[], tried={}, settled={})


def measured(
    context: Context, winners: Mapping[str, Candidate], judge: Judge, scratch: Path
) -> dict[str, tuple[float, float]]:
    """Seconds (of the fastest variant, all in turns) and loss on fresh samples, of the original too.

    Strategies that end with the same model at the same thresholds share one measurement.
    """
    same = {name: _identity(candidate) for name, candidate in winners.items()}
    firsts = {identity: name for name, identity in reversed(same.items())}
    builds = {
        name: _built(context, winners[name], scratch / str(i)) for i, name in enumerate(firsts.values())
    }
    runners: dict[str, Runner] = {ORIGINAL: PlainRunner(context.material.path, threads=THREADS)}
    try:
        for name, own in builds.items():
            for build in own:
                runners[f"{name} {build.variant.name}"] = build.generator.load(build.folder, threads=THREADS)
        contestants = {name: runner.run for name, runner in runners.items()}
        timed = interleaved(contestants, context.feeds(2), rounds=ROUNDS, warmup=2)
    finally:
        for runner in runners.values():
            runner.close()
    found = {ORIGINAL: (timed[ORIGINAL].mean, 0.0)}
    for name, own in builds.items():
        seconds = {build.variant.name: timed[f"{name} {build.variant.name}"].mean for build in own}
        best = min(own, key=lambda build: seconds[build.variant.name])
        found[name] = (seconds[best.variant.name], _loss(best, judge))
    return {**{name: found[firsts[identity]] for name, identity in same.items()}, ORIGINAL: found[ORIGINAL]}


def _identity(candidate: Candidate) -> str:
    knobs: Mapping[str, Array] = candidate.points[-1].knobs if candidate.points else {}
    return f"{digest(candidate.model)}|{ {name: value.tolist() for name, value in knobs.items()} }"


def _built(context: Context, candidate: Candidate, folder: Path) -> list[Build]:
    folder.mkdir(parents=True)
    material = context.material
    return build_all(
        [candidate], material.generators, material.target, threads=THREADS, batch=1, scratch=folder
    )


def _loss(build: Build, judge: Judge) -> float:
    point = build.candidate.points[-1] if build.candidate.points else None
    output = build.candidate.model.graph.outputs[0].name or ""
    runner = build.generator.load(build.folder, threads=THREADS)

    def one(index: int) -> Array:
        return runner.run(knob_feeds(judge.samples.feeds(index), point)).outputs[output]

    try:
        rows = stack_outputs(judge.samples, one)
    finally:
        runner.close()
    return float(np.mean(judge.losses(rows)))


def run_model(name: str, budgets: Sequence[float], scratch: Path) -> list[Result]:
    """All strategies at all budgets."""
    model = shared_folder() / "models" / f"{name}.onnx"
    fit, held_out = (shared_folder() / "data" / f"{DATA[name]}_{part}.npz" for part in ("fit", "eval"))
    request = Request(threads=THREADS, max_drop=max(budgets), output=scratch / f"{name}.adapass")
    results: list[Result] = []
    with open_context(model, request, fit, held_out, scratch, Silent()) as context:
        parts = context.material.parts
        assert parts is not None
        search_judge = context.judge("search", parts.search)
        trials = trials_of(context, parts, search_judge)
        winners: dict[str, Candidate] = {}
        for budget in budgets:
            for strategy, found in strategies(context, trials, SEARCH_SHARE * budget).items():
                if found is not None:
                    winners[f"{strategy} @ {budget}"] = found
                    print(
                        name,
                        strategy,
                        budget,
                        found.plan,
                        f"{1e3 * found.seconds.seconds:.3f} ms",
                        flush=True,
                    )
        timed = measured(context, winners, context.judge("certify", parts.certify), scratch / "builds")
        for key, candidate in winners.items():
            strategy, _, budget_text = key.partition(" @ ")
            seconds, fresh = timed[key]
            plan = str(candidate.plan)
            results.append(Result(strategy, float(budget_text), plan, seconds, candidate.loss, fresh))
        results.append(Result(ORIGINAL, 0.0, "", timed[ORIGINAL][0], 0.0, 0.0))
    return results


def table(name: str, results: Sequence[Result]) -> str:
    original = next(r.seconds for r in results if r.strategy == ORIGINAL)
    head = f"{name} (original {1e3 * original:.3f} ms)"
    rows = [
        f"{r.strategy:44} budget {100 * r.budget:4.1f} points  {1e3 * r.seconds:7.3f} ms "
        f"{r.seconds / original:5.2f}x  search {100 * r.search_loss:+5.2f}  "
        f"fresh {100 * r.fresh_loss:+5.2f}  {r.plan}"
        for r in sorted(results, key=lambda r: (r.budget, r.seconds))
        if r.strategy != ORIGINAL
    ]
    return "\n".join([head, *rows])


def main() -> int:
    parser = argparse.ArgumentParser(description="The joint allocation against its alternatives.")
    parser.add_argument("models", nargs="*", default=list(DATA))
    parser.add_argument(
        "--budgets", type=float, nargs="+", default=list(BUDGETS), help="Shares, 0.01 a point."
    )
    arguments = parser.parse_args()
    found: dict[str, list[Result]] = {}
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = run_model(name, arguments.budgets, Path(folder))
    document = {
        "machine": fingerprint(THREADS).to_json(),
        "search_share": SEARCH_SHARE,
        "models": {name: [r.to_json() for r in results] for name, results in found.items()},
    }
    write_results("joint_search", document, "\n\n".join(table(name, r) for name, r in found.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
