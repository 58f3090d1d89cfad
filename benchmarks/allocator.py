"""How long the allocator takes, and how much memory, up to 10 000 sites of 8 settings.

Each size runs in a process of its own, so the peak memory is that of the one problem (and of Python with
SciPy). The problems are drawn to look like real ones: a third of the slots repeat the site before them
exactly (repeated blocks), savings come in steps of the clock, damage grows faster than the saving, the
strongest settings of some neighbours save less together and mostly hurt more, some settings exclude or need
others, and memory is limited next to the saving asked for.

    python -m benchmarks.allocator [--quick] [--seeds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from adapass.machine import fingerprint
from adapass.search.allocate import Interaction, Option, Problem, maximize_saving, minimize_damage
from adapass.search.allocate_program import formulate
from adapass.search.allocate_reduce import useful_options
from benchmarks.harness import RESULTS, write_results

SETTINGS = 8
SIZES = (10, 30, 100, 300, 1_000, 3_000, 10_000)
QUICK_SIZES = (10, 100, 1_000)
CLOCK_SECONDS = 1e-7
MEMORY = "bytes"
SLOTS_LIMIT, SECONDS_LIMIT, BYTES_LIMIT = 1_000, 10.0, 10**9
"""What is promised: this many slots in less than this."""
SHARE = 0.5
"""The saving asked for, as a share of all the slots' largest."""


def random_problem(slots: int, seed: int) -> Problem:
    """Savings around 1e-5 seconds, damages around 1e-6."""
    rng = np.random.default_rng((seed, slots))
    options: list[Option] = []
    for slot in range(slots):
        if slot and rng.random() < 1 / 3:
            before = options[-SETTINGS:]
            options += [_renamed(option, slot) for option in before]
        else:
            options += _slot(rng, slot)
    pairs = rng.choice(slots - 1, max(1, slots // 4), replace=False)
    return Problem(
        tuple(options),
        exclusions=tuple(_key_pair(rng, slots) for _ in range(slots // 10)),
        implications=tuple((a, (b, c)) for a, b, c in (_key_triple(rng, slots) for _ in range(slots // 20))),
        interactions=tuple(
            pair for slot in sorted(pairs.tolist()) for pair in _interactions(rng, options, slot)
        ),
    )


def _slot(rng: np.random.Generator, slot: int) -> list[Option]:
    """Settings from mild to strong, one of them a poor deal."""
    work = 1e-5 * rng.lognormal(0, 0.8)
    sensitivity = 1e-6 * rng.lognormal(0, 1.0) * (work / 1e-5) ** 0.5
    strength = np.sort(rng.uniform(0.05, 1.0, SETTINGS))
    saving = work * strength * rng.uniform(0.7, 1.0, SETTINGS)
    saving[rng.integers(SETTINGS)] *= -0.1
    damage = sensitivity * strength**2 * rng.lognormal(0, 0.3, SETTINGS)
    size = -1e6 * strength * rng.uniform(-0.2, 1.0, SETTINGS)
    return [
        Option(_key(slot, i), f"slot{slot}", _ticks(saving[i]), float(damage[i]), {MEMORY: round(size[i])})
        for i in range(SETTINGS)
    ]


def _interactions(rng: np.random.Generator, options: Sequence[Option], slot: int) -> list[Interaction]:
    """The three strongest settings of a slot and of the next one, all with all."""
    first = options[slot * SETTINGS : (slot + 1) * SETTINGS][-3:]
    second = options[(slot + 1) * SETTINGS : (slot + 2) * SETTINGS][-3:]
    return [
        Interaction(
            a.key,
            b.key,
            saving=-_ticks(0.2 * min(abs(a.saving), abs(b.saving)) * rng.random()),
            damage=float(0.5 * rng.normal(0.5, 0.5) * (a.damage * b.damage) ** 0.5),
        )
        for a in first
        for b in second
    ]


def _renamed(option: Option, slot: int) -> Option:
    number = int(option.key.rpartition(".")[2])
    return Option(_key(slot, number), f"slot{slot}", option.saving, option.damage, option.use)


def _key(slot: int, number: int) -> str:
    return f"slot{slot}.{number}"


def _ticks(seconds: float) -> float:
    return round(float(seconds) / CLOCK_SECONDS) * CLOCK_SECONDS


def _keys(rng: np.random.Generator, slots: int, count: int) -> list[str]:
    picked = rng.choice(slots, count, replace=False).tolist()
    return [_key(slot, int(rng.integers(SETTINGS))) for slot in picked]


def _key_pair(rng: np.random.Generator, slots: int) -> tuple[str, str]:
    a, b = _keys(rng, slots, 2)
    return a, b


def _key_triple(rng: np.random.Generator, slots: int) -> tuple[str, str, str]:
    a, b, c = _keys(rng, slots, 3)
    return a, b, c


def one_size(slots: int, seed: int) -> dict[str, float]:
    """Solve both directions once and say what it took."""
    problem = random_problem(slots, seed)
    largest: dict[str, float] = {}
    for option in problem.options:
        largest[option.slot] = max(largest.get(option.slot, 0.0), option.saving)
    wanted = SHARE * sum(largest.values())
    limits = {MEMORY: -1.5e5 * slots}
    began, began_cpu = time.perf_counter(), time.process_time()
    least = minimize_damage(problem, min_saving=wanted, limits=limits)
    between, between_cpu = time.perf_counter(), time.process_time()
    most = maximize_saving(problem, max_damage=least.damage, limits=limits)
    ended, ended_cpu = time.perf_counter(), time.process_time()
    program = formulate(problem, useful_options(problem, limits))
    return {
        "slots": slots,
        "seed": seed,
        "variables": program.variables,
        "rows": len(program.upper),
        "minimize_seconds": between - began,
        "minimize_cpu_seconds": between_cpu - began_cpu,
        "minimize_gap": least.gap,
        "maximize_seconds": ended - between,
        "maximize_cpu_seconds": ended_cpu - between_cpu,
        "maximize_gap": most.gap,
        # Of this process: Linux counts in KiB.
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def in_own_process(slots: int, seed: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.allocator", "--one", str(slots), "--first-seed", str(seed)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def table(rows: Sequence[dict[str, float]]) -> str:
    lines = [
        "  slots  options  variables    rows  min damage s    cpu s      gap  "
        "max saving s    cpu s      gap  peak MB",
        *(
            f"{row['slots']:7} {row['slots'] * SETTINGS:8} {row['variables']:10} {row['rows']:7} "
            f"{row['minimize_seconds']:13.2f} {row['minimize_cpu_seconds']:8.2f} {row['minimize_gap']:8.1e} "
            f"{row['maximize_seconds']:13.2f} {row['maximize_cpu_seconds']:8.2f} {row['maximize_gap']:8.1e} "
            f"{row['peak_bytes'] / 1e6:8.0f}"
            for row in rows
        ),
    ]
    return "\n".join(lines)


def keeps_promise(rows: Sequence[dict[str, float]]) -> bool:
    return all(
        max(row["minimize_seconds"], row["maximize_seconds"]) < SECONDS_LIMIT
        and row["peak_bytes"] < BYTES_LIMIT
        for row in rows
        if row["slots"] <= SLOTS_LIMIT
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="up to 1 000 slots, one problem a size")
    parser.add_argument("--seeds", type=int, default=3, help="problems a size")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--one", type=int, metavar="SLOTS", help="solve one problem here and write JSON")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where the results go")
    given = parser.parse_args(arguments)
    if given.one is not None:
        sys.stdout.write(json.dumps(one_size(given.one, given.first_seed)) + "\n")
        return 0
    seeds = range(given.first_seed, given.first_seed + (1 if given.quick else given.seeds))
    rows = [in_own_process(n, seed) for n in (QUICK_SIZES if given.quick else SIZES) for seed in seeds]
    kept = keeps_promise(rows)
    verdict = f"{SLOTS_LIMIT} slots under {SECONDS_LIMIT:g} s and 1 GB each way: {'yes' if kept else 'NO'}"
    machine = fingerprint(1)
    load = os.getloadavg()[0]
    heading = (
        f"allocator: {machine.processor}, {machine.cores} cores, load {load:.1f} at the end (1 is from here)"
    )
    result = {"rows": rows, "kept": kept, "machine": machine.key, "load": load}
    write_results("allocator", result, f"{heading}\n\n{table(rows)}\n\n{verdict}", folder=given.folder)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
