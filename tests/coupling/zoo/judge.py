"""Cut every prunable group of a model by 30 %, all at once, and look whether everything still holds.

1. the ONNX checker and strict shape inference accept the cut model
2. inputs and outputs are declared as before; what was dynamic is dynamic
3. every stored tensor has exactly the size that the groups promise, and there is nothing left over
4. on every feed the numbers are those of the original with the removed units masked
5. without asking ``adapass.coupling.zeroed`` anything: the numbers are those of the original with the
   removed units' weights set to zero; for the groups that claim to be exact as it is, for all groups with
   normalisations that count only what stays
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Feeds
from adapass.coupling.groups import Coupling, Group, find_coupling
from adapass.coupling.remove import remove
from adapass.coupling.zeroed import zeroed
from adapass.errors import AdapassError
from adapass.graph.check import check_structure
from adapass.graph.text import clone
from adapass.verification import ROUNDING_TOLERANCE, Comparison, compare_outputs, run_all
from tests.coupling.zoo.averages import recount
from tests.coupling.zoo.sizes import covered, float_elements, promised_shapes, stored_shapes, wide_elements
from tests.coupling.zoo.weights import blanked

CUT = 0.3
TOLERANCE = ROUNDING_TOLERANCE["float32"]
VISIBLE = 20 * TOLERANCE
"""Masking must move the outputs by more than this, else equal numbers show nothing."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found and cut in one model, and what went wrong."""

    nodes: int
    groups: int
    exact: int
    kinds: Mapping[str, int]
    units: int
    removed: int
    refusals: Mapping[str, int]
    """How many dimensions were refused for each reason."""
    parameters: int
    prunable: float
    """Share of the parameters that lie in a group."""
    saved: float
    """Share of the parameters that is gone."""
    difference: float
    """Largest error against the masked original, relative to the root mean square of that output."""
    effect: float
    """How far masking moves the outputs, same unit."""
    independent: float
    """Largest error against the original with blanked weights, same unit (point 5)."""
    problems: tuple[str, ...] = field(default=())


def choose(groups: Sequence[Group], seed: int = 0) -> dict[str, list[int]]:
    """The units that stay: 30 % go, one at least, at random places."""
    random = np.random.default_rng(seed)
    kept: dict[str, list[int]] = {}
    for group in groups:
        if group.units < 2:
            continue
        gone = min(max(1, round(CUT * group.units)), group.units - 1)
        dropped = set(random.choice(group.units, gone, replace=False).tolist())
        kept[group.key] = [unit for unit in range(group.units) if unit not in dropped]
    return kept


def judge(model: ir.Model, feeds: Sequence[Feeds], seed: int = 0) -> Verdict:
    """Cut ``model`` (a clean one) and check points 1 to 5. What fails is listed, not raised."""
    coupling = find_coupling(model)
    kept = choose(coupling.groups, seed)
    problems: list[str] = []
    shapes = stored_shapes(model)
    total = float_elements(shapes.values())
    cut = clone(model)
    groups = [group for group in coupling.groups if group.key in kept]
    difference = effect = independent = np.inf
    saved = 0.0
    try:
        remove(cut, kept)
        check_structure(cut)
        problems += _interface(model, cut)
        problems += _sizes(model, cut, coupling, kept)
        saved = 1 - float_elements(stored_shapes(cut).values()) / max(1, total)
        original, masked, found = (run_all(m, feeds) for m in (model, zeroed(model, kept), cut))
        difference = worst(compare_outputs(masked, found), problems)
        independent = _by_weights(model, feeds, _Chosen("all groups", groups, kept, cut), problems)
        effect = compare_outputs(original, masked).worst().relative_max
    except AdapassError as error:
        problems.append(f"{type(error).__name__}: {str(error).splitlines()[0]}")
    if kept and effect <= VISIBLE:
        problems.append(f"masking hardly moves the outputs ({effect:.1e}): equal numbers show nothing")
    exact = [group for group in groups if group.exact]
    if exact and len(exact) < len(groups):
        independent = max(independent, _exact_alone(model, feeds, exact, kept, problems))
    return Verdict(
        nodes=sum(1 for _ in model.graph.all_nodes()),
        groups=len(coupling.groups),
        exact=sum(group.exact for group in coupling.groups),
        kinds=dict(sorted(Counter(str(group.kind) for group in coupling.groups).items())),
        units=sum(group.units for group in coupling.groups),
        removed=sum(g.units - len(kept[g.key]) for g in coupling.groups if g.key in kept),
        refusals=dict(Counter(refusal.reason for refusal in coupling.refusals).most_common()),
        parameters=total,
        prunable=covered(model, coupling.groups) / max(1, total),
        saved=saved,
        difference=difference,
        effect=effect,
        independent=independent,
        problems=tuple(problems),
    )


def worst(comparison: Comparison, problems: list[str], what: str = "numbers") -> float:
    found = comparison.worst()
    if not found.relative_max <= TOLERANCE:
        problems.append(
            f"{what} of '{found.output}' are off by {found.relative_max:.1e} {found.note}".strip()
        )
    return found.relative_max


def _interface(before: ir.Model, after: ir.Model) -> list[str]:
    problems: list[str] = []
    for what, olds, news in (
        ("input", before.graph.inputs, after.graph.inputs),
        ("output", before.graph.outputs, after.graph.outputs),
    ):
        if [value.name for value in olds] != [value.name for value in news]:
            problems.append(f"the {what}s have other names")
            continue
        for old, new in zip(olds, news, strict=True):
            if _declared(old) != _declared(new):
                problems.append(f"{what} '{old.name}' was {old.shape}, is {new.shape}")
    return problems


def _declared(value: ir.Value) -> list[int | None] | None:
    """Sizes, ``None`` for a dynamic one (its symbol may have another name)."""
    if value.shape is None:
        return None
    return [dim if isinstance(dim, int) else None for dim in value.shape]


def _sizes(
    before: ir.Model, after: ir.Model, coupling: Coupling, kept: Mapping[str, Sequence[int]]
) -> list[str]:
    promised = promised_shapes(before, coupling.groups, kept)
    found = stored_shapes(after)
    wrong = [
        f"'{name}' has shape {list(found[name])}, promised {list(shape)}"
        for name, shape in promised.items()
        if name in found and tuple(found[name]) != shape
    ]
    there, expected = wide_elements(found.values()), wide_elements(promised.values())
    if not wrong and there > expected:
        wrong.append(f"{there} stored elements, promised {expected}")
    return wrong[:3]


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Groups, the units of them that stay, and the model without the others."""

    what: str
    groups: Sequence[Group]
    kept: Mapping[str, Sequence[int]]
    cut: ir.Model


def _exact_alone(
    model: ir.Model,
    feeds: Sequence[Feeds],
    exact: Sequence[Group],
    kept: Mapping[str, Sequence[int]],
    problems: list[str],
) -> float:
    """Groups that claim to be exact need no normalisation corrected."""
    chosen = {group.key: kept[group.key] for group in exact}
    try:
        cut = clone(model)
        remove(cut, chosen)
        return _by_weights(model, feeds, _Chosen("exact groups", exact, chosen, cut), problems)
    except AdapassError as error:
        problems.append(f"blanked weights, exact groups: {str(error).splitlines()[0]}")
        return np.inf


def _by_weights(model: ir.Model, feeds: Sequence[Feeds], chosen: _Chosen, problems: list[str]) -> float:
    reference = blanked(model, chosen.groups, chosen.kept)
    if not all(group.exact for group in chosen.groups):
        recount(reference, chosen.cut, chosen.groups, chosen.kept)
    comparison = compare_outputs(run_all(reference, feeds), run_all(chosen.cut, feeds))
    return worst(comparison, problems, f"blanked weights, {chosen.what}: numbers")
