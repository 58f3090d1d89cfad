"""Does the drift monitor keep its false-alarm rate, and how soon does it see harder inputs?

False alarms: streams without drift, 20,000 samples each, the reference drawn anew for every stream; an
alarm at any time counts. Their share must stay below the stated rate plus binomial noise.

Power: 30 % of the samples are harder, in two ways: they go through to the last exit, or leave one
exit later than they would. The drift begins at once, or after 5,000 calm samples. The same streams are also
judged with another region around the reference, a ball in relative entropy (Agrawal 2020): the boxes
were chosen by this comparison.

With an artifact and data, only this: real samples are sent through it, as they are and with noise added. Half
of them make the reference, the others the stream, in which 30 % are noisy.

    python -m benchmarks.drift [--runs 1000] [--artifact A.adapass --data eval.npz]
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from adapass.artifact import load_artifact
from adapass.data.archive import read_npz
from adapass.drift.evidence import log_best
from adapass.drift.power import LogBest, draw, first_alarms
from adapass.drift.reference import clopper_pearson
from adapass.drift.windows import BLOCK
from benchmarks.harness import write_results

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

RATE = 0.01
SAMPLES = 20_000
CALM = 5_000
HARDER = 0.3
SIZES = (500, 1131, 3000)
POWER_SIZE = 1131
HISTOGRAMS: Mapping[str, tuple[float, ...]] = {
    "six exits": (0.4403, 0.3475, 0.0584, 0.0186, 0.0, 0.1352),
    "two exits": (0.7, 0.3),
    "ten exits": (0.25, 0.2, 0.15, 0.1, 0.08, 0.06, 0.05, 0.04, 0.03, 0.04),
}
"""The first is that of an artifact made from minilm-sst2 (rounded); an exit nobody takes is part of it."""


def to_the_end(shares: Floats) -> Floats:
    """30 % of the samples are replaced by ones that go through to the last exit."""
    moved = (1 - HARDER) * shares
    moved[-1] += HARDER
    return moved


def one_deeper(shares: Floats) -> Floats:
    """30 % of the samples leave one exit later."""
    moved = (1 - HARDER) * shares
    moved[1:] += HARDER * shares[:-1]
    moved[-1] += HARDER * shares[-1]
    return moved


DRIFTS = {"to the end": to_the_end, "one exit deeper": one_deeper}


def boxes(reference: Floats) -> LogBest:
    low, high = clopper_pearson(reference, RATE / 2 / 2)  # half of the error is for the reference, place 0
    return lambda seen, which: log_best(seen, low[which], high[which])


def ball(reference: Floats) -> LogBest:
    """All p with n KL(reference, p) <= x, where exp(-x) (e x / (K - 1))^(K - 1) = error (Agrawal 2020).

    The likelihood of counts c is largest in it at a mix (c + u n) / (C + u N), u by bisection.
    """
    degrees = reference.shape[-1] - 1

    def excess(x: float) -> float:
        return float(-x + degrees * (1 + math.log(x / degrees)) - math.log(RATE / 4))

    radius = optimize.brentq(excess, degrees, 1e4)
    entropy = _log_likelihood(reference, reference / reference.sum(axis=-1, keepdims=True))

    def best(seen: Floats, which: Integers) -> Floats:
        counts = reference[which]
        low, high = np.full((len(seen), 1), -20.0), np.full((len(seen), 1), 20.0)
        for _ in range(60):
            middle = (low + high) / 2
            inside = entropy[which] - _log_likelihood(counts, _mix(seen, counts, middle)) <= radius
            high = np.where(inside[:, None], middle, high)
            low = np.where(inside[:, None], low, middle)
        return _log_likelihood(seen, _mix(seen, counts, high))

    return best


def _log_likelihood(counts: Floats, shares: Floats) -> Floats:
    return np.asarray(np.asarray(special.xlogy(counts, shares), np.float64).sum(axis=-1), np.float64)


def _mix(seen: Floats, counts: Floats, log_weight: Floats) -> Floats:
    mixed = seen + np.exp(log_weight) * counts
    return np.asarray(mixed / mixed.sum(axis=-1, keepdims=True), np.float64)


def false_alarms(shares: Floats, size: int, runs: int, seed: tuple[int, ...]) -> float:
    """Share of calm streams with an alarm at any time."""
    rng = np.random.default_rng(seed)
    reference = rng.multinomial(size, shares, runs).astype(np.float64)
    found = first_alarms(draw(rng, shares, runs, SAMPLES), reference, boxes(reference), RATE)
    return float((found > 0).mean())


def delays(
    shares: Floats, drifted: Floats, *, calm: int, size: int, runs: int, seed: tuple[int, ...]
) -> dict[str, dict[str, float]]:
    """Samples from the begin of the drift to the alarm, by region; infinite where none came."""
    rng = np.random.default_rng(seed)
    reference = rng.multinomial(size, shares, runs).astype(np.float64)
    stream = np.concatenate([draw(rng, shares, runs, calm), draw(rng, drifted, runs, SAMPLES)])
    regions = {"boxes": boxes(reference), "entropy ball": ball(reference)}
    return {
        name: _summary(first_alarms(stream, reference, best, RATE), calm) for name, best in regions.items()
    }


def _summary(found: Integers, calm: int) -> dict[str, float]:
    early = (found > 0) & (found * BLOCK <= calm)
    waits = np.where(found > 0, found * BLOCK - calm, np.inf)[~early]
    median, late = np.quantile(waits, [0.5, 0.95], method="higher")
    return {"median": float(median), "p95": float(late), "before_the_drift": float(early.mean())}


def exits_of(artifact: Path, data: Path, noise: float, seed: int) -> Integers:
    """The exit each sample takes, with normal noise of that standard deviation added to its float inputs."""
    rng = np.random.default_rng([seed, 200])
    with load_artifact(artifact, 1) as loaded:
        names = [port.name for port in loaded.inputs if not port.optional]
        arrays = {name: array for name, array in read_npz(data).items() if name in names}
        taken: list[int] = []
        for start in range(0, len(next(iter(arrays.values()))), 32):
            parts = {
                name: np.asarray(array[start : start + 32], np.float32) for name, array in arrays.items()
            }
            loaded.run(
                {
                    name: part + rng.normal(0, noise, part.shape).astype(np.float32)
                    for name, part in parts.items()
                }
            )
            taken += loaded.stats.exits or ()
    return np.array(taken, np.int64)


def real(own: Integers, other: Integers, runs: int, seed: int) -> dict[str, dict[str, float]]:
    """Streams of real samples: half of ``own`` is the reference, the rest the stream, each sample once."""
    rng = np.random.default_rng([seed, 300])
    categories = int(max(own.max(), other.max())) + 1
    half = len(own) // 2
    blocks = (len(own) - half) // BLOCK
    reference = np.zeros((runs, categories))
    calm, mixed = (np.zeros((blocks, runs, categories), np.int64) for _ in range(2))
    for run in range(runs):
        order = rng.permutation(own)
        live = order[half : half + blocks * BLOCK]
        harder = np.where(rng.random(len(live)) < HARDER, rng.choice(other, len(live)), live)
        reference[run] = np.bincount(order[:half], minlength=categories)
        for stream, taken in ((calm, live), (mixed, harder)):
            place = np.repeat(np.arange(blocks), BLOCK)
            np.add.at(stream[:, run], (place, taken), 1)
    best = boxes(reference)
    found = first_alarms(calm, reference, best, RATE)
    sizes = {"reference": float(half), "stream": float(blocks * BLOCK)}
    shares = {"false_alarms": float((found > 0).mean())}
    return {
        "calm": {**sizes, **shares},
        "mixed": _summary(first_alarms(mixed, reference, best, RATE), 0),
        "own": {str(k): float((own == k).mean()) for k in range(categories)},
        "other": {str(k): float((other == k).mean()) for k in range(categories)},
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--power-runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    for name in ("artifact", "data"):
        parser.add_argument(f"--{name}", type=Path)
    given = parser.parse_args()
    if given.artifact is not None:
        return on_real_samples(given.artifact, given.data, given.runs, given.seed)
    allowed = RATE + 3 * math.sqrt(RATE * (1 - RATE) / given.runs)
    calm, lines = all_false_alarms(given.runs, given.seed)
    power, rows = all_delays(given.power_runs, given.seed)
    head = f"drift: rate {RATE:g} stated, {given.runs} streams of {SAMPLES:,} samples, reference drawn anew"
    result = {
        "runs": given.runs,
        "power_runs": given.power_runs,
        "seed": given.seed,
        "rate": RATE,
        "allowed": allowed,
        "false_alarms": calm,
        "power": power,
    }
    noise = f"allowed with three standard errors: {allowed:.4f}"
    write_results("drift", _finite(result), "\n".join([head, noise, "", *lines, "", *rows]))
    return 0 if max(calm.values()) <= allowed else 1


def all_false_alarms(runs: int, seed: int) -> tuple[dict[str, float], list[str]]:
    found: dict[str, float] = {}
    lines = [f"{'histogram':12}{'reference':>10}{'with an alarm':>15}"]
    for place, (name, shares) in enumerate(HISTOGRAMS.items()):
        for size in SIZES:
            share = false_alarms(np.array(shares), size, runs, (seed, place, size))
            found[f"{name}, {size}"] = share
            lines.append(f"{name:12}{size:>10}{share:>15.4f}")
    return found, lines


def all_delays(runs: int, seed: int) -> tuple[dict[str, object], list[str]]:
    found: dict[str, object] = {}
    lines = [
        f"{runs} streams with {HARDER:.0%} harder inputs, reference {POWER_SIZE}:",
        "samples until the alarm, median (95th percentile)",
        f"{'histogram':12}  {'drift':16}{'calm before':>12}{'boxes':>18}{'entropy ball':>18}",
    ]
    cases = [(drift, calm) for drift in DRIFTS for calm in (0, CALM)]
    for place, (name, shares) in enumerate(HISTOGRAMS.items()):
        for drift, calm in cases:
            p, where = np.array(shares), (seed, 100 + place, calm)
            waits = delays(p, DRIFTS[drift](p), calm=calm, size=POWER_SIZE, runs=runs, seed=where)
            found[f"{name}, {drift}, {calm} calm"] = waits
            cells = "".join(f"{_cell(wait):>18}" for wait in waits.values())
            lines.append(f"{name:12}  {drift:16}{calm:>12,}{cells}")
    return found, lines


def on_real_samples(artifact: Path, data: Path, runs: int, seed: int) -> int:
    own, noisy = (exits_of(artifact, data, noise, seed) for noise in (0.0, 1.0))
    found = real(own, noisy, runs, seed)
    calm = found["calm"]
    lines = [
        f"drift, real samples: reference {calm['reference']:.0f}, stream {calm['stream']:.0f}, {runs} splits",
        f"with an alarm without drift: {calm['false_alarms']:.4f}",
        f"with {HARDER:.0%} noisy inputs, samples until the alarm: {_cell(found['mixed'])}",
    ]
    write_results("drift_real", _finite({"runs": runs, "seed": seed, **found}), "\n".join(lines))
    return 0


def _cell(found: Mapping[str, float]) -> str:
    return f"{found['median']:,.0f} ({found['p95']:,.0f})"


def _finite(values: Mapping[str, object]) -> dict[str, object]:
    """The same with infinities as null, which JSON has."""
    return {key: _plain(value) for key, value in values.items()}


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return _finite(cast("Mapping[str, object]", value))
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(main())
