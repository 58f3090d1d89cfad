"""Zero weights by a pattern and let the others make up for them.

    y = MatMul(x, w)   ->   y = MatMul(x, w')        w' [K, N]: two of every four inputs of an output are zero

Masks and the update of what stays come from the second moments of the inputs (``saliency.py``). The graph
keeps its shape: weights stay dense tensors with zeros, a product names its pattern in its metadata, and
``packed_weights`` gives the compact form to store or send. On CPUs this saves bytes of storage and no time:
no kernel of the runtime skips zeros, so nothing is gained there by choosing it for speed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar, Final, cast

import numpy as np
import onnx_ir as ir

from adapass.budgeted import BudgetedPass, Choice, Feeds, Proposal, Refusal, Samples
from adapass.errors import UsageError, VerificationError
from adapass.executor.threads import one_thread
from adapass.facts import FactCache
from adapass.graph.text import clone
from adapass.moments import Moments
from adapass.moments.batches import Batches
from adapass.moments.second import gather
from adapass.passes.prune.kept_weights import check_weights
from adapass.passes.prune.linear_ops import LinearOp, linear_ops, store, stored
from adapass.passes.sparsify.patterns import Pattern
from adapass.passes.sparsify.saliency import Doubles, by_norm, descended, refit_operations, refitted, surgeon
from adapass.passes.sparsify.storage import Packed, pack
from adapass.rewrite import PassResult

PATTERN: Final = "adapass.sparsity"
"""Metadata key of a product: the pattern of zeros in its weight."""
MOST_OPERATIONS = 2e10
"""What the exact fit of one weight may take (seconds); beyond, descent from what the updates found does."""
_ORIGINAL = "adapass.sparsify.original"
"""Where a graph keeps, between ``apply`` and ``fit``, what it was; not serialised."""


class Saliency(StrEnum):
    """How weights are chosen when there is data; without, by their size."""

    SURGEON = "surgeon"
    """Second-order, and the others are updated."""
    NORM = "norm"
    """Size of the weight times that of its input; the others stay."""


@dataclass(frozen=True, slots=True)
class _Open:
    """What ``apply`` did: the model before, and the pattern of each product."""

    original: ir.Model
    patterns: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Sparsify(BudgetedPass):
    """N:M, block and unstructured zeros in the weights of MatMul, Gemm and Conv.

    A setting is a pattern: ``2:4``, ``4:8``, ``1x16-0.5`` (outputs x inputs of a block, share that goes),
    ``unstructured-0.5``. Weights whose sizes are no multiples of a pattern's do not get it.
    """

    name: ClassVar[str] = "sparsify"
    max_distortion: ClassVar[float] = 0.5
    source: ClassVar[str] = "Frantar and Alistarh 2023, SparseGPT, arXiv:2301.00774"

    settings: tuple[str, ...] = ("2:4", "4:8", "unstructured-0.5", "4x4-0.5", "1x16-0.5")
    """Patterns, the preferred one first."""
    saliency: Saliency = Saliency.SURGEON
    """How weights are chosen when there is data."""
    damping: float = 1e-2
    """Added to the diagonal of the inputs' second moments, as a share of its mean."""
    min_elements: int = 4096
    """Smaller weights stay as they are."""
    calibration_samples: int = 256
    """How many samples, evenly spaced, the second moments are taken from."""
    skip_sites: tuple[str, ...] = ()
    """Results of products whose weights stay as they are."""

    def __post_init__(self) -> None:
        if not self.settings or len(set(self.settings)) != len(self.settings):
            raise ValueError(f"settings must name each pattern once, found {list(self.settings)}")
        for text in self.settings:
            Pattern.parse(text)
        if not self.damping > 0.0:
            raise ValueError(f"damping must be positive, found {self.damping}")
        if self.calibration_samples < 1:
            raise ValueError(f"calibration_samples must be at least 1, found {self.calibration_samples}")

    def propose(self, model: ir.Model, facts: FactCache) -> Proposal:
        del facts
        patterns = [Pattern.parse(text) for text in self.settings]
        choices: list[Choice] = []
        refusals: list[Refusal] = []
        for op in linear_ops(model):
            matrix = op.matrix(stored(model, op.weight))
            reason = self._objection(op, matrix)
            fitting = [] if reason else [p for p in patterns if p.objection(*matrix.shape) is None]
            if not fitting:
                refusals.append(Refusal(op.node, reason or patterns[0].objection(*matrix.shape) or ""))
            choices += [self._choice(op, pattern) for pattern in fitting]
        return Proposal(tuple(choices), tuple(refusals))

    def apply(self, model: ir.Model, facts: FactCache, choices: Sequence[Choice]) -> PassResult:
        """Zero the smallest weights at the chosen sites; ``fit`` chooses anew with data.

        Raises:
            UsageError: a choice names an unknown site or setting, or a site twice.

        """
        wanted = _matched(choices, self.propose(model, facts))
        reasons = Counter(refusal.reason for refusal in self.propose(model, facts).refusals)
        if not wanted:
            return PassResult(0, MappingProxyType(dict(reasons)))
        original = clone(model)
        nodes = {node.outputs[0].name: node for node in model.graph}
        sites: list[str] = []
        for op in linear_ops(model):
            if op.node not in wanted:
                continue
            pattern = Pattern.parse(wanted[op.node])
            array = stored(model, op.weight)
            matrix = op.matrix(array)
            mask = by_norm(matrix, None, pattern)
            store(model, op.weight, op.tensor(np.where(mask, matrix, 0.0), array))
            nodes[op.node].metadata_props[PATTERN] = pattern.text
            sites.append(op.node)
        kept = cast("dict[str, object]", model.graph.meta)
        kept[_ORIGINAL] = _Open(original, MappingProxyType(wanted))
        facts.keep_only(())
        return PassResult(len(sites), MappingProxyType(dict(reasons)), tuple(sites))

    def fit(self, model: ir.Model, data: Samples | None) -> None:
        """Choose the masks anew from the inputs seen in the original, and update what stays."""
        opened = cast("dict[str, object]", model.graph.meta).pop(_ORIGINAL, None)
        if data is None or not isinstance(opened, _Open):
            return
        ops = [op for op in linear_ops(opened.original) if op.node in opened.patterns]
        batches = Batches.of(opened.original, data, count=self.calibration_samples)
        seen = gather(opened.original, list(dict.fromkeys(op.source for op in ops)), batches)
        with one_thread():
            for op in ops:
                pattern = Pattern.parse(opened.patterns[op.node])
                self._fit(opened.original, model, op, pattern, seen[op.source])

    def check(self, before: ir.Model, after: ir.Model, feeds: Sequence[Feeds]) -> None:
        """Compare the weights: zeros where a pattern is named, and nothing turned around or moved elsewhere.

        Raises:
            VerificationError: naming the weight.

        """
        del feeds
        nodes = {node.outputs[0].name: node for node in after.graph}
        fitted: set[str] = set()
        for op in linear_ops(after):
            text = nodes[op.node].metadata_props.get(PATTERN)
            if text is None:
                continue
            fitted.update(name for name in (op.weight, op.bias) if name)
            if not Pattern.parse(text).fits(op.matrix(stored(after, op.weight)) != 0.0):
                raise VerificationError(f"sparsify: the weight '{op.weight}' has more than {text} allows")
        check_weights(self.name, before, after, fitted)

    def _fit(
        self, original: ir.Model, model: ir.Model, op: LinearOp, pattern: Pattern, moments: Moments
    ) -> None:
        array = stored(original, op.weight)
        matrix = op.matrix(array)
        if self.saliency is Saliency.SURGEON:
            gram = moments.gram if op.bias is None else moments.covariance * moments.rows
            sparse, mask = surgeon(matrix, gram, pattern, damping=self.damping)
            if refit_operations(mask) <= MOST_OPERATIONS:
                sparse = refitted(matrix, gram, mask, damping=self.damping)
            else:
                sparse = descended(matrix, gram, mask, damping=self.damping, start=sparse)
        else:
            norms = np.sqrt(np.diag(moments.gram) / moments.rows)
            sparse = np.where(by_norm(matrix, norms, pattern), matrix, 0.0)
        store(model, op.weight, op.tensor(sparse, array))
        if op.bias is not None and self.saliency is Saliency.SURGEON:
            _shift(original, model, op.bias, (moments.total / moments.rows) @ (matrix - sparse))

    def _objection(self, op: LinearOp, matrix: Doubles) -> str | None:
        if op.node in self.skip_sites:
            return "listed in skip_sites"
        if op.shared:
            return "another product reads the same weight"
        if matrix.size < self.min_elements:
            return "the weight is too small"
        if not np.isfinite(matrix).all():
            return "the weight has numbers that are not finite"
        return None

    def _choice(self, op: LinearOp, pattern: Pattern) -> Choice:
        return Choice(
            family=self.name,
            site=op.node,
            setting=pattern.text,
            excludes=frozenset({("factorize", op.node)}),
            detail=MappingProxyType({"zeros": pattern.share}),
        )


def packed_weights(model: ir.Model) -> dict[str, Packed]:
    """The compact form of every weight whose product names a pattern, by the name of the initializer."""
    return {name: pack(stored(model, name), block) for name, block in _marked(model)}


def _marked(model: ir.Model) -> Iterator[tuple[str, tuple[int, int]]]:
    nodes = {node.outputs[0].name: node for node in model.graph}
    for op in linear_ops(model):
        text = nodes[op.node].metadata_props.get(PATTERN)
        if text is None:
            continue
        pattern = Pattern.parse(text)
        block = (1, 1) if pattern.kept is not None else (pattern.high, pattern.wide)
        yield op.weight, block if op.transposed else (block[1], block[0])


def _matched(choices: Sequence[Choice], proposal: Proposal) -> dict[str, str]:
    known = {(choice.site, choice.setting) for choice in proposal.choices}
    wanted: dict[str, str] = {}
    for choice in choices:
        if (choice.site, choice.setting) not in known:
            raise UsageError(f"this model has no choice {choice.key}; propose() lists sites and settings")
        if choice.site in wanted:
            raise UsageError(f"sparsify: site '{choice.site}' is chosen twice; choose one setting a site")
        wanted[choice.site] = choice.setting
    return wanted


def _shift(original: ir.Model, model: ir.Model, name: str, lost: Doubles) -> None:
    bias = stored(original, name)
    store(model, name, (bias.astype(np.float64) + lost.reshape(bias.shape)).astype(bias.dtype))
