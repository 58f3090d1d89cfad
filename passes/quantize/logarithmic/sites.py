"""Where few codes can go: probabilities of attentions, and activations that are hardly ever negative."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from adapass.budgeted import Refusal
from adapass.graph.constants import constant_array
from adapass.rewrite import Reject

FIRST_OPSET = 15
"""``CastLike`` in the body of ``adapass.LogRound``."""
GELU_LOWEST = 0.17
"""Just above the depth of a Gelu: its least value is -0.16998."""


@dataclass(frozen=True, slots=True)
class LogSite:
    """A value to round. ``bias`` takes back what is added to make it positive; ``None`` where nothing is."""

    value: ir.Value
    bias: ir.Node | None
    """The Gemm, or the Add behind the MatMul, that reads the value."""
    weight: ir.Value | None

    @property
    def name(self) -> str:
        return self.value.name or ""

    @property
    def shift(self) -> float:
        return 0.0 if self.bias is None else GELU_LOWEST


def find_sites(model: ir.Model) -> tuple[tuple[LogSite, ...], tuple[Refusal, ...]]:
    """In execution order, and the softmaxes and Gelus refused, each with its reason."""
    sites: list[LogSite] = []
    refusals: list[Refusal] = []
    for node in model.graph:
        if node.domain != "" or node.op_type not in ("Softmax", "Gelu"):
            continue
        value = node.outputs[0]
        try:
            sites.append(_site(model, node, value))
        except Reject as reason:
            refusals.append(Refusal(value.name or "", str(reason)))
    return tuple(sites), tuple(refusals)


def _site(model: ir.Model, node: ir.Node, value: ir.Value) -> LogSite:
    if model.graph.opset_imports.get("", 0) < FIRST_OPSET:
        raise Reject("the opset is below 15, which has no CastLike")
    if value.is_graph_output():
        raise Reject("the model returns it")
    return _attention(value) if node.op_type == "Softmax" else _gelu(value)


def _attention(value: ir.Value) -> LogSite:
    for use in value.uses():
        other = use.node.inputs[1] if use.node.op_type == "MatMul" and use.idx == 0 else None
        if other is None or constant_array(other) is not None:
            raise Reject("it does not weigh the values of an attention")
    if not value.uses():
        raise Reject("it does not weigh the values of an attention")
    return LogSite(value, None, None)


def _gelu(value: ir.Value) -> LogSite:
    uses = value.uses()
    product = next(iter(uses)).node if len(uses) == 1 else None
    if product is None or product.op_type not in ("MatMul", "Gemm") or product.inputs[0] is not value:
        raise Reject("not one product alone reads it")
    weight = product.inputs[1]
    array = constant_array(weight)
    if array is None or array.ndim != 2 or product.attributes.get_int("transA", 0) != 0:
        raise Reject("not one product alone reads it")
    bias = product if product.op_type == "Gemm" else _only_add(product.outputs[0])
    if bias is None or _bias_index(bias, product, array.shape) is None:
        raise Reject("no bias behind it takes the shift")
    return LogSite(value, bias, weight)


def bias_index(site: LogSite) -> int:
    """The input of ``site.bias`` that holds one number an output."""
    assert site.bias is not None  # asked for sites with a shift
    product = next(iter(site.value.uses())).node
    array = constant_array(site.weight)
    assert array is not None  # looked at when the site was found
    index = _bias_index(site.bias, product, array.shape)
    assert index is not None
    return index


def _bias_index(bias: ir.Node, product: ir.Node, shape: tuple[int, ...]) -> int | None:
    outputs = shape[0] if product.attributes.get_int("transB", 0) != 0 else shape[1]
    plain = product.op_type == "MatMul" or (
        product.attributes.get_float("alpha", 1.0) == 1.0 == product.attributes.get_float("beta", 1.0)
    )
    for index in (2,) if product.op_type == "Gemm" else (0, 1):
        array = constant_array(bias.inputs[index]) if index < len(bias.inputs) else None
        if plain and array is not None and array.shape[-1:] == (outputs,) == (array.size,):
            return index
    return None


def _only_add(value: ir.Value) -> ir.Node | None:
    uses = value.uses()
    if value.is_graph_output() or len(uses) != 1:
        return None
    node = next(iter(uses)).node
    return node if node.op_type == "Add" and node.domain == "" else None
