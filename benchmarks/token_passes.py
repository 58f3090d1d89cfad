"""Which tokens to leave behind, how many, and where: rules and schedules side by side, on two transformers.

    python -m benchmarks.token_passes minilm-agnews
    python -m benchmarks.token_passes vit-cifar10

Rules (dropping a share, dropping by cumulative mass as in Adaptive Token Sampling, merging) by the shared
allocator, and for the first also the greedy and the sigmoid schedule. Plans are found on the search part of
the evaluation data at three budgets; quality is taken on the certify part, which none of them has seen.
Executed multiply-adds are counted by the runtime, latency is measured in turns with the original, batch 1 at
true lengths. Then ``adapass optimize`` with tokens alone, and with 8 bits and exits. Needs an idle machine;
about a quarter of an hour a model. Results are written after the comparison and again at the end, so that an
interrupted run leaves what it had.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from adapass.analyses.work import Work
from adapass.artifact.plain import PlainRunner
from adapass.artifact.runtime import load_artifact
from adapass.budgeted import Array
from adapass.cost.counted import PRODUCTS, CountedWork, counted_work
from adapass.cost.measure import interleaved
from adapass.data import Dataset
from adapass.defaults import CLEAN
from adapass.driver.context import Context
from adapass.driver.optimize import open_context, optimize
from adapass.driver.request import Request
from adapass.errors import ExitCode
from adapass.facts import FactCache
from adapass.graph.save import save_model
from adapass.graph.text import clone
from adapass.lowering import lower_to_masked
from adapass.machine import fingerprint
from adapass.passes.tokens.prune_tokens import PruneTokens
from adapass.progress import Silent
from adapass.search.judge import Judge, predict, spread_indices
from adapass.search.schedules import (
    Judged,
    Ladder,
    Measure,
    Plan,
    Schedule,
    ScheduleSearch,
    best_within,
    chosen,
    ladders_of,
    work_left,
)
from benchmarks.harness import shared_folder, write_results

DATA = {"minilm-agnews": "agnews", "vit-cifar10": "cifar10"}
THREADS = 2
BUDGETS = (0.005, 0.01, 0.02)
"""Paired loss on the search samples: shares, 0.01 a point."""
RULES = {
    "top-k": ("keep-0.85", "keep-0.7", "keep-0.5", "keep-0.3"),
    "mass": ("mass-0.99", "mass-0.97", "mass-0.93", "mass-0.85"),
    "merge": ("merge-0.85", "merge-0.7", "merge-0.5"),
}
SCHEDULES = {
    "top-k": (Schedule.ALLOCATOR, Schedule.G_SEARCH, Schedule.P_SIGMOID),
    "mass": (Schedule.ALLOCATOR,),
    "merge": (Schedule.ALLOCATOR,),
}
MAX_DROP = 0.01
FAR = 1.25
"""Time over what the work says, from which a note is due."""


@dataclass(frozen=True, slots=True)
class Row:
    """One plan of one way, at one budget."""

    rule: str
    schedule: str
    budget: float
    plan: str
    measured_plans: int
    """How many plans the search had to measure."""
    search_points: float
    fresh_points: float
    predicted_work: float
    executed_work: float
    """Share of the multiply-adds of the clean model."""
    time: float
    """Share of the latency of the original."""
    note: str


@dataclass
class Subject:
    """One model and everything plans are judged with."""

    name: str
    clean: ir.Model
    original: Path
    search: Judge
    certify: Judge
    counted: Sequence[int]
    timed: Sequence[int]
    rounds: int
    scratch: Path
    started: float
    known: dict[str, float] = field(default_factory=dict[str, float])

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.started:6.0f} s] {self.name}: {text}", flush=True)

    def made(self, step: PruneTokens, ladders: Sequence[Ladder], plan: Plan) -> ir.Model:
        model = clone(self.clean)
        if choices := chosen(ladders, plan):
            step.apply(model, FactCache(model), choices)
            step.fit(model, None)
        return model

    def work(self, step: PruneTokens, ladders: Sequence[Ladder]) -> Callable[[Plan], float]:
        facts = FactCache(self.clean)
        work = facts.get(Work)
        lengths = self.search.samples.lengths
        parts = work.typical if lengths is None else work.at(1, max(round(float(lengths.mean())), 1))
        amounts = {
            node.outputs[0].name or "": float(part.flops)
            for node, part in zip(work.flow.nodes, parts, strict=True)
            if node.op_type in PRODUCTS
        }
        offered = [choice for ladder in ladders for choice in ladder.choices]
        remaining = {
            choice.key: step.remaining(self.clean, facts, choice, self.search.samples) for choice in offered
        }
        return work_left(ladders, remaining, amounts)


def searched(
    subject: Subject, rule: str, schedule: Schedule
) -> list[tuple[float, Judged, int, Sequence[Ladder]]]:
    """The best plan at each budget, and how many plans were measured for all of them."""
    step = PruneTokens(settings=RULES[rule])
    ladders = ladders_of(step.propose(subject.clean, FactCache(subject.clean)).choices)
    asked: set[Plan] = set()

    def loss(plan: Plan) -> float:
        asked.add(plan)
        key = f"{rule} {plan}"
        if key not in subject.known:
            output = predict(subject.made(step, ladders, plan), subject.search.samples, threads=THREADS)
            subject.known[key] = float(subject.search.losses(output).mean())
            if len(asked) % 10 == 0:
                subject.say(f"{rule} {schedule}: {len(asked)} plans measured")
        return subject.known[key]

    search = ScheduleSearch(schedule=schedule, max_loss=2 * max(BUDGETS), trials=36, steps=12)
    found = search.run(ladders, Measure(loss, subject.work(step, ladders)))
    best = [(budget, best_within(found, budget)) for budget in BUDGETS]
    return [(budget, judged, len(asked), ladders) for budget, judged in best if judged is not None]


def compare(subject: Subject) -> tuple[list[Row], float]:
    """All ways at all budgets, side by side; and the time of the clean model over the original's."""
    plans: list[tuple[str, Schedule, float, Judged, int, Sequence[Ladder]]] = []
    for rule, schedules in SCHEDULES.items():
        for schedule in schedules:
            subject.say(f"search {rule} by {schedule}")
            plans += [(rule, schedule, *found) for found in searched(subject, rule, schedule)]
    models: dict[str, ir.Model] = {}
    for rule, _, _, judged, _, ladders in plans:
        step = PruneTokens(settings=RULES[rule])
        models.setdefault(f"{rule} {judged.plan}", subject.made(step, ladders, judged.plan))
    subject.say(f"judge {len(models)} plans on {len(subject.certify.samples)} fresh samples")
    fresh = {key: _points(subject.certify, model) for key, model in models.items()}
    executed = executed_work(subject, models)
    subject.say("time them in turns")
    seconds = latencies(subject, models)
    rows: list[Row] = []
    clean = seconds["clean"] / seconds["original"]
    for rule, schedule, budget, judged, measured, ladders in plans:
        key = f"{rule} {judged.plan}"
        share, took = executed[key], seconds[key] / seconds["original"]
        named = ", ".join(f"{c.site}={c.setting}" for c in chosen(ladders, judged.plan)) or "nothing"
        rows.append(
            Row(
                rule,
                schedule,
                budget,
                named,
                measured,
                100 * judged.loss,
                fresh[key],
                judged.work,
                share,
                took,
                note_of(share, took, clean),
            )
        )
    return rows, clean


def _points(judge: Judge, model: ir.Model) -> float:
    return 100 * float(judge.losses(predict(model, judge.samples, threads=THREADS)).mean())


def executed_work(subject: Subject, models: Mapping[str, ir.Model]) -> dict[str, float]:
    """Share of the multiply-adds that the clean model executes, on the same samples."""
    samples = subject.certify.samples
    before: CountedWork = counted_work(subject.clean, samples, subject.counted)
    return {
        key: counted_work(model, samples, subject.counted).share_of(before) for key, model in models.items()
    }


def latencies(subject: Subject, models: Mapping[str, ir.Model]) -> dict[str, float]:
    """Mean seconds of a call: the original as it is, the clean model, and every plan, in turns."""
    runners = {"original": PlainRunner(subject.original, threads=THREADS)}
    for number, (key, model) in enumerate({"clean": subject.clean, **models}.items()):
        file = subject.scratch / f"plan_{number}.onnx"
        save_model(lower_to_masked(model), file)
        runners[key] = PlainRunner(file, threads=THREADS)
    feeds = [subject.certify.samples.feeds(index) for index in subject.timed]
    try:
        timed = interleaved(
            {key: runner.run for key, runner in runners.items()}, feeds, rounds=subject.rounds, warmup=2
        )
    finally:
        for runner in runners.values():
            runner.close()
    return {key: timing.mean for key, timing in timed.items()}


def note_of(work: float, took: float, clean: float) -> str:
    """Whether time follows work."""
    above = took / (work * clean) - 1.0
    return f"time is {100 * above:.0f} % above what the executed work says" if above > FAR - 1.0 else ""


def line_of(rows: Sequence[Row], clean: float) -> tuple[float, float]:
    """What part of the latency does not shrink with the executed work, and how the rest does.

    By least squares over the plans and the clean model.
    """
    plans = {row.plan: (row.executed_work, row.time) for row in rows}
    work, took = np.asarray([(1.0, clean), *plans.values()]).T
    slope = float(
        ((work - work.mean()) * (took - took.mean())).sum() / max(((work - work.mean()) ** 2).sum(), 1e-12)
    )
    return float(took.mean() - slope * work.mean()), slope


def optimized(subject: Subject, data: Path, held_out: Path, limit: float) -> dict[str, object]:
    """``adapass optimize`` with tokens alone, and jointly with 8 bits and exits."""
    ways = {
        "tokens": ", ".join((*CLEAN, "prune-tokens")),
        "tokens, 8 bits, exits": ", ".join(
            (*CLEAN, "prune-tokens", "quantize-8bit", "insert-exits{max-exits=8}")
        ),
    }
    found: dict[str, object] = {}
    for number, (way, passes) in enumerate(ways.items()):
        subject.say(f"optimize: {way}")
        artifact = subject.scratch / f"way_{number}.adapass"
        result = optimize(
            subject.original,
            data=data,
            eval_data=held_out,
            max_drop=MAX_DROP,
            threads=THREADS,
            passes=passes,
            time_limit_seconds=limit,
            output=artifact,
        )
        document = result.to_dict()
        entry: dict[str, object] = {"job": document, "passes": passes}
        if result.exit_code is ExitCode.OK:
            entry |= timed_artifact(subject, artifact)
        found[way] = entry
        subject.say(f"{way}: {entry.get('time', 'original kept')}")
    return found


def timed_artifact(subject: Subject, artifact: Path) -> dict[str, object]:
    """The artifact against the original in turns, and points on the certify part."""
    original = PlainRunner(subject.original, threads=THREADS)
    judge = subject.certify
    name = subject.clean.graph.outputs[0].name or ""
    with load_artifact(artifact, THREADS) as runner:
        feeds = [judge.samples.feeds(index) for index in subject.timed]
        contestants = {"original": original.run, "artifact": runner.run}
        timed = interleaved(contestants, feeds, rounds=subject.rounds, warmup=2)
        rows = [runner.run(judge.samples.feeds(index))[name] for index in range(len(judge.samples))]
    original.close()
    output: Array = np.concatenate(rows)
    return {
        "seconds": timed["artifact"].mean,
        "original_seconds": timed["original"].mean,
        "time": timed["artifact"].mean / timed["original"].mean,
        "points_on_certify": 100 * float(judge.losses(output).mean()),
    }


def opened(context: Context, name: str, original: Path, given: argparse.Namespace, scratch: Path) -> Subject:
    parts = context.material.parts
    assert parts is not None
    search = _some(parts.search, given.search_samples)
    certify = _some(parts.certify, given.certify_samples)
    return Subject(
        name=name,
        clean=context.clean,
        original=original,
        search=context.judge("search", search),
        certify=context.judge("certify", certify),
        counted=spread_indices(len(certify), given.counted_samples),
        timed=spread_indices(len(certify), given.timed_samples),
        rounds=given.rounds,
        scratch=scratch,
        started=time.monotonic(),
    )


def _some(samples: Dataset, count: int) -> Dataset:
    return samples.subset(list(spread_indices(len(samples), count)))


def table(name: str, rows: Sequence[Row], clean: float, ways: Mapping[str, object]) -> str:
    head = (
        f"{name}: leaving tokens behind\n"
        f"{'rule':7} {'schedule':10} {'budget':>7} {'plans':>6} {'search':>7} {'fresh':>7} "
        f"{'predicted':>9} {'executed':>9} {'time':>6}  plan"
    )
    lines = [
        f"{row.rule:7} {row.schedule:10} {100 * row.budget:7.2f} {row.measured_plans:6d} "
        f"{row.search_points:+7.2f} {row.fresh_points:+7.2f} {row.predicted_work:9.2f} "
        f"{row.executed_work:9.2f} {row.time:6.2f}  {row.plan}" + (f"\n{'':10}{row.note}" if row.note else "")
        for row in rows
    ]
    fixed, rate = line_of(rows, clean)
    lines.append(
        f"time of all plans: {fixed:.2f} + {rate:.2f} x executed work (exact rewrites alone: {clean:.2f})"
    )
    tail = [_way(way, entry) for way, entry in ways.items()]
    return "\n".join([head, *lines, *(["", "adapass optimize, at most 1 point", *tail] if tail else [])])


def _way(way: str, entry: object) -> str:
    if not isinstance(entry, dict) or "time" not in entry:
        return f"{way:24} the original was kept"
    return f"{way:24} {entry['time']:5.2f}x of the original's time, {entry['points_on_certify']:+.2f} points"


def main() -> int:
    parser = argparse.ArgumentParser(description="Token passes on a transformer.")
    parser.add_argument("model", choices=list(DATA))
    parser.add_argument("--search-samples", type=int, default=200)
    parser.add_argument("--certify-samples", type=int, default=750)
    parser.add_argument("--counted-samples", type=int, default=32)
    parser.add_argument("--timed-samples", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--limit", type=float, default=210.0, help="Seconds of each optimize; 0: leave out.")
    parser.add_argument("--folder", type=Path, default=None, help="Where the results go.")
    given = parser.parse_args()
    shared = shared_folder()
    original = shared / "models" / f"{given.model}.onnx"
    data, held_out = (shared / "data" / f"{DATA[given.model]}_{part}.npz" for part in ("fit", "eval"))
    folder = {} if given.folder is None else {"folder": given.folder}
    with tempfile.TemporaryDirectory() as made:
        scratch = Path(made)
        request = Request(threads=THREADS, max_drop=MAX_DROP, output=scratch / "context.adapass")
        with open_context(original, request, data, held_out, scratch, Silent()) as context:
            subject = opened(context, given.model, original, given, scratch)
            rows, clean = compare(subject)
        ways: Mapping[str, object] = {}
        for part in ("rules and schedules", *(["optimize"] if given.limit > 0 else [])):
            if part == "optimize":
                ways = optimized(subject, data, held_out, given.limit)
            document: dict[str, object] = {
                "machine": fingerprint(THREADS).to_json(),
                "settings": {"threads": THREADS, "max_drop": MAX_DROP, "samples": given.certify_samples},
                "clean_time": clean,
                "line": dict(zip(("fixed", "with_work"), line_of(rows, clean), strict=True)),
                "plans": [asdict(row) for row in rows],
                "optimize": ways,
            }
            write_results(
                f"token_passes_{given.model}", document, table(given.model, rows, clean, ways), **folder
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
