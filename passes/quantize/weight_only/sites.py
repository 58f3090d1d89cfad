"""Where weights can be stored in few bits, and what each site costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Choice, Refusal
from adapass.graph.raise_opset import obstacle
from adapass.passes.prune.linear_ops import PRODUCTS, LinearOp, linear_ops, stored
from adapass.passes.quantize.weight_only.formats import Format, Kind, faster_on
from adapass.passes.quantize.weight_only.grid import Doubles

REWRITING = ("quantize-8bit", "factorize", "sparsify")
"""Families that put something else in the place of the same weight."""
NO_DEFINED_WEIGHT = "its weight is not stored as a matrix (grouped, computed or shared by name)"


@dataclass(frozen=True, slots=True)
class Site:
    """A product whose weight can be stored in another format. ``name`` is its result's."""

    node: ir.Node
    op: LinearOp
    model: ir.Model

    @property
    def matrix(self) -> Doubles:
        """[inputs, outputs]; ``alpha`` of a Gemm multiplied in. Read anew each time: weights may be large."""
        return self.op.matrix(stored(self.model, self.op.weight))

    @property
    def shape(self) -> tuple[int, int]:
        """That of the matrix."""
        weight = self.model.graph.initializers[self.op.weight].shape
        assert weight is not None  # an initializer has one
        sizes = [int(size) for size in weight.numpy()]
        return (prod(sizes[1:]), sizes[0]) if self.op.transposed else (sizes[0], sizes[1])

    @property
    def name(self) -> str:
        return self.op.node

    @property
    def convolution(self) -> bool:
        return self.node.op_type == "Conv"


def find_sites(
    model: ir.Model, formats: Sequence[Format], min_elements: int, skip: Sequence[str]
) -> tuple[tuple[Site, ...], tuple[Refusal, ...]]:
    """Sites in execution order, and products refused, each with its reason."""
    raised = obstacle(model, min(format_.opset for format_ in formats))
    ops = {op.node: op for op in linear_ops(model)}
    sites: list[Site] = []
    refusals: list[Refusal] = []
    for node in model.graph:
        if node.domain != "" or node.op_type not in PRODUCTS or _no_weight(node):
            continue
        name = node.outputs[0].name or ""
        op = ops.get(name)
        site = None if op is None else Site(node, op, model)
        reason = _objection(model, name, site, min_elements, skip)
        if reason is None and raised is not None:
            reason = f"the opset cannot be raised because of {raised}"
        if reason is not None or site is None:
            refusals.append(Refusal(name, reason or NO_DEFINED_WEIGHT))
        else:
            sites.append(site)
    return tuple(sites), tuple(refusals)


def possible_formats(model: ir.Model, formats: Sequence[Format]) -> list[Format]:
    """Those for which the opset of the model can be raised."""
    return [format_ for format_ in formats if obstacle(model, format_.opset) is None]


def choice_of(family: str, site: Site, setting: str, format_: Format, *, symmetric: bool) -> Choice:
    """A choice, with what it stores (``format_``: all of it) and who runs it faster."""
    inputs, outputs = site.shape
    detail: dict[str, object] = {
        "operator": site.node.op_type,
        "weight_shape": [inputs, outputs],
        "bits_per_weight": round(format_.stored_bits(inputs, outputs, symmetric=symmetric), 3),
        "faster_on": list(faster_on(format_, site.node.op_type, inputs)),
    }
    return Choice(
        family=family,
        site=site.name,
        setting=setting,
        excludes=frozenset((other, site.name) for other in REWRITING),
        detail=MappingProxyType(detail),
    )


def _no_weight(node: ir.Node) -> bool:
    """A product of two activations: nothing is stored."""
    return len(node.inputs) < 2 or node.inputs[1] is None or not node.inputs[1].is_initializer()


def _objection(
    model: ir.Model, name: str, site: Site | None, min_elements: int, skip: Sequence[str]
) -> str | None:
    if name in skip:
        return "listed in skip_sites"
    if site is None:
        return NO_DEFINED_WEIGHT
    if site.op.shared:
        return "another product reads the same weight"
    if model.graph.initializers[site.op.weight].dtype != ir.DataType.FLOAT:
        return "the weight is not in single precision"
    if prod(site.shape) < min_elements:
        return "the weight is too small"
    if not np.isfinite(site.matrix).all():
        return "the weight has numbers that are not finite"
    return None


def has_room(format_: Format, site: Site) -> bool:
    """A branch of the full rank would be the weight again; a convolution has none."""
    if format_.kind is not Kind.INTEGER or not format_.rank:
        return True
    return not site.convolution and format_.rank * 2 <= min(site.shape)
