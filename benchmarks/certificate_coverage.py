"""Does the certificate keep its promise, and how often does it say yes?

Coverage: certify sets are drawn again and again from populations whose true drops are known; each set goes
through the whole procedure (fixed sequence of candidates, first failure stops), and a run is *wrong* when the
chosen candidate's true drop is over the budget. The share of wrong runs must stay below 5 % plus binomial
noise. The populations are chosen to hurt: the first candidate over the budget is over it by a hair.

Power: how often a candidate with room to spare is certified, next to the betting bound on the same samples
and to a normal test that is told the true variance (no valid test can do much better).

    python benchmarks/certificate_coverage.py [--runs 2000]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from adapass.certify import Losses, Metric, certify, p_value
from adapass.certify.betting import betting_p_value

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.95
HAIR = 1.0001
"""The first candidate over the budget has this multiple of it as its true drop."""
RESULTS = Path(__file__).parent / "results" / "certificate_coverage.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """A known population and a sequence of candidates on it, safest first."""

    name: str
    samples: int
    budget: float
    metric: Metric
    drops: tuple[float, ...]
    """True drop of each candidate."""
    discordance: float = 0.0
    """Share of samples on which every candidate and the original differ without a net drop, half each way."""
    marks: int = 1
    """Marks a sample (multi-label)."""

    def draw(self, rng: np.random.Generator) -> list[Floats]:
        """Losses of all candidates on one certify set.

        The candidates share a latent hardness for each mark, as candidates from thresholds do: what one gets
        wrong, all more aggressive ones get wrong.
        """
        hardness = rng.random((self.samples, self.marks))
        half = self.discordance / 2
        better = (hardness > 1 - half).astype(np.float64)
        return [((hardness < half + drop) - better).mean(axis=1) for drop in self.drops]


def populations() -> tuple[Population, ...]:
    near = tuple(share * 0.01 for share in (0.1, 0.3, 0.6, HAIR, 1.3, 2.0))
    far = tuple(share * 0.02 for share in (0.0, 0.2, 0.4, HAIR, HAIR, 1.1))
    return (
        Population(name="rare losses", samples=1133, budget=0.01, metric=Metric.ACCURACY, drops=near),
        Population(
            name="discordant", samples=1133, budget=0.02, metric=Metric.ACCURACY, drops=far, discordance=0.03
        ),
        Population(
            name="very discordant",
            samples=3000,
            budget=0.02,
            metric=Metric.ACCURACY,
            drops=far,
            discordance=0.1,
        ),
        Population(
            name="few samples", samples=300, budget=0.02, metric=Metric.ACCURACY, drops=far, discordance=0.005
        ),
        Population(
            name="first one is wrong",
            samples=1133,
            budget=0.02,
            metric=Metric.ACCURACY,
            drops=(0.02 * HAIR, 0.01, 0.03),
            discordance=0.02,
        ),
        Population(name="no labels", samples=1133, budget=0.02, metric=Metric.AGREEMENT, drops=far),
        Population(
            name="ten marks",
            samples=1133,
            budget=0.02,
            metric=Metric.MULTI_LABEL_ACCURACY,
            drops=far,
            discordance=0.03,
            marks=10,
        ),
    )


def wrong_share(population: Population, runs: int, seed: Sequence[int]) -> dict[str, float]:
    """Share of runs that certify a candidate over the budget, and that certify anything."""
    rng = np.random.default_rng(seed)
    wrong = any_ = 0
    for _ in range(runs):
        candidates = (Losses(values, population.metric) for values in population.draw(rng))
        chosen = certify(candidates, population.budget, CONFIDENCE).index
        any_ += chosen is not None
        wrong += chosen is not None and max(population.drops[: chosen + 1]) > population.budget
    return {"wrong": wrong / runs, "certified_something": any_ / runs}


def allowed_share(runs: int) -> float:
    """5 % plus three standard errors."""
    error = 1 - CONFIDENCE
    return error + 3 * math.sqrt(error * (1 - error) / runs)


POWER_CASES = (
    (1100, 0.02, 0.005, 0.03),
    (1100, 0.02, 0.0, 0.03),
    (1100, 0.02, 0.005, 0.02),
    (1100, 0.01, 0.0, 0.01),
    (3000, 0.02, 0.005, 0.03),
    (3000, 0.01, 0.0, 0.03),
    (3000, 0.01, 0.002, 0.02),
)
"""Samples, budget, true drop, discordance (all samples that differ)."""


def power(case: tuple[int, float, float, float], runs: int, seed: Sequence[int]) -> dict[str, float]:
    """Share of certify sets that certify one candidate, by three tests."""
    n, budget, drop, discordance = case
    rng = np.random.default_rng(seed)
    weights = [(discordance + drop) / 2, (discordance - drop) / 2, 1 - discordance]
    variance = discordance + budget - drop - budget**2
    needed = 1.6448536269514722 * math.sqrt(variance / n)
    tests: Mapping[str, Callable[[Losses], bool]] = {
        "exact": lambda losses: p_value(losses, budget, CONFIDENCE) <= 1 - CONFIDENCE,
        "betting": lambda losses: (
            betting_p_value(losses.values, -1.0, budget, 1 - CONFIDENCE) <= 1 - CONFIDENCE
        ),
        "told_the_variance": lambda losses: losses.mean <= budget - needed,
    }
    passed = dict.fromkeys(tests, 0)
    for _ in range(runs):
        losses = Losses(rng.choice([1.0, -1.0, 0.0], n, p=weights), Metric.ACCURACY)
        for name, test in tests.items():
            passed[name] += test(losses)
    return {name: count / runs for name, count in passed.items()}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    limit = allowed_share(options.runs)
    print(f"{options.runs} certify sets each; wrong at most {limit:.4f} allowed\n")
    coverage: dict[str, dict[str, float]] = {}
    for number, population in enumerate(populations()):
        found = coverage[population.name] = wrong_share(population, options.runs, (options.seed, number))
        print(
            f"{population.name:22} wrong {found['wrong']:.4f}   certified {found['certified_something']:.4f}"
        )
    print("\n     n  budget   drop  differ    exact  betting  told the variance")
    powers: list[dict[str, float]] = []
    for number, case in enumerate(POWER_CASES):
        found = power(case, options.runs, (options.seed, 100 + number))
        powers.append(dict(zip(("n", "budget", "drop", "discordance"), case, strict=True)) | found)
        shares = f"{found['exact']:8.3f} {found['betting']:8.3f} {found['told_the_variance']:18.3f}"
        print(f"{case[0]:6} {case[1]:7.3f} {case[2]:6.3f} {case[3]:7.3f} {shares}")
    worst = max(found["wrong"] for found in coverage.values())
    report = {
        "runs": options.runs,
        "seed": options.seed,
        "confidence": CONFIDENCE,
        "allowed": limit,
        "worst": worst,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        json.dumps({**report, "coverage": coverage, "power": powers}, indent=2) + "\n", encoding="utf-8"
    )
    print(f"\nworst share of wrong certificates: {worst:.4f} ({'ok' if worst <= limit else 'TOO MANY'})")
    return 0 if worst <= limit else 1


if __name__ == "__main__":
    sys.exit(main())
