"""Remove whole residual branches, or put a linear map of the stream in their place.

    y = Add(x, f(x))                       ->   x                       remove
                                           ->   Add(x, b)               bias
                                           ->   Add(Mul(x, s), b)       linear
                                           ->   Add(MatMul(x, m), b)    mix
                                           ->   Conv(x, k, b)           convolve

``f`` is an attention, a feed-forward part, a convolutional block, or (at the end of a layer) all of a layer.
Its work, its weights and its memory traffic are gone: no other change of shape or precision is this direct,
and every runtime profits. Many branches move their stream little (Men et al. 2024, arXiv:2403.03853), and
what they did move is mostly linear in what is left: ``fit`` refits the learned layers that stay, in
closed form. A convolutional block that one convolution stands in for keeps its activation behind the sum, and
half its work (Fu et al. 2022, arXiv:2206.00843).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from types import MappingProxyType
from typing import ClassVar, cast

import onnx_ir as ir

from adapass.analyses.dataflow import name_of
from adapass.analyses.work import Work
from adapass.budgeted import BudgetedPass, Choice, Feeds, Proposal, Samples
from adapass.errors import DataError, UsageError
from adapass.facts import FactCache
from adapass.graph.edit import remove_dead_nodes
from adapass.graph.text import clone
from adapass.moments.batches import Batches
from adapass.passes.prune.kept_weights import check_weights
from adapass.passes.prune.linear_ops import linear_ops
from adapass.passes.prune.remove_blocks_branches import Branch, Part, chains, find_branches
from adapass.passes.prune.remove_blocks_fit import Fitting, Refit, Removal, reconstruct
from adapass.passes.prune.remove_blocks_fold import fold
from adapass.passes.prune.remove_blocks_rewrite import (
    KIND,
    MARK,
    MIXING,
    Setting,
    affine_at,
    kernel_of,
    take_out,
)
from adapass.rewrite import PassResult

PRODUCT_FAMILIES = ("factorize", "quantize-8bit", "quantize-weights", "sparsify")
"""Families whose sites are results of products: one inside a removed branch cannot be chosen with it."""
PRECISION_FAMILY = "quantize-8bit"
WIDTH_FAMILY = "prune-structures"
"""Its sites are output axes of weights, or (numbered) parts of such an axis."""
MOST_OF_BRANCH = 0.75
"""Of the weights of a branch, what the convolution in its place may have."""
SKETCH_SAMPLES = 64
SKETCH_REACH = 2
AXIS_PARTS = ("", ".0", ".1", ".2")
_ORIGINAL = "adapass.remove-blocks.original"
"""Where a graph keeps, between ``apply`` and ``fit``, what it was; not serialised."""


@dataclass(frozen=True, slots=True)
class Site:
    """One branch, or the attention and the rest of one layer."""

    name: str
    branches: tuple[Branch, ...]
    settings: tuple[Setting, ...]


@dataclass(frozen=True, kw_only=True)
class RemoveBlocks(BudgetedPass):
    """Residual branches go, whole layers or parts of them; what stays is refitted to make up for it.

    Sites are named after the result of the last learned layer of a branch; that of a layer after the sum (or
    normalised sum) it ends with. Without data only ``remove`` is possible, and nothing is refitted.
    """

    name: ClassVar[str] = "remove-blocks"
    max_distortion: ClassVar[float] = 0.5
    structural: ClassVar[bool] = True
    source: ClassVar[str] = "Men et al. 2024, arXiv:2403.03853"

    settings: tuple[Setting, ...] = (
        Setting.REMOVE,
        Setting.CONVOLVE,
        Setting.MIX,
        Setting.LINEAR,
        Setting.BIAS,
    )
    """What may take the place of a branch, the preferred one first."""
    layers: bool = True
    """Whether attention and feed-forward part of a layer are also one site."""
    refit: Refit = Refit.LAST
    """Refit nothing, the last learned layer of each branch that stays, or all of its learned layers."""
    damping: float = 1e-2
    """Pull of the refitted weights towards what they were, relative to the mean square of their inputs."""
    calibration_samples: int = 512
    """How many samples, evenly spaced, the fits are computed on."""
    reach: int = 1000
    """So many branches behind a removed one are refitted."""
    skip_sites: tuple[str, ...] = ()
    """Sites that stay."""

    def __post_init__(self) -> None:
        if not self.settings or len(set(self.settings)) != len(self.settings):
            raise ValueError(f"settings must name each setting once, found {list(self.settings)}")
        if not self.damping > 0.0:
            raise ValueError(f"damping must be positive, found {self.damping}")
        if self.calibration_samples < 1:
            raise ValueError(f"calibration_samples must be at least 1, found {self.calibration_samples}")
        if self.reach < 1:
            raise ValueError(f"reach must be at least 1, found {self.reach}")

    @property
    def sketch(self) -> RemoveBlocks:
        """Few samples and the next branch alone: enough to tell which block matters."""
        few = min(self.calibration_samples, SKETCH_SAMPLES)
        return replace(self, calibration_samples=few, reach=min(self.reach, SKETCH_REACH))

    def propose(self, model: ir.Model, facts: FactCache) -> Proposal:
        branches, refusals = find_branches(model, facts)
        sites = tuple(self._sites(branches))
        work = facts.get(Work)
        index = {node: place for place, node in enumerate(work.flow.nodes)}
        whole = sum(part.flops for part in work.typical) or 1
        choices = [
            Choice(
                family=self.name,
                site=site.name,
                setting=setting,
                excludes=_excluded(site, setting, sites),
                detail=MappingProxyType(
                    {
                        "parts": [branch.part.value for branch in site.branches],
                        "share_of_work": sum(
                            work.typical[index[node]].flops
                            for branch in site.branches
                            for node in branch.nodes
                        )
                        / whole,
                    }
                ),
            )
            for site in sites
            for setting in site.settings
        ]
        return Proposal(tuple(choices), refusals)

    def apply(self, model: ir.Model, facts: FactCache, choices: Sequence[Choice]) -> PassResult:
        """Rewrite the chosen sites; what takes their places is neutral until ``fit``.

        Raises:
            UsageError: a choice names an unknown site or setting, or choices overlap.

        """
        branches, refusals = find_branches(model, facts)
        wanted = _matched(choices, {site.name: site for site in self._sites(branches)})
        if not wanted:
            return PassResult(0, MappingProxyType(dict(Counter(r.reason for r in refusals))))
        original = clone(model)
        for branch in branches:
            if branch.site in wanted:
                take_out(model.graph, branch, wanted[branch.site])
        remove_dead_nodes(model)
        gone = frozenset(site for site, setting in wanted.items() if setting is Setting.REMOVE)
        kept = cast("dict[str, object]", model.graph.meta)
        kept[_ORIGINAL] = Removal(original, gone, frozenset(wanted) - gone)
        facts.keep_only(())
        reasons = Counter(refusal.reason for refusal in refusals)
        sites = tuple(dict.fromkeys(choice.site for choice in choices))
        return PassResult(len(sites), MappingProxyType(dict(reasons)), sites)

    def fit(self, model: ir.Model, data: Samples | None) -> None:
        """Fit what took the places of branches, and the layers that stay; without data only leave removals.

        Raises:
            DataError: something took the place of a branch and there is no data to fit it on.
            UsageError: the model was stored and read back between ``apply`` and ``fit``.

        """
        removal = cast("dict[str, object]", model.graph.meta).pop(_ORIGINAL, None)
        is_open = [node for node in model.graph if MARK in node.metadata_props]
        if data is None and is_open:
            raise DataError(
                f"{self.name}: {len(is_open)} linear maps must be fitted and no data was given; "
                'give data, or remove branches only: remove-blocks{settings=["remove"]}'
            )
        if data is None:
            return
        if not isinstance(removal, Removal):
            if is_open:
                raise UsageError(
                    f"{self.name}: the original of this model is not at hand; apply and fit in one process"
                )
            return
        batches = Batches.of(removal.original, data, count=self.calibration_samples)
        reconstruct(removal, model, batches, Fitting(self.refit, self.damping, self.reach))
        for node in is_open:
            if node.metadata_props[KIND] not in MIXING:
                fold(model, node, affine_at(node))
            del node.metadata_props[MARK], node.metadata_props[KIND]
        remove_dead_nodes(model)

    def check(self, before: ir.Model, after: ir.Model, feeds: Sequence[Feeds]) -> None:
        """Compare the weights: only those of branches may have been refitted, and none turned around.

        Raises:
            VerificationError: naming the weight.

        """
        del feeds
        ops = {op.node: op for op in linear_ops(before)}
        fitted: set[str] = set()
        for branch in find_branches(before, FactCache(before))[0]:
            for node in branch.products:
                op = ops.get(name_of(node.outputs[0]))
                fitted.update(name for name in ((op.weight, op.bias) if op is not None else ()) if name)
            maker = branch.stream.producer()
            if (
                maker is not None and maker.op_type == "LayerNormalization"
            ):  # scale and shift are folded there
                fitted.update(name_of(value) for value in maker.inputs[1:])
        check_weights(self.name, before, after, fitted)

    def _sites(self, branches: Sequence[Branch]) -> Iterator[Site]:
        """Branches in execution order, a layer behind its last part."""
        second = {pair[-1].site: pair for pair in _layers(branches)} if self.layers else {}
        for branch in branches:
            if branch.site not in self.skip_sites:
                yield Site(branch.site, (branch,), self._offered(branch))
            pair = second.get(branch.site)
            if pair is None or Setting.REMOVE not in self.settings:
                continue
            name = _end(pair[-1])
            if name != branch.site and name not in self.skip_sites:
                yield Site(name, pair, (Setting.REMOVE,))

    def _offered(self, branch: Branch) -> tuple[Setting, ...]:
        """Where channels come before pixels, a shift costs as much as scale and shift."""
        unfit = {Setting.BIAS} if branch.is_image else set[Setting]()
        if not _convolves(branch):
            unfit.add(Setting.CONVOLVE)
        return tuple(setting for setting in self.settings if setting not in unfit)


def _convolves(branch: Branch) -> bool:
    """Whether one convolution as large as the largest of the branch has clearly fewer weights than all."""
    kernel = kernel_of(branch) if branch.part is Part.CONVOLUTION and branch.is_image else None
    if kernel is None or max(kernel) == 1:
        return False
    weights = [node.inputs[1] for node in branch.products]
    sizes = [prod(w.shape.numpy()) for w in weights if w is not None and w.shape is not None]
    return prod(kernel) * branch.channels**2 <= MOST_OF_BRANCH * sum(sizes)


def _layers(branches: Sequence[Branch]) -> Iterator[tuple[Branch, Branch]]:
    """An attention and what is not one behind it on the same stream."""
    for chain in chains(branches):
        for first, second in pairwise(chain):
            if first.part is Part.ATTENTION and second.part is not Part.ATTENTION:
                yield first, second


def _end(branch: Branch) -> str:
    return name_of(branch.sum if branch.norm is None else branch.norm.outputs[0])


def _excluded(site: Site, setting: Setting, sites: Sequence[Site]) -> frozenset[tuple[str, str]]:
    """Sites of other families inside the branches, and own ones that share or contain nodes of them.

    A product that takes the place of a branch can be had in 8 bits under the name of the branch's last one.
    """
    own = {node for branch in site.branches for node in branch.nodes}
    found: set[tuple[str, str]] = set()
    for branch in site.branches:
        products = [name_of(product.outputs[0]) for product in branch.products]
        found |= {(family, product) for family in PRODUCT_FAMILIES for product in products}
        if setting in MIXING:
            found.discard((PRECISION_FAMILY, products[-1]))
        # The last product writes the stream, which stays.
        axes = [axis for product in branch.products[:-1] for axis in _output_axes(product)]
        found |= {(WIDTH_FAMILY, f"{axis}{part}") for axis in axes for part in AXIS_PARTS}
    for other in sites:
        if other is not site and any(node in own for branch in other.branches for node in branch.nodes):
            found.add((RemoveBlocks.name, other.name))
    return frozenset(found)


def _output_axes(product: ir.Node) -> Iterator[str]:
    """The output axis of the weight that only this product reads."""
    for value in product.inputs[1:2]:
        if value is not None and len(value.uses()) == 1:
            flipped = product.op_type == "Conv" or product.attributes.get_int("transB", 0) == 1
            yield f"{name_of(value)}:{0 if flipped else 1}"


def _matched(choices: Sequence[Choice], sites: Mapping[str, Site]) -> dict[str, Setting]:
    """The setting of each branch to rewrite; refuses before anything is changed."""
    wanted: dict[str, Setting] = {}
    taken: dict[ir.Node, str] = {}
    for choice in choices:
        site = sites.get(choice.site)
        if site is None or choice.setting not in site.settings:
            raise UsageError(f"this model has no choice {choice.key}; propose() lists sites and settings")
        for node in [node for branch in site.branches for node in branch.nodes]:
            if node in taken:
                raise UsageError(
                    f"remove-blocks: site '{choice.site}' overlaps with '{taken[node]}'; choose one of them"
                )
            taken[node] = choice.site
        wanted |= {branch.site: Setting(choice.setting) for branch in site.branches}
    return wanted
