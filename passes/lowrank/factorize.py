"""Replace the weight of a product by two thin factors.

    y = MatMul(x, w)     ->   y = MatMul(MatMul(x, a), b)             w [K, N], a [K, r], b [r, N]
    y = Conv(x, w)       ->   y = Conv(Conv(x, a), b)                 k x k then 1 x 1, or k x 1 then 1 x k

``r (K + N)`` multiplications in the place of ``K N``. The factors are the best ones for the inputs seen in
calibration (``factors.py``): lost is what hardly varied in the outputs, and its mean goes into the bias.
``forms.py`` shows the forms of convolutions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, cast

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array, BudgetedPass, Choice, Feeds, Proposal, Refusal, Samples
from adapass.errors import UsageError, VerificationError
from adapass.executor.threads import one_thread
from adapass.facts import FactCache
from adapass.graph.edit import remove_dead_nodes
from adapass.graph.text import clone
from adapass.moments import Moments
from adapass.moments.batches import Batches
from adapass.moments.second import gather
from adapass.moments.sources import Source
from adapass.passes.lowrank.factors import Doubles, Factors, factorize
from adapass.passes.lowrank.forms import (
    Form,
    Thin,
    factors_as_stored,
    find_forms,
    form_of,
    lay_out,
    matrix_of,
    product_of,
)
from adapass.passes.prune.kept_weights import alignment, check_weights
from adapass.passes.prune.linear_ops import linear_ops, store, stored
from adapass.rewrite import PassResult

SEPARATOR = "-"
_ORIGINAL = "adapass.factorize.original"
"""Where a graph keeps, between ``apply`` and ``fit``, what it was; not serialised."""


@dataclass(frozen=True, slots=True)
class _Open:
    """What ``apply`` did: the model before, and (result of the product, form, rank)."""

    original: ir.Model
    chosen: tuple[tuple[str, Form, int], ...]


@dataclass(frozen=True, kw_only=True)
class Factorize(BudgetedPass):
    """Low-rank factors for MatMul, Gemm and Conv with stored weights.

    A setting is a form and a rank, ``rank-64``, ``channels-16`` or ``spatial-24``. Ranks are those that leave
    a share of the work, in whole steps; products where no step saves anything are refused. Without data the
    factors are those of a plain singular value decomposition.
    """

    name: ClassVar[str] = "factorize"
    max_distortion: ClassVar[float] = 0.5
    structural: ClassVar[bool] = True
    source: ClassVar[str] = "Wang et al. 2024, SVD-LLM, arXiv:2403.07378"

    shares: tuple[float, ...] = (0.5, 0.75, 0.33, 0.25)
    """Shares of a product's work that may stay; the preferred one first."""
    multiple: int = 8
    """Ranks are multiples of this: kernels compute whole vectors."""
    min_elements: int = 4096
    """Smaller weights stay as they are."""
    calibration_samples: int = 256
    """How many samples, evenly spaced, the factors are fitted on."""
    skip_sites: tuple[str, ...] = ()
    """Results of products that stay as they are."""

    def __post_init__(self) -> None:
        if not self.shares or not all(0.0 < share < 1.0 for share in self.shares):
            raise ValueError(f"shares must lie between 0 and 1, found {list(self.shares)}")
        if self.multiple < 1:
            raise ValueError(f"multiple must be at least 1, found {self.multiple}")
        if self.calibration_samples < 1:
            raise ValueError(f"calibration_samples must be at least 1, found {self.calibration_samples}")

    def propose(self, model: ir.Model, facts: FactCache) -> Proposal:
        del facts
        choices: list[Choice] = []
        refusals: list[Refusal] = []
        for node, forms in find_forms(model):
            site = node.outputs[0].name or ""
            if (reason := self._objection(site, node, forms)) is not None:
                refusals.append(Refusal(site, reason))
                continue
            choices += [self._choice(site, node, thin, rank) for thin, rank in self._offers(forms)]
        return Proposal(tuple(choices), tuple(refusals))

    def apply(self, model: ir.Model, facts: FactCache, choices: Sequence[Choice]) -> PassResult:
        """Put factors at the chosen sites, those of a plain decomposition until ``fit``.

        Raises:
            UsageError: a choice names an unknown site or setting, or a site twice.

        """
        proposal = self.propose(model, facts)
        wanted = self._matched(choices, model)
        if wanted:
            original = clone(model)
            for node, thin, rank in wanted:
                factors = factorize(matrix_of(thin, stored(model, thin.op.weight)), None, rank)
                lay_out(model.graph, node, thin, rank)
                _install(model, node, thin, factors)
            remove_dead_nodes(model)
            chosen = tuple((thin.op.node, thin.form, rank) for _, thin, rank in wanted)
            cast("dict[str, object]", model.graph.meta)[_ORIGINAL] = _Open(original, chosen)
            facts.keep_only(())
        reasons = Counter(refusal.reason for refusal in proposal.refusals)
        sites = tuple(thin.op.node for _, thin, _ in wanted)
        return PassResult(len(wanted), MappingProxyType(dict(reasons)), sites)

    def fit(self, model: ir.Model, data: Samples | None) -> None:
        """Refit factors and biases to the inputs seen in the original; without data leave them alone."""
        opened = cast("dict[str, object]", model.graph.meta).pop(_ORIGINAL, None)
        if data is None or not isinstance(opened, _Open):
            return
        thins = {thin.op.node: thin for thin in _chosen_forms(opened)}
        batches = Batches.of(opened.original, data, count=self.calibration_samples)
        seen = gather(opened.original, list(dict.fromkeys(thin.source for thin in thins.values())), batches)
        nodes = {node.outputs[0].name: node for node in model.graph}
        with one_thread():
            for site, _, rank in opened.chosen:
                _fit(opened.original, model, nodes[site], thins[site], rank, seen)

    def check(self, before: ir.Model, after: ir.Model, feeds: Sequence[Feeds]) -> None:
        """Compare the weights: factors multiply to what points where the weight did, the rest stays.

        Raises:
            VerificationError: naming the weight.

        """
        del feeds
        nodes = {node.outputs[0].name: node for node in after.graph}
        now = {op.node: op.weight for op in linear_ops(after)}
        fitted: set[str] = set()
        for _, forms in find_forms(before):
            op = forms[0].op
            if op.node not in now or now[op.node] == op.weight or op.node not in nodes:
                continue
            fitted.update(name for name in (op.bias,) if name)
            self._check_factors(before, after, forms, nodes[op.node])
        check_weights(self.name, before, after, fitted)

    def _check_factors(self, before: ir.Model, after: ir.Model, forms: Sequence[Thin], node: ir.Node) -> None:
        first, second = _factor_names(node)
        arrays = stored(after, first), stored(after, second)
        thin = next(thin for thin in forms if thin.form is form_of(*arrays))
        whole = stored(before, thin.op.weight)
        if alignment(matrix_of(thin, whole), product_of(thin, *arrays)) <= 0.0:
            raise VerificationError(
                f"factorize: the factors of '{thin.op.weight}' point away from it; a sign or an axis is wrong"
            )

    def _objection(self, site: str, node: ir.Node, forms: Sequence[Thin]) -> str | None:
        if site in self.skip_sites:
            return "listed in skip_sites"
        if forms[0].rows * forms[0].columns < self.min_elements:
            return "the weight is too small"
        if not any(True for _ in self._offers(forms)):
            return "no rank saves work"
        del node
        return None

    def _offers(self, forms: Sequence[Thin]) -> Iterator[tuple[Thin, int]]:
        """Forms and ranks: for one share of work after the other, the form that keeps the largest part."""
        found: dict[tuple[Form, int], tuple[Thin, int]] = {}
        for share in self.shares:
            for thin in sorted(forms, key=lambda thin: -_kept_part(thin)):
                for rank in thin.ranks((share,), self.multiple):
                    found.setdefault((thin.form, rank), (thin, rank))
        return iter(found.values())

    def _choice(self, site: str, node: ir.Node, thin: Thin, rank: int) -> Choice:
        detail: dict[str, object] = {
            "operator": node.op_type,
            "rank": rank,
            "share_of_work": rank * thin.each / thin.whole,
        }
        return Choice(
            family=self.name,
            site=site,
            setting=f"{thin.form}{SEPARATOR}{rank}",
            excludes=frozenset({("quantize-8bit", site), ("sparsify", site)}),
            detail=MappingProxyType(detail),
        )

    def _matched(self, choices: Sequence[Choice], model: ir.Model) -> list[tuple[ir.Node, Thin, int]]:
        """What to do, in execution order; refuses before anything is changed."""
        wanted: dict[str, Choice] = {}
        for choice in choices:
            if choice.site in wanted:
                raise UsageError(
                    f"factorize: site '{choice.site}' is chosen twice; choose one setting a site"
                )
            wanted[choice.site] = choice
        found: list[tuple[ir.Node, Thin, int]] = []
        for node, forms in find_forms(model):
            site = node.outputs[0].name or ""
            if site in wanted:
                found.append((node, *self._understood(wanted.pop(site), node, forms)))
        for choice in wanted.values():
            raise UsageError(f"this model has no choice {choice.key}; propose() lists sites and settings")
        return found

    def _understood(self, choice: Choice, node: ir.Node, forms: Sequence[Thin]) -> tuple[Thin, int]:
        word, _, number = choice.setting.partition(SEPARATOR)
        fits = [thin for thin in forms if thin.form == word]
        rank = int(number) if number.isdecimal() and len(number) < 9 else 0
        if not fits or not fits[0].allows(rank, 1) or self._objection(choice.site, node, forms) is not None:
            raise UsageError(f"this model has no choice {choice.key}; propose() lists sites and settings")
        return fits[0], rank


def _kept_part(thin: Thin) -> float:
    """Rank for the same work, relative to the full one: how much of the weight a form can keep."""
    return thin.whole / thin.each / min(thin.rows, thin.columns)


def _chosen_forms(opened: _Open) -> Iterator[Thin]:
    wanted = {(site, form) for site, form, _ in opened.chosen}
    for _, forms in find_forms(opened.original):
        yield from (thin for thin in forms if (thin.op.node, thin.form) in wanted)


def _fit(
    original: ir.Model,
    model: ir.Model,
    node: ir.Node,
    thin: Thin,
    rank: int,
    seen: Mapping[Source, Moments],
) -> None:
    matrix, moments = matrix_of(thin, stored(original, thin.op.weight)), seen[thin.source]
    gram = moments.covariance if thin.centred else moments.gram / moments.rows
    factors = factorize(matrix, gram, rank)
    _install(model, node, thin, factors)
    if not thin.centred or thin.op.bias is None:
        return
    lost = (moments.total / moments.rows) @ (matrix - factors.left @ factors.right)
    bias = stored(original, thin.op.bias)
    _store_bias(model, thin.op.bias, bias, lost)


def _store_bias(model: ir.Model, name: str, bias: Array, lost: Doubles) -> None:
    store(model, name, (bias.astype(np.float64) + lost.reshape(bias.shape)).astype(bias.dtype))


def _factor_names(node: ir.Node) -> tuple[str, str]:
    """Initializers of the two factors, by the node of the second."""
    data, second = node.inputs[0], node.inputs[1]
    inner = data.producer() if data is not None else None
    first = inner.inputs[1] if inner is not None else None
    assert first is not None  # laid out with both
    assert second is not None
    return first.name or "", second.name or ""


def _install(model: ir.Model, node: ir.Node, thin: Thin, factors: Factors) -> None:
    """Write the factors into the weights of ``node`` and of the product in front of it."""
    names = _factor_names(node)
    like = (stored(model, names[0]), stored(model, names[1]))
    arrays = factors_as_stored(thin, node, factors.left, factors.right, like)
    for name, array in zip(names, arrays, strict=True):
        store(model, name, array)
