"""Predicted against measured damage of pruning: random plans of prune-structures on the trained models.

    python -m benchmarks.pruning_damage [minilm-sst2] [resnet56-cifar10] [--plans 100] [--samples 96]

Predicted is what the allocator adds up: the damage of each choice alone. Measured is the damage of the whole
plan, cut and fitted, on samples nothing was fitted on. Plans are random: each layer is cut with one chance
for all layers of a plan, drawn anew for each plan, to any of its widths. Few calibration samples keep the run
short; predictions and fits get the same ones. What is measured is noted plan by plan (``--state``), so that a
run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from adapass.budgeted import Choice
from adapass.coupling.groups import Coupling, Group
from adapass.coupling.remove import remove
from adapass.executor.threads import one_thread
from adapass.facts import FactCache
from adapass.graph.text import clone
from adapass.machine import fingerprint
from adapass.moments.batches import Batches, spread
from adapass.passes.prune.importance import Order, removals
from adapass.passes.prune.prune_structures import PruneStructures
from adapass.passes.prune.refit import refit
from adapass.search.damage import damage_of
from benchmarks.harness import write_results
from benchmarks.trained import DATA, Doubles, Trained, outputs

NAME = "pruning_damage"
MEASURED = 256
WANTED = 0.9


@dataclass(frozen=True, slots=True)
class Plan:
    """One random plan: predicted by summing, measured as a whole."""

    model: str
    number: int
    choices: int
    predicted_divergence: float
    measured_divergence: float
    predicted_square: float
    """Sum of squared distortions."""
    measured_square: float
    chosen: Sequence[str] = ()
    """Keys of the choices."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What all plans of a model share: choices with their damage, and in which order units go."""

    trained: Trained
    step: PruneStructures
    choices: tuple[Choice, ...]
    divergence: Mapping[str, float]
    square: Mapping[str, float]
    groups: Mapping[str, Group]
    orders: Mapping[str, Order]
    batches: Batches
    reference: Doubles
    """What the clean model says on the held-out samples."""

    @classmethod
    def of(cls, name: str, samples: int) -> Bench:
        trained = Trained.load(name, MEASURED)
        step = PruneStructures(samples=samples, measured=MEASURED)
        facts = FactCache(trained.clean)
        choices = step.propose(trained.clean, facts).choices
        some = trained.fit.subset(spread(len(trained.fit), max(samples + MEASURED, 4 * MEASURED)))
        damages = step.damages(trained.clean, facts, choices, some)
        divergence = {key: damage.additive(classes=True) for key, damage in damages.items()}
        square = {key: damage.additive(classes=False) for key, damage in damages.items()}
        sites = {choice.site for choice in choices}
        groups = {group.key: group for group in facts.get(Coupling).groups if group.key in sites}
        stops = {key: {_width(c) for c in choices if c.site == key} for key in groups}
        batches = Batches.of(
            trained.clean, some, count=samples, rows_each=step.rows, facts=facts, padded=True
        )
        with one_thread():
            orders = removals(trained.clean, groups, stops, batches, step.importance)
        reference = outputs(trained.clean, trained.held)
        return cls(trained, step, choices, divergence, square, groups, orders, batches, reference)

    def measure(self, number: int) -> Plan:
        """Cut and fit plan ``number`` as ``fit`` of the pass does, the orders known."""
        chosen = _random_plan(self.choices, number)
        kept = {
            c.site: self.orders[c.site].removal.kept(_width(c), self.groups[c.site].units) for c in chosen
        }
        original, pruned = clone(self.trained.clean), clone(self.trained.clean)
        remove(pruned, kept)
        cut = [group for key, group in self.groups.items() if key in kept]
        refit(original, pruned, cut, kept, self.batches, which=self.step.refit, ridge=self.step.ridge)
        damage = damage_of(self.reference, outputs(pruned, self.trained.held))
        return Plan(
            self.trained.name,
            number,
            len(chosen),
            sum(self.divergence[c.key] for c in chosen),
            damage.additive(classes=True),
            sum(self.square[c.key] for c in chosen),
            damage.additive(classes=False),
            tuple(c.key for c in chosen),
        )


def _random_plan(choices: Sequence[Choice], number: int) -> list[Choice]:
    """At least one choice; how many is drawn first, so that plans of all strengths come up."""
    rng = np.random.default_rng([2024, number])
    chance = rng.uniform(0.05, 1.0)
    sites: dict[str, list[Choice]] = {}
    for choice in choices:
        sites.setdefault(choice.site, []).append(choice)
    drawn = [(rng.random() < chance, offered[int(rng.integers(len(offered)))]) for offered in sites.values()]
    chosen = [choice for taken, choice in drawn if taken]
    return chosen or [drawn[int(rng.integers(len(drawn)))][1]]


def _width(choice: Choice) -> int:
    return int(str(choice.detail["kept"]))


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's."""
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


def summary(plans: Sequence[Plan], plan_count: int) -> tuple[dict[str, object], str]:
    """What is found, as JSON and as a table."""
    lines = [
        f"{'model':<20}{'plans':>7}{'rank corr. (divergence)':>26}{'(squared distortion)':>24}"
        f"{'measured / predicted':>24}"
    ]
    models: dict[str, object] = {}
    for name in dict.fromkeys(plan.model for plan in plans):
        own = [plan for plan in plans if plan.model == name][:plan_count]
        divergence = rank_correlation(
            [plan.predicted_divergence for plan in own], [plan.measured_divergence for plan in own]
        )
        square = rank_correlation(
            [plan.predicted_square for plan in own], [plan.measured_square for plan in own]
        )
        ratio = float(np.median([plan.measured_divergence / plan.predicted_divergence for plan in own]))
        lines.append(f"{name:<20}{len(own):>7}{divergence:>26.3f}{square:>24.3f}{ratio:>24.2f}")
        models[name] = {
            "plans": [asdict(plan) for plan in own],
            "rank_correlation_divergence": divergence,
            "rank_correlation_squared_distortion": square,
            "median_measured_over_predicted": ratio,
        }
    return models, "\n".join(lines)


def _known(file: Path, samples: int) -> list[Plan]:
    if not file.exists():
        return []
    entries = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [Plan(**entry["plan"]) for entry in entries if entry["samples"] == samples]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Predicted against measured damage of random plans.")
    parser.add_argument("models", nargs="*", default=list(DATA), help=f"of {', '.join(DATA)}")
    parser.add_argument("--plans", type=int, default=100)
    parser.add_argument("--samples", type=int, default=192, help="calibration samples")
    default = Path(tempfile.gettempdir()) / f"adapass-{NAME}.jsonl"
    parser.add_argument("--state", type=Path, default=default, help="where finished plans are noted")
    given = parser.parse_args(arguments)
    state: Path = given.state
    for name in given.models:
        started = time.monotonic()
        done = {plan.number for plan in _known(state, given.samples) if plan.model == name}
        missing = [number for number in range(given.plans) if number not in done]
        bench = Bench.of(name, given.samples) if missing else None
        for number in missing if bench is not None else ():
            assert bench is not None
            plan = bench.measure(number)
            with state.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"samples": given.samples, "plan": asdict(plan)}) + "\n")
        sys.stderr.write(f"{name}: {len(missing)} plans in {time.monotonic() - started:.0f} s\n")
    report(_known(state, given.samples), given.plans, given.samples)
    return 0


def report(plans: Sequence[Plan], plan_count: int, samples: int) -> None:
    """Write the results, with what they were taken with."""
    found, text = summary(plans, plan_count)
    machine = fingerprint(1)
    heading = (
        f"{NAME}: predicted (sum of the choices' damages) against measured damage of random plans\n"
        f"{samples} calibration samples, measured on {MEASURED} held-out samples; wanted {WANTED}\n"
        f"machine {machine.processor}, {machine.cores} cores"
    )
    result = {"models": found, "samples": samples, "held_out": MEASURED, "machine": machine.key}
    write_results(NAME, result, f"{heading}\n\n{text}")


if __name__ == "__main__":
    sys.exit(main())
