"""Where 8 bits can go: products with a constant weight in the main graph."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Refusal
from adapass.graph.edit import constant_array, nodes_everywhere
from adapass.passes.quantize.weights import Floats
from adapass.rewrite import Reject

PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose"})
WITHOUT_A_FORM = frozenset(
    {("", "LSTM"), ("com.microsoft", "Attention"), ("com.microsoft", "EmbedLayerNormalization")}
)
"""Operators with weights that other tools have 8-bit forms for, and adapass none."""
FIRST_OPSET = 13
"""``DequantizeLinear`` takes one scale a channel from here on."""


class Setting(StrEnum):
    """How activations get their scale."""

    STATIC = "static"
    DYNAMIC = "dynamic"


@dataclass(frozen=True, slots=True)
class Site:
    """A product ``activation x weight``. ``name`` is its result's."""

    name: str
    node: ir.Node
    weight: Floats
    """As the layout stores it: ``alpha`` of a Gemm is multiplied in."""
    channel_axis: int
    bias: Floats | None
    """Constant bias [channels] that is an input of the node (``beta`` multiplied in)."""

    @property
    def settings(self) -> tuple[Setting, ...]:
        return (Setting.STATIC,) if self.node.op_type == "Conv" else tuple(Setting)


@dataclass(frozen=True, slots=True)
class Limits:
    """Below these numbers of weights a site is not worth the conversions around it."""

    matmul_elements: int
    conv_elements: int


def find_sites(
    model: ir.Model, limits: Limits, skip: frozenset[str]
) -> tuple[tuple[Site, ...], tuple[Refusal, ...]]:
    """All sites in execution order, and the products refused, each with its reason."""
    sites: list[Site] = []
    refusals: list[Refusal] = []
    for node in nodes_everywhere(model):
        name = node.outputs[0].name or ""
        if (node.domain, node.op_type) in WITHOUT_A_FORM:
            refusals.append(Refusal(name, f"{node.op_type} has no 8-bit form that adapass writes"))
            continue
        if node.domain != "" or node.op_type not in PRODUCTS:
            continue
        try:
            sites.append(_site(model, node, limits, skip))
        except Reject as reason:
            refusals.append(Refusal(name, str(reason)))
    return tuple(sites), tuple(refusals)


def _site(model: ir.Model, node: ir.Node, limits: Limits, skip: frozenset[str]) -> Site:
    name = node.outputs[0].name or ""
    if name in skip:
        raise Reject("listed in skip_sites")
    if node.graph is not model.graph:
        raise Reject("inside a subgraph or a function")
    if node.op_type == "ConvTranspose":
        raise Reject("ConvTranspose has no 8-bit kernel in ONNX Runtime")
    if model.graph.opset_imports.get("", 0) < FIRST_OPSET:
        raise Reject("the opset is below 13, which has no scale per channel")
    weight = _weight(node)
    if weight.size < (limits.conv_elements if node.op_type == "Conv" else limits.matmul_elements):
        raise Reject("the weight is too small to pay for the conversions")
    if node.op_type == "Conv":
        return Site(name, node, weight, 0, _bias(node, weight.shape[0]))
    if node.op_type == "MatMul":
        return Site(name, node, weight, 1, None)
    return _gemm_site(name, node, weight)


def _weight(node: ir.Node) -> Floats:
    data, weight = node.inputs[0], node.inputs[1]
    if data is None or weight is None:
        raise Reject("an operand is missing")
    array = constant_array(weight)
    if array is None and constant_array(data) is not None:
        raise Reject("the constant operand is on the left")
    if array is None:
        raise Reject("no operand is a constant weight")
    if array.dtype != np.float32:
        raise Reject("the weight is not float32")
    if array.ndim < 2 or (array.ndim > 2 and node.op_type != "Conv"):
        raise Reject("the weight is not a matrix")
    if not np.isfinite(array).all():
        raise Reject("the weight has numbers that are not finite")
    return array.astype(np.float32, copy=False)


def _bias(node: ir.Node, channels: int) -> Floats | None:
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return None
    array = constant_array(value)
    if array is None or array.size not in (1, channels) or array.shape[:-1] not in ((), (1,)):
        raise Reject("the bias is not one constant a channel")
    if not np.isfinite(array).all():
        raise Reject("the bias has numbers that are not finite")
    return np.broadcast_to(array.astype(np.float32).ravel(), (channels,)).copy()


def _gemm_site(name: str, node: ir.Node, weight: Floats) -> Site:
    if node.attributes.get_int("transA", 0):
        raise Reject("the activation is transposed")
    axis = 0 if node.attributes.get_int("transB", 0) else 1
    bias = _bias(node, weight.shape[axis])
    beta = np.float32(node.attributes.get_float("beta", 1.0))
    alpha = np.float32(node.attributes.get_float("alpha", 1.0))
    return Site(name, node, weight * alpha, axis, None if bias is None else bias * beta)
