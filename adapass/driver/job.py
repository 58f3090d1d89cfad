"""One run of the main job, after reading and cleaning: search, race, prove, compare, write."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from adapass.artifact.manifest import Latency, Trust
from adapass.budgeted import Array, BudgetedPass, OperatingPoint, Samples
from adapass.cache import Cache
from adapass.certify.bounds import Method
from adapass.certify.choose import choose_metric, decision_threshold
from adapass.certify.losses import Metric
from adapass.certify.power import data_message, smallest_budget
from adapass.cost.table import RegionTable
from adapass.cost.timing import Ratio
from adapass.data import Dataset, fingerprint
from adapass.driver.finals import ORIGINAL, Build, at_point, build_all, race, race_once
from adapass.driver.material import Material, Parts, timing_feeds
from adapass.driver.outcome import Finding, hand_back
from adapass.driver.proof import Proof, prove
from adapass.driver.recipe import Decisions, write_plan
from adapass.driver.report import Report, Result, Row
from adapass.driver.request import Request
from adapass.driver.shipping import Final, no_data_hint, ship
from adapass.errors import RecipeError, UsageError
from adapass.generator import Generator
from adapass.graph.digest import digest
from adapass.machine import fingerprint as machine_fingerprint
from adapass.pipeline import Pipeline
from adapass.progress import Progress
from adapass.search.candidates import Candidate, Search
from adapass.search.judge import Judge, predict, spread_indices
from adapass.search.plan import Plan, apply_plan
from adapass.search.stopwatch import Stopwatch
from adapass.search.store import Store

PHASES = 6
FINAL_ROUNDS = 10


@dataclass
class Job:
    """State of a run. ``run`` is called once."""

    request: Request
    material: Material
    clean: ir.Model
    steps: Pipeline
    families: Sequence[BudgetedPass]
    store: Store
    scratch: Path
    progress: Progress
    destination: Path
    cache: Cache = field(default_factory=Cache)
    started: float = field(default_factory=time.monotonic)

    def run(self, decisions: Decisions | None) -> Result:
        parts = self.material.parts
        if parts is not None and (reason := self._unsupported_budget(parts)) is not None:
            return self._hand_back(reason, Plan())
        judge = None if parts is None else self._judge("search", self._capped(parts.search))
        self.progress.phase("search", 2, PHASES)
        candidates = self._candidates(parts, judge, decisions)
        if self.request.dry_run:
            return self._planned(candidates)
        self.progress.phase("race the finalists", 3, PHASES)
        builds = self._builds(candidates, decisions)
        seconds = self._race(builds)
        return self._finish(parts, builds, seconds)

    # Search

    def _unsupported_budget(self, parts: Parts) -> str | None:
        """Why the certify part cannot certify even a lossless result; said before anything long starts."""
        request, count = self.request, len(parts.certify)
        method = Method.CLOPPER_PEARSON if parts.certify.labels is None else Method.EXACT_PAIRED
        smallest = smallest_budget(count, request.confidence, method=method)
        if smallest <= request.max_drop or request.allow_uncertified:
            return None
        return data_message(count, request.max_drop, request.confidence, method=method)

    def _capped(self, samples: Dataset) -> Dataset:
        return samples.subset(list(spread_indices(len(samples), self.request.effort.search_samples)))

    def _judge(self, name: str, samples: Dataset) -> Judge:
        self.progress.step(0, 1, f"original on the {name} samples")
        key = f"{digest(self.material.model)}|{name}|{self._fingerprint()}"
        threads = self.request.threads
        outputs = self.store.array(
            "original", key, lambda: predict(self.material.model, samples, threads=threads)
        )
        threshold = decision_threshold(self.material.model)
        return Judge(samples, outputs, self._metric(samples, outputs, threshold), threshold)

    def _metric(self, samples: Dataset, outputs: Array, threshold: float) -> Metric:
        if self.request.metric == "auto":
            return choose_metric(outputs, samples.labels, threshold=threshold)
        if self.request.metric not in list(Metric):
            raise UsageError(f"unknown metric '{self.request.metric}'; known: auto, {', '.join(Metric)}")
        return Metric(self.request.metric)

    def _candidates(
        self, parts: Parts | None, judge: Judge | None, decisions: Decisions | None
    ) -> list[Candidate]:
        watch = self._stopwatch()
        options = (
            self._primary()
            .variants(
                self.clean, self.material.target, threads=self.request.threads, batch=self.request.batch
            )[0]
            .options
        )
        if parts is None or judge is None:
            return [Candidate(Plan(), self.clean, watch.seconds(self.clean, options), 0.0)]
        fit = parts.fit.subset(list(spread_indices(len(parts.fit), self.request.effort.fit_samples)))
        if decisions is not None:
            return [self._replayed(fit, decisions, watch, options)]
        effort = self.request.effort
        search = Search(
            clean=self.clean,
            families=self.families,
            fit=fit,
            damage_samples=fit.subset(list(spread_indices(len(fit), effort.damage_samples))),
            judge=judge,
            watch=watch,
            build=options,
            max_drop=self.request.max_drop,
            spared_shares=effort.spared_shares,
            finalists=effort.finalists,
            threads=self.request.threads,
            fingerprint=self._fingerprint(),
            store=self.store,
            progress=self.progress,
            out_of_time=self._out_of_time,
        )
        return search.run()

    def _replayed(
        self, fit: Samples, decisions: Decisions, watch: Stopwatch, options: Mapping[str, object]
    ) -> Candidate:
        model = apply_plan(self.clean, decisions.plan, fit=fit, check=[fit.feeds(0)])
        knobs = {name: np.asarray(numbers, np.float32) for name, numbers in decisions.knobs.items()}
        for name in knobs:
            if name not in model.graph.initializers:
                raise RecipeError(f"the recipe sets knob '{name}', which the rewritten model does not have")
        points = (OperatingPoint(knobs, frozenset(), 0.0, 0.0),) if knobs else ()
        return Candidate(decisions.plan, model, watch.seconds(self.clean, dict(options)), 0.0, points)  # type: ignore[arg-type]

    def _planned(self, candidates: Sequence[Candidate]) -> Result:
        rows = [
            Row(
                str(c.plan),
                "",
                f"{1e3 * c.seconds.seconds:.3f} ms",
                f"search loss {100 * c.loss:+.2f} points",
            )
            for c in candidates
        ]
        best = candidates[0]
        recipe = write_plan(
            self.request, self.steps, best.plan, None, best.points[-1] if best.points else None
        )
        return Result(None, Report(tuple(rows), ("dry run: nothing was written",)), recipe)

    # Race, proof and shipping

    def _builds(self, candidates: Sequence[Candidate], decisions: Decisions | None) -> list[Build]:
        wanted = list(candidates[: self.request.effort.finalists])
        wanted += [c for c in candidates if not c.plan.parts and c not in wanted]
        folder = self.scratch / "finalists"
        folder.mkdir()
        builds = build_all(
            wanted,
            self.material.generators,
            self.material.target,
            threads=self.request.threads,
            batch=self.request.batch,
            scratch=folder,
        )
        if decisions is None or decisions.variant is None:
            return builds
        named = (decisions.backend, decisions.variant)
        chosen = [b for b in builds if (b.generator.name, b.variant.name) == named]
        if not chosen:
            raise RecipeError(
                f"the recipe's build {named[0]} {named[1]} is not possible here for {self.material.target.name}"
            )
        return chosen

    def _race(self, builds: Sequence[Build]) -> Mapping[str, float]:
        feeds = timing_feeds(self.material, self.request, self.request.effort.timing_feeds)
        if not self._primary().device_present(self.material.target):
            return {
                ORIGINAL: self._modelled_original(),
                **{b.name: b.candidate.seconds.seconds for b in builds},
            }
        machine = machine_fingerprint(self.request.threads).key
        return race_once(
            builds, self.material.path, feeds, threads=self.request.threads, cache=self.cache, machine=machine
        )

    def _finish(self, parts: Parts | None, builds: Sequence[Build], seconds: Mapping[str, float]) -> Result:
        ordered = sorted(builds, key=lambda b: seconds[b.name])
        if parts is None:
            return self._without_data(ordered[0])
        self.progress.phase("certify", 4, PHASES)
        judge = self._judge("certify", parts.certify)
        reason = f"nothing was faster than the original ({1e3 * seconds[ORIGINAL]:.3f} ms)"
        exact = next((b for b in ordered if not b.candidate.plan.parts), ordered[0])
        for build in dict.fromkeys((ordered[0], exact)):
            if seconds[build.name] >= seconds[ORIGINAL]:
                break
            proof = self._prove(build, judge)
            if proof.certificate is None and not self.request.allow_uncertified:
                reason = self._not_certified(build, proof)
                continue
            return self._compare(build, proof, judge, seconds)
        return self._hand_back(reason, ordered[0].candidate.plan)

    def _prove(self, build: Build, judge: Judge) -> Proof:
        request = self.request
        return prove(
            build,
            judge,
            max_drop=request.max_drop,
            confidence=request.confidence,
            threads=request.threads,
            split_seed=request.seed,
            data=fingerprint(judge.samples),
            progress=self.progress,
        )

    def _not_certified(self, build: Build, proof: Proof) -> str:
        return (
            f"{build.candidate.plan} is faster, but its drop can only be bounded by {100 * proof.reachable:.2f} points "
            f"with {100 * self.request.confidence:g} % confidence; --max-drop {proof.reachable:.4f} is the nearest "
            "budget within reach"
        )

    def _compare(self, build: Build, proof: Proof, judge: Judge, seconds: Mapping[str, float]) -> Result:
        """The last word: what ships against the original, freshly measured, never from the cache."""
        self.progress.phase("compare with the original", 5, PHASES)
        final = self._final(build, proof.point)
        latency, ratio = self._measured(final)
        if ratio is not None and not ratio.is_faster:
            shown = f"{ratio.value:.3f}x ({ratio.low:.3f} to {ratio.high:.3f})"
            return self._hand_back(
                f"the result is not reliably faster than the original: {shown}", build.candidate.plan
            )
        limit = self.request.latency_target_seconds
        if limit is not None and latency.after_seconds is not None and latency.after_seconds > limit:
            reached = f"{1e3 * latency.after_seconds:.3f} ms within the quality budget, {1e3 * limit:.3f} ms were asked for"
            return self._hand_back(f"the latency target was not reached: {reached}", build.candidate.plan)
        self.progress.phase("write", 6, PHASES)
        recipe = write_plan(self.request, self.steps, build.candidate.plan, build, proof.point)
        return ship(
            final,
            latency,
            ratio,
            recipe,
            self.destination,
            material=self.material,
            request=self.request,
            proof=proof,
            judge=judge,
            race=seconds,
        )

    def _without_data(self, build: Build) -> Result:
        self.progress.phase("compare with the original", 5, PHASES)
        final = self._final(build, None)
        latency, ratio = self._measured(final)
        hint = no_data_hint(self.clean, self.families)
        if ratio is not None and not ratio.is_faster:
            shown = f"{ratio.value:.3f}x ({ratio.low:.3f} to {ratio.high:.3f})"
            return self._hand_back(
                f"without data only exact rewrites were tried, and they are not reliably faster: {shown}",
                Plan(),
                hint,
                latency,
            )
        self.progress.phase("write", 6, PHASES)
        recipe = write_plan(self.request, self.steps, build.candidate.plan, build, None)
        return ship(
            final,
            latency,
            ratio,
            recipe,
            self.destination,
            material=self.material,
            request=self.request,
            hints=hint,
        )

    def _final(self, build: Build, point: OperatingPoint | None) -> Final:
        """Build again with the chosen setting as default, and the portable form beside it."""
        model = at_point(build.candidate.model, point)
        folder, portable = self.scratch / "final", self.scratch / "portable"
        for place in (folder, portable):
            place.mkdir()
        build.generator.build(model, self.material.target, folder, build.variant.options)
        self._build_portable(model, portable)
        return Final(Build(build.candidate, build.generator, build.variant, folder), model, self.clean, portable)

    def _build_portable(self, model: ir.Model, folder: Path) -> None:
        from adapass.registry import generator

        portable = generator("onnxruntime")
        variants = portable.variants(
            model, self.material.target, threads=self.request.threads, batch=self.request.batch
        )
        portable.build(model, self.material.target, folder, variants[0].options)

    def _measured(self, final: Final) -> tuple[Latency, Ratio | None]:
        request, target = self.request, self.material.target
        if not self._primary().device_present(target):
            after = final.build.candidate.seconds.seconds
            latency = Latency(
                before_seconds=self._modelled_original(),
                after_seconds=after,
                trust=Trust.MODELLED,
                threads=request.threads,
                batch=request.batch,
                device=target.name,
            )
            return latency, None
        feeds = timing_feeds(self.material, request, 2 * request.effort.timing_feeds)
        timings = race([final.build], self.material.path, feeds, threads=request.threads, rounds=FINAL_ROUNDS)
        before, after_timing = timings[ORIGINAL], timings[final.build.name]
        latency = Latency(
            before_seconds=before.mean,
            after_seconds=after_timing.mean,
            trust=Trust.MEASURED,
            threads=request.threads,
            batch=request.batch,
            device=target.name,
        )
        return latency, after_timing.ratio(before)

    def _hand_back(
        self, reason: str, plan: Plan, hints: Sequence[str] = (), latency: Latency | None = None
    ) -> Result:
        self.progress.phase("write", 6, PHASES)
        recipe = write_plan(self.request, self.steps, plan, None, None)
        finding = Finding(recipe=recipe, task="unknown", latency=latency, messages=tuple(hints))
        return hand_back(self.material, self.destination, finding, reason)

    # Shared

    def _primary(self) -> Generator:
        return self.material.generators[0]

    def _stopwatch(self) -> Stopwatch:
        feeds = timing_feeds(self.material, self.request, self.request.effort.timing_feeds)
        machine = machine_fingerprint(self.request.threads).key
        table = RegionTable(self.cache)
        return Stopwatch(self._primary(), self.material.target, self.request.threads, feeds, table, machine)

    def _modelled_original(self) -> float:
        return self._stopwatch().seconds(self.material.model, {}).seconds

    def _fingerprint(self) -> str:
        parts = self.material.parts
        return f"{parts.fingerprint if parts is not None else ''}|{self.request.seed}|{self.request.mode}"

    def _out_of_time(self) -> bool:
        limit = self.request.time_limit_seconds
        return limit is not None and time.monotonic() - self.started > 0.7 * limit

