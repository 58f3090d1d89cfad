"""``adapass analyze``: what is in a model, what each part costs, and what each family could do with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from adapass.analyses.axes import Axes
from adapass.analyses.blocks import Blocks
from adapass.analyses.cut_points import CutPoints
from adapass.analyses.regions import Region, Regions
from adapass.analyses.work import Work
from adapass.budgeted import BudgetedPass, Choice, Samples
from adapass.cache import Cache
from adapass.cost.capacity import predicted_for
from adapass.cost.table import RegionTable
from adapass.data import Source, load_data
from adapass.defaults import CLEAN, FAMILIES
from adapass.driver.material import ModelSource, default_threads
from adapass.facts import FactCache
from adapass.generator import Generator
from adapass.graph.load import load_model
from adapass.graph.tensors import tensor_bytes
from adapass.machine import fingerprint
from adapass.pipeline import Pipeline
from adapass.progress import Progress, Silent
from adapass.registry import generator
from adapass.search.damage import damages
from adapass.search.judge import spread_indices
from adapass.search.stopwatch import Stopwatch
from adapass.target import load_target
from adapass.text_form import parse_pass
from adapass.verification import usable_feeds

TIMED_FEEDS = 8


@dataclass(frozen=True, slots=True)
class Section:
    """A table with a heading."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Analysis:
    """What ``adapass analyze`` shows; every cell is text, ready to print."""

    sections: tuple[Section, ...]

    def to_dict(self) -> dict[str, object]:
        return {
            section.title: {
                "rows": [dict(zip(section.columns, row, strict=True)) for row in section.rows],
                "notes": list(section.notes),
            }
            for section in self.sections
        }


def analyze(
    model: ModelSource,
    *,
    target: str = "cpu",
    data: Source | None = None,
    threads: int | None = None,
    allow_code: bool = False,
    progress: Progress | None = None,
) -> Analysis:
    """Look at a model without changing it. With ``data`` the damage of each choice is measured too.

    Raises:
        InvalidInputError: the model or the data cannot be read.
        TargetError: the target is unknown.

    """
    watch = progress or Silent()
    original = model if isinstance(model, ir.Model) else load_model(model)
    samples = None if data is None else load_data(data, original, allow_code=allow_code)
    watch.phase("clean", 1, 3)
    result = Pipeline([parse_pass(name) for name in CLEAN]).run(original, data=samples)
    counts = zip(CLEAN, result.results, strict=True)
    clean = result.model
    facts = FactCache(clean)
    watch.phase("measure regions", 2, 3)
    stopwatch = _stopwatch(original, target, samples, default_threads(threads))
    regions = _regions(clean, facts, stopwatch, watch)
    watch.phase("ask the families", 3, 3)
    families = [parse_pass(name) for name in FAMILIES]
    asked = [_family(step, clean, samples) for step in families if isinstance(step, BudgetedPass)]
    cleaned = [(name, str(r.applied), _counted(r.rejected)) for name, r in counts]
    sections = (
        _overview(original, clean, facts),
        Section("clean passes", ("pass", "applied", "declined"), tuple(cleaned)),
        regions,
        *asked,
    )
    return Analysis(sections)


def _stopwatch(model: ir.Model, target_name: str, samples: Samples | None, threads: int) -> Stopwatch:
    target = load_target(target_name)
    backend: Generator = generator("onnxruntime")
    if samples is None:
        feeds = usable_feeds(model, seed=0)[:TIMED_FEEDS]
    else:
        feeds = [samples.feeds(i) for i in spread_indices(len(samples), TIMED_FEEDS)]
    return Stopwatch(backend, target, threads, feeds, RegionTable(Cache()), fingerprint(threads).key)


def _overview(model: ir.Model, clean: ir.Model, facts: FactCache) -> Section:
    blocks, axes = facts.get(Blocks), facts.get(Axes)
    rows = [
        ("nodes", f"{len(list(model.graph))}, {len(list(clean.graph))} after cleaning"),
        ("weights", f"{tensor_bytes(model) / 1e6:.2f} MB"),
        ("inputs", _ports(model.graph.inputs, axes)),
        ("outputs", _ports(model.graph.outputs, axes)),
        ("blocks", f"{len(blocks.blocks)}; repeated: {[len(run) for run in blocks.repeats] or 'none'}"),
        ("residual streams", str(len(blocks.streams))),
    ]
    return Section("model", ("what", "found"), tuple(rows))


def _ports(values: Sequence[ir.Value], axes: Axes) -> str:
    shown: list[str] = []
    for value in values:
        name = value.name or ""
        marks = [f"batch axis {axes.batch_axis(name)}"] if axes.batch_axis(name) is not None else []
        marks += [f"token axis {axes.token_axis(name)}"] if axes.token_axis(name) is not None else []
        shown.append(f"{name} {value.shape} {', '.join(marks)}".strip())
    return "; ".join(shown)


def _regions(model: ir.Model, facts: FactCache, watch: Stopwatch, progress: Progress) -> Section:
    regions = facts.get(Regions).regions
    options = watch.generator.variants(model, watch.target, threads=watch.threads, batch=1)[0].options
    work, total = facts.get(Work), facts.get(Work).of(range(len(facts.get(Work).flow.nodes))).flops or 1
    depth = {point.value: point.depth for point in facts.get(CutPoints).points}
    rows: list[tuple[str, ...]] = []
    timed = [region for region in regions if region.nodes]
    progress.step(0, len(timed), "time regions")
    spans = [(region.inputs, region.outputs) for region in timed]
    costs = dict(zip((r.index for r in timed), watch.pieces(model, spans, options), strict=True))
    for region in regions:
        cost = costs.get(region.index)
        rows.append(
            (
                str(region.index),
                region.exit or "(end)",
                _operators(region, work),
                f"{100 * region.work.flops / total:.1f} %",
                "-" if cost is None else f"{1e6 * cost.seconds:.0f} us ({cost.trust.name.lower()})",
                f"{100 * depth[region.exit]:.0f} %" if region.exit in depth else "100 %",
            )
        )
    refusals = tuple(f"no cut at {value}: {reason}" for value, reason in facts.get(CutPoints).refusals[:20])
    columns = ("region", "ends with", "heavy operators", "work", "latency", "depth")
    return Section("regions", columns, tuple(rows), refusals)


def _operators(region: Region, work: Work) -> str:
    heavy = Counter(work.flow.nodes[i].op_type for i in region.nodes if work.typical[i].weight_bytes > 0)
    return ", ".join(f"{count}x {name}" for name, count in heavy.most_common(3)) or "-"


def _family(step: BudgetedPass, model: ir.Model, samples: Samples | None) -> Section:
    proposal = step.propose(model, FactCache(model))
    first: dict[str, Choice] = {}
    for choice in proposal.choices:
        first.setdefault(choice.site, choice)
    damage = _damage(step, model, tuple(first.values()), samples)
    priors = {c.key: found.distortion for c in first.values() if (found := predicted_for(c)) is not None}
    rows = tuple(
        (c.site, c.setting, _told(damage.get(c.key), priors.get(c.key)))
        for c in sorted(first.values(), key=lambda c: (-damage.get(c.key, 0.0), c.site))
    )
    reasons = Counter(refusal.reason for refusal in proposal.refusals)
    notes = tuple(f"{count} refused: {reason}" for reason, count in reasons.most_common())
    if samples is None and rows:
        notes = (*notes, f"give --data to measure what {step.name} would damage, and to use it")
        if priors:
            notes = (
                *notes,
                "~ is not measured: what the number format does to one layer's result, not to outputs",
            )
    return Section(step.name, ("site", "setting", "output distortion alone"), rows, notes)


def _told(measured: float | None, prior: float | None) -> str:
    if measured is not None:
        return f"{measured:.4f}"
    return "-" if prior is None else f"~{prior:.4f}"


def _damage(
    step: BudgetedPass, model: ir.Model, choices: tuple[Choice, ...], samples: Samples | None
) -> Mapping[str, float]:
    """Measured where knobs do not decide it: an exit does no damage before its threshold is set."""
    if samples is None or not choices or type(step).tune is not BudgetedPass.tune:
        return {}
    found = damages(model, step, choices, fit=samples, samples=samples)
    return {key: damage.distortion for key, damage in found.items()}


def _counted(reasons: Mapping[str, int]) -> str:
    return "; ".join(f"{count}x {reason}" for reason, count in sorted(reasons.items()))
