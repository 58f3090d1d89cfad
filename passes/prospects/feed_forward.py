"""Feed-forward parts on given data: how many tokens can go without, by three signs of who these are.

The oracle knows how far a part moves the result of this very sample at this token. What is achievable is
found as for other plans, from curves of each part alone, which cost less than gating it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec

from adapass.budgeted import Choice
from adapass.facts import FactCache
from adapass.passes.gates.curves import Curve, Point, Sign, skipping_curves
from adapass.passes.gates.deciders import Decider
from adapass.passes.gates.skip_feed_forward import SkipFeedForward, share_of
from adapass.passes.prospects.plans import Mechanism, look_at_plans
from adapass.passes.prospects.prospect import Material, Place, Prospect

NAME = "feed-forward skipping"
HOW = "tokens by a fitted score, or by saturation without torch"
SETTINGS = ("skip-40", "skip-75")
FRACTIONS = tuple(share_of(setting) for setting in SETTINGS)
CALIBRATION_SAMPLES = 64
"""Enough to set the thresholds of a plan that is only looked at."""


def look_at_feed_forward(material: Material) -> Prospect:
    """Gate the parts in the combinations that their curves promise most of."""
    learns = find_spec("torch") is not None
    decider = Decider.LEARNED if learns else Decider.SATURATION
    step = SkipFeedForward(settings=SETTINGS, decider=decider, calibration_samples=CALIBRATION_SAMPLES)
    proposal = step.propose(material.model, FactCache(material.model))
    if not proposal.choices:
        why = proposal.refusals[0].reason if proposal.refusals else "there are no feed-forward parts"
        return Prospect(NAME, HOW, unavailable=why)
    work: dict[str, float] = {}
    for choice in proposal.choices:
        work[choice.site] = float(str(choice.detail["share_of_work"])) / share_of(choice.setting)
    sign = Sign.LEARNED if learns else Sign.SATURATION
    material.progress.step(0, 0, "all parts without some of the tokens")
    together = _curves(material, tuple(Sign) if learns else (sign,), together=True)
    material.progress.step(0, 0, "each part alone")
    alone = _curves(material, (sign,), together=False)
    mechanism = Mechanism(NAME, HOW, step, share_of=lambda choice: 1.0 - share_of(choice.setting))
    damages = dict(_damages(proposal.choices, alone)) if len(work) > 1 else None
    found = look_at_plans(mechanism, material, damages)
    ends = {curve.sign: _place(curve, sum(work.values()), material) for curve in together}
    oracle = ends[Sign.ORACLE].achievable if Sign.ORACLE in ends else found.oracle
    single = [_place(curve, work[curve.site], material) for curve in alone if curve.site is not None]
    return replace(
        found,
        oracle=max(oracle or 0.0, found.oracle or 0.0),
        places=(*single, *ends.values(), *found.places),
        recipe=f"skip-feed-forward{{decider={decider}}}",
    )


def _curves(material: Material, signs: tuple[Sign, ...], *, together: bool) -> tuple[Curve, ...]:
    return skipping_curves(
        material.model,
        FactCache(material.model),
        material.fit,
        material.check,
        signs=signs,
        fractions=FRACTIONS,
        together=together,
        apart=not together,
    )


def _damages(choices: tuple[Choice, ...], alone: tuple[Curve, ...]) -> Iterator[tuple[str, float]]:
    """What each setting does at one site, in a unit that adds up."""
    points = {curve.site: curve.points for curve in alone}
    for choice in choices:
        wanted = share_of(choice.setting)
        near = min(points[choice.site], key=lambda point: abs(point.skipped - wanted))
        yield choice.key, near.damage.additive(classes=near.damage.divergence is not None)


def _place(curve: Curve, work: float, material: Material) -> Place:
    """The most that can be skipped within the tolerance; a curve that comes back later does not count."""
    best: Point | None = None
    for point in sorted(curve.points, key=lambda point: point.skipped):
        if _lost(point) > material.tolerance:
            break
        best = point
    site = curve.site or f"all alike, by {curve.sign}"
    if best is None:
        return Place(site, "as it is", None, 0.0, 0.0)
    setting = f"{best.skipped:.0%} of the tokens go without"
    return Place(site, setting, None, best.skipped * work, _lost(best), best.damage.divergence)


def _lost(point: Point) -> float:
    """Answers that change; where there are no classes, how far the output moves."""
    return point.damage.distortion if point.agreement is None else 1.0 - point.agreement
