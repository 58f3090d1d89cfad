"""Feed-forward parts on given data: how many tokens can go without, by three signs of who these are."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from adapass.facts import FactCache
from adapass.passes.gates.curves import Curve, Point, Sign, skipping_curves
from adapass.passes.gates.deciders import Decider
from adapass.passes.gates.skip_feed_forward import SkipFeedForward, share_of
from adapass.passes.prospects.prospect import Material, Place, Prospect

NAME = "feed-forward skipping"
HOW = "tokens by a fitted score, or by saturation"
FRACTIONS = (0.25, 0.5, 0.75, 0.9)
DECIDERS = {Sign.LEARNED: Decider.LEARNED, Sign.SATURATION: Decider.SATURATION}


def look_at_feed_forward(material: Material) -> Prospect:
    """Curves of all parts together and of each alone; without torch by saturation only, and no oracle."""
    learns = find_spec("torch") is not None
    step = SkipFeedForward(decider=Decider.LEARNED if learns else Decider.SATURATION)
    proposal = step.propose(material.model, FactCache(material.model))
    if not proposal.choices:
        why = proposal.refusals[0].reason if proposal.refusals else "there are no feed-forward parts"
        return Prospect(NAME, HOW, unavailable=why)
    material.progress.step(0, 0, "feed-forward parts without some of the tokens")
    shares: dict[str, float] = {}
    for choice in proposal.choices:
        shares[choice.site] = float(str(choice.detail["share_of_work"])) / share_of(choice.setting)
    curves = skipping_curves(
        material.model,
        FactCache(material.model),
        material.fit,
        material.check,
        signs=tuple(Sign) if learns else (Sign.SATURATION,),
        fractions=FRACTIONS,
    )
    together = {curve.sign: curve for curve in curves if curve.site is None}
    work = sum(shares.values())
    ways = {sign: _last(curve, material) for sign, curve in together.items() if sign is not Sign.ORACLE}
    sign, best = max(ways.items(), key=lambda way: 0.0 if way[1] is None else way[1].skipped)
    places = [
        _place(site, {c.sign: c for c in curves if c.site == site}, share, material)
        for site, share in shares.items()
    ]
    return Prospect(
        NAME,
        HOW,
        oracle=_saving(together.get(Sign.ORACLE), work, material),
        achievable=0.0 if best is None else best.skipped * work,
        lost=0.0 if best is None else _lost(best),
        divergence=None if best is None else best.damage.divergence,
        places=(
            *places,
            _place("together", together, work, material),
        ),
        recipe=f"skip-feed-forward{{decider={DECIDERS[sign]}}}",
    )


def _place(site: str, curves: Mapping[Sign, Curve], share: float, material: Material) -> Place:
    points = {sign: _last(curve, material) for sign, curve in curves.items() if sign is not Sign.ORACLE}
    sign, best = max(points.items(), key=lambda way: 0.0 if way[1] is None else way[1].skipped)
    return Place(
        site=site,
        setting="as it is" if best is None else f"skip {best.skipped:.0%} by {sign}",
        oracle=_saving(curves.get(Sign.ORACLE), share, material),
        achievable=0.0 if best is None else best.skipped * share,
        lost=0.0 if best is None else _lost(best),
        divergence=None if best is None else best.damage.divergence,
    )


def _saving(curve: Curve | None, share: float, material: Material) -> float | None:
    if curve is None:
        return None
    best = _last(curve, material)
    return 0.0 if best is None else best.skipped * share


def _last(curve: Curve, material: Material) -> Point | None:
    """The most that can be skipped within the tolerance; a curve that comes back later does not count."""
    found: Point | None = None
    for point in sorted(curve.points, key=lambda point: point.skipped):
        if _lost(point) > material.tolerance:
            break
        found = point
    return found


def _lost(point: Point) -> float:
    """Answers that change; where there are no classes, how far the output moves."""
    return point.damage.distortion if point.agreement is None else 1.0 - point.agreement
