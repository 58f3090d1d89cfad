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
    """A sentence for every family of single products that changed less than all it could, or only for size.

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
    return said + _only_smaller(plan)


def _only_smaller(plan: Plan) -> list[str]:
    """Choices of formats that are known to run faster nowhere (``detail['faster_on']`` is empty)."""
    sites = [c.site for part in plan.parts for c in part.choices if c.detail.get("faster_on") == []]
    return [f"{_listed(sites)}: chosen for size, nothing runs these formats faster"] if sites else []


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
    best = {o.choice.site: o for o in sorted(options, key=lambda option: option.saving)}
    left = [option for site, option in best.items() if site not in changed]
    gone = [option.choice.site for option in left if option.choice.site in cut]
    if gone:
        groups["cut out or replaced by another family"] = gone
    slower = [o for o in left if o.saving <= 0.0 and o.choice.site not in cut]
    if slower:
        cost = max(-1e6 * option.saving for option in slower)
        groups[f"measured: it would cost up to {cost:.1f} us a call"] = _sites(slower)
    held = [o for o in left if o.saving > 0.0 and o.choice.site not in cut]
    if held:
        groups[_budget(held, options, classes=classes)] = _sites(held)
    return "; ".join(f"{_listed(sites)} ({reason})" for reason, sites in groups.items())


def _sites(options: Sequence[StaticOption]) -> list[str]:
    """Those with the most damage first."""
    return [o.choice.site for o in sorted(options, key=lambda o: -o.damage.distortion)]


def _budget(held: Sequence[StaticOption], options: Sequence[StaticOption], *, classes: bool) -> str:
    """What sites that would pay are left out for."""
    whole = sum(option.damage.additive(classes=classes) for option in options)
    damage = sum(option.damage.additive(classes=classes) for option in held)
    share = damage / whole if whole > 0.0 else 0.0
    saving = sum(1e6 * option.saving for option in held)
    return (
        f"together it would save {saving:.1f} us a call, for {100 * share:.0f} % of the damage of all sites: "
        "more than the budget allows beside the rest of the plan"
    )


def _listed(sites: Sequence[str]) -> str:
    shown = ", ".join(f"'{site}'" for site in sites[:NAMED])
    return shown if len(sites) <= NAMED else f"{shown} and {len(sites) - NAMED} more"
