"""One run of the main job, after reading and cleaning: search, race, prove, compare, write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from adapass.artifact.manifest import Latency
from adapass.certify.bounds import Method
from adapass.certify.power import data_message, smallest_budget
from adapass.driver.choosing import clean_candidate, finalists, front_of, replay, search
from adapass.driver.comparing import MOST_POINTS, final_build, modelled_original, shortfall
from adapass.driver.context import Context
from adapass.driver.experience import Experience
from adapass.driver.finals import ORIGINAL, Build, race_once
from adapass.driver.front import front_entries
from adapass.driver.material import Parts
from adapass.driver.outcome import Finding, hand_back
from adapass.driver.points import first_faster
from adapass.driver.proof import Contestant, Proof, prove, safer_steps, sequence
from adapass.driver.recipe import Decisions, write_plan
from adapass.driver.replayed import compared_once
from adapass.driver.report import FrontPoint, Report, Result, Row
from adapass.driver.shipping import no_data_hint, ship
from adapass.errors import ExitCode
from adapass.executor import TimeUpError
from adapass.search.candidates import Search
from adapass.search.judge import Judge, spread_indices
from adapass.search.left_out import left_out
from adapass.search.plan import Plan, plan_to_recipe
from adapass.search.trials import Candidate

PHASES = 6
SEARCH_RUN_SHARE = 0.1
"""Share of a time limit that running the original on the search samples may take."""
FEWEST_SEARCH_SAMPLES = 100


@dataclass(frozen=True)
class Notes:
    """What the search has to say, and what it can say about the plan that ships."""

    said: tuple[str, ...] = ()
    work: Search | None = None

    def about(self, plan: Plan) -> tuple[str, ...]:
        """All that was said, then what ``plan`` leaves as it was and why."""
        if self.work is None:
            return self.said
        work = self.work
        clean = work.trials.evaluations.clean
        return (*self.said, *left_out(clean, work.families, work.statics, plan, classes=work.classes))


@dataclass(frozen=True)
class Job:
    """``run`` is called once."""

    context: Context

    def run(self, decisions: Decisions | None) -> Result:
        parts = self.context.material.parts
        if parts is None:
            return self._without_data(decisions)
        if (reason := self._unsupported_budget(parts)) is not None:
            return self._hand_back(reason, Plan())
        self._phase("search", 2)
        limit = self._search_samples()
        judge = self.context.judge(
            "search", parts.search.subset(list(spread_indices(len(parts.search), limit)))
        )
        notes = Notes()
        work: Search | None = None
        experience: Experience | None = None
        if decisions is not None:
            try:
                candidates = [replay(self.context, parts, judge, decisions)]
            except TimeUpError:
                return self._hand_back("the time limit is too short to repeat the recipe", decisions.plan)
        else:
            experience = Experience(self.context, judge)
            candidates, work = search(self.context, parts, judge, experience.advice())
            notes = Notes(tuple(work.trials.notes), work)
        if not candidates:
            return self._hand_back("nothing within the budget is as small as asked for", Plan(), notes.said)
        if self.context.request.dry_run:
            return self._planned(candidates)
        self._phase("race the finalists", 3)
        builds = finalists(self.context, candidates, decisions)
        result = self._finish(parts, builds, self._race(builds), notes, candidates)
        if work is not None and experience is not None:
            self._learn(result, experience, work)
        return result

    def _learn(self, result: Result, experience: Experience, work: Search) -> None:
        shipped = next(
            (c for c in work.trials.found if plan_to_recipe(c.plan) == result.recipe["families"]), None
        )
        request = self.context.request
        if request.time_limit_seconds is not None or request.latency_target_seconds is not None:
            return  # what was left out for lack of time, or was not fast enough for somebody, is no lesson
        if request.heal_seconds is not None:
            return  # what a healed model gains says little about one that is not
        if result.exit_code is not ExitCode.OK:
            experience.learn(work, Plan(), 1.0, 0.0)
        elif shipped is not None and result.latency_ratio is not None:
            experience.learn(work, shipped.plan, result.latency_ratio, shipped.loss)

    def _search_samples(self) -> int:
        """As many as the mode takes, fewer where running the original on them would eat up the time limit."""
        request, most = self.context.request, self.context.request.effort.search_samples
        if request.time_limit_seconds is None:
            return most
        each = self.context.stopwatch().seconds(self.context.material.model, {}).seconds / request.batch
        return max(
            FEWEST_SEARCH_SAMPLES, min(most, int(SEARCH_RUN_SHARE * request.time_limit_seconds / each))
        )

    def _unsupported_budget(self, parts: Parts) -> str | None:
        """Why the certify part cannot certify even a lossless result; said before anything long starts."""
        request, count = self.context.request, len(parts.certify)
        method = Method.CLOPPER_PEARSON if parts.certify.labels is None else Method.EXACT_PAIRED
        smallest = smallest_budget(count, request.confidence, method=method)
        if smallest <= request.max_drop or request.allow_uncertified:
            return None
        return data_message(count, request.max_drop, request.confidence, method=method)

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
        point = best.points[-1] if best.points else None
        recipe = write_plan(self.context.request, self.context.steps, best.plan, None, point)
        return Result(None, Report(tuple(rows), ("dry run: nothing was written",)), recipe)

    def _race(self, builds: Sequence[Build]) -> Mapping[str, float]:
        context = self.context
        if not context.device_present:
            modelled = {build.name: build.candidate.seconds.seconds for build in builds}
            return {ORIGINAL: modelled_original(context), **modelled}
        return race_once(
            builds,
            context.material.path,
            context.feeds(),
            threads=context.request.threads,
            cache=context.cache,
            machine=context.machine,
            max_seconds=context.time.race_seconds(),
        )

    def _finish(
        self,
        parts: Parts,
        builds: Sequence[Build],
        seconds: Mapping[str, float],
        notes: Notes,
        candidates: Sequence[Candidate],
    ) -> Result:
        """Prove the fastest build, with exact and safer ones in front of it; ship the last that passed."""
        self._phase("certify", 4)
        measured = self.context.device_present
        faster = [b for b in builds if not measured or seconds[b.name] < seconds[ORIGINAL]]
        if not faster:
            reason = f"nothing within the budget beat the original ({1e3 * seconds[ORIGINAL]:.3f} ms)"
            front = front_of(self.context, builds, seconds, candidates)
            return self._hand_back(reason, Plan(), notes.about(Plan()), front=front)
        fast = min(faster, key=lambda build: seconds[build.name])
        exact = exact_builds(faster)
        safest = min(exact, key=lambda build: seconds[build.name]) if exact else None
        limit = self.context.request.latency_target_seconds
        slowest = max(seconds[fast.name], seconds[ORIGINAL])
        steps = sequence(fast, safest, limit, safer_steps(fast, faster, seconds))
        contestants = self._fitting(steps, fast, len(parts.certify), slowest)
        if not contestants:
            reason = "the time limit leaves no time to certify anything; allow more"
            return self._hand_back(reason, fast.candidate.plan, notes.said)
        judge = self.context.judge("certify", parts.certify)
        proof = prove(self.context, contestants, judge, until=self.context.time.proof)
        front = front_of(self.context, builds, seconds, candidates)
        if proof.certificate is None and not self.context.request.allow_uncertified:
            return self._hand_back(self._not_certified(proof), fast.candidate.plan, notes.said, front=front)
        return self._compare(proof, judge, seconds, front, notes)

    def _fitting(
        self, contestants: Sequence[Contestant], fast: Build, samples: int, seconds: float
    ) -> list[Contestant]:
        """As many steps of the sequence as there is time for, ends included; the original is run as well.

        Where not all fit, those of the exact build go first: what it would win is little.
        """
        if not self.context.device_present or self.context.request.time_limit_seconds is None:
            return list(contestants)
        # Certify samples run one by one, which a batch is much better at.
        each = seconds / max(1.0, self.context.request.batch / 4)
        steps = self.context.time.proof_steps(samples, each, len(contestants) + 1) - 1
        if steps >= len(contestants):
            return list(contestants)
        contestants = [step for step in contestants if step.build is fast] or list(contestants)
        places = {round(i * (len(contestants) - 1) / max(steps - 1, 1)) for i in range(max(steps, 0))}
        return [contestants[place] for place in sorted(places)]

    def _not_certified(self, proof: Proof) -> str:
        bound = (
            f"{100 * proof.reachable:.2f} points with {100 * self.context.request.confidence:g} % confidence"
        )
        return (
            f"{proof.contestant.build.candidate.plan} is faster, but its drop can only be bounded by "
            f"{bound}; --max-drop {proof.reachable:.4f} is the nearest budget within reach"
        )

    def _compare(
        self,
        proof: Proof,
        judge: Judge,
        seconds: Mapping[str, float],
        front: Sequence[FrontPoint],
        notes: Notes,
    ) -> Result:
        self._phase("compare with the original", 5)
        build = proof.contestant.build
        final = final_build(self.context, build, proof.contestant.point)
        limit = self.context.time.compare_seconds()
        most = MOST_POINTS if limit is None else 1
        found = compared_once(self.context, final, proof.steps, most_points=most, max_seconds=limit)
        if (reason := shortfall(self.context, found.latency, found.ratio)) is not None:
            plan = build.candidate.plan
            return self._hand_back(reason, plan, notes.about(plan), found.latency, front)
        self._phase("write", 6)
        first = first_faster(found.points)
        return ship(
            self.context,
            final,
            found.latency,
            found.ratio,
            proof=replace(proof, steps=proof.steps[first:]),
            judge=judge,
            race=seconds,
            front=front,
            points={index - first: timing for index, timing in found.points.items() if index >= first},
            hints=notes.about(build.candidate.plan),
        )

    def _without_data(self, decisions: Decisions | None) -> Result:
        """Exact rewrites and build settings only, and a word on what data would unlock."""
        self._phase("race the finalists", 3)
        builds = finalists(self.context, [clean_candidate(self.context)], decisions)
        seconds = self._race(builds)
        best = min(builds, key=lambda build: seconds[build.name])
        hints = no_data_hint(self.context.clean, self.context.families)
        if self.context.request.dry_run:
            return self._planned([best.candidate])
        self._phase("compare with the original", 5)
        final = final_build(self.context, best, None)
        limit = self.context.time.compare_seconds()
        found = compared_once(self.context, final, (), most_points=1, max_seconds=limit)
        latency, ratio = found.latency, found.ratio
        if (reason := shortfall(self.context, latency, ratio)) is not None:
            said = f"without data only exact rewrites and build settings were tried; {reason}"
            return self._hand_back(said, Plan(), hints, latency)
        self._phase("write", 6)
        return ship(self.context, final, latency, ratio, race=seconds, hints=hints)

    def _hand_back(
        self,
        reason: str,
        plan: Plan,
        hints: Sequence[str] = (),
        latency: Latency | None = None,
        front: Sequence[FrontPoint] = (),
    ) -> Result:
        self._phase("write", 6)
        context = self.context
        recipe = write_plan(context.request, context.steps, plan, None, None)
        if context.request.dry_run:
            return Result(None, Report((), (reason, *hints)), recipe)
        finding = Finding(
            recipe=recipe,
            task="unknown",
            latency=latency,
            messages=tuple(hints),
            pareto=front_entries(front),
        )
        return hand_back(context.material, context.destination, finding, reason)

    def _phase(self, name: str, index: int) -> None:
        self.context.progress.phase(name, index, PHASES)


def exact_builds(builds: Sequence[Build]) -> list[Build]:
    """Those that compute what the original does, up to rounding."""
    return [build for build in builds if build.variant.exact and not build.candidate.plan.parts]
