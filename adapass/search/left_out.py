"""What the shipped plan leaves as it was, and why: in the words of the family, or in measured numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import onnx_ir as ir

from adapass.budgeted import BudgetedPass, Proposal
from adapass.facts import FactCache
from adapass.search.plan import Plan
from adapass.search.statics import StaticOption

NAMED = 3
"""Sites a reason is shown with; the others are counted."""


def left_out(
    clean: ir.Model,
    families: Iterable[BudgetedPass],
    options: Sequence[StaticOption],
    plan: Plan,
    *,
    classes: bool,
) -> list[str]:
    """A sentence for every family of single products that changed less than all it could.

    ``options`` are the priced choices; families that cut or that tune at run time speak for themselves.
    """
    taken = {(str(part.step), choice.site) for part in plan.parts for choice in part.choices}
    cut = _cut_sites(plan)
    said: list[str] = []
    for step in families:
        own = [option for option in options if str(option.step) == str(step)]
        if step.structural or not own:
            continue
        changed = {site for name, site in taken if name == str(step)}
        reasons = _reasons(step.propose(clean, FactCache(clean)), own, changed, cut, classes=classes)
        total = len({option.choice.site for option in own})
        if reasons:
            said.append(f"{step.name} changed {len(changed)} of {total} sites; as it was stays {reasons}")
    return said


def _cut_sites(plan: Plan) -> frozenset[str]:
    return frozenset(choice.site for part in plan.parts if part.step.structural for choice in part.choices)


def _reasons(
    proposal: Proposal,
    options: Sequence[StaticOption],
    changed: Collection[str],
    cut: Collection[str],
    *,
    classes: bool,
) -> str:
    """Sites by reason, those the family refused first."""
    groups: dict[str, list[str]] = {}
    for refusal in proposal.refusals:
        groups.setdefault(refusal.reason, []).append(refusal.site)
    whole = sum(option.damage.additive(classes=classes) for option in options)
    best = {o.choice.site: o for o in sorted(options, key=lambda option: option.saving)}
    for site, option in best.items():
        if site not in changed:
            damage = option.damage.additive(classes=classes) / whole if whole > 0.0 else 0.0
            groups.setdefault(_why(option, damage, gone=site in cut), []).append(site)
    return "; ".join(f"{_listed(sites)} ({reason})" for reason, sites in groups.items())


def _why(option: StaticOption, damage: float, *, gone: bool) -> str:
    if gone:
        return "cut out or replaced by another family"
    if option.saving <= 0.0:
        return f"measured: it would cost {-1e6 * option.saving:.1f} us a call"
    return (
        f"it would save {1e6 * option.saving:.1f} us a call, and makes {100 * damage:.0f} % of the "
        "damage of all sites"
    )


def _listed(sites: Sequence[str]) -> str:
    shown = ", ".join(f"'{site}'" for site in sites[:NAMED])
    return shown if len(sites) <= NAMED else f"{shown} and {len(sites) - NAMED} more"
