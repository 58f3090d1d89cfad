"""A float model in which every site can be rounded to 8 bits at run time.

    y = MatMul(x, w)  ->  y = MatMul(Where(on[k], rounded x, x), Where(on[k], rounded w, w))

``on[k]`` is a new input, one boolean a site, so one session measures any set of sites. Results of
convolutions pass through a switch too, as the static layout converts them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from adapass.graph.edit import fresh_name, insert_after, insert_before, new_initializer, replace_uses
from adapass.passes.quantize.chains import settled
from adapass.passes.quantize.ranges import ActivationScale
from adapass.passes.quantize.sites import Site
from adapass.passes.quantize.weights import QuantizedWeight

INPUT = "adapass_quantize_on"


@dataclass(frozen=True, slots=True)
class Switch:
    """The new input that switches a site, and the first node that reads it."""

    name: str
    first: ir.Node


def watched_values(sites: Sequence[Site]) -> list[str]:
    """Names of the activations whose ranges static switches need, without repeats."""
    names: list[str] = []
    for site in sites:
        data = site.node.inputs[0]
        names.append(data.name or "" if data is not None else "")
        if site.node.op_type == "Conv":
            names.append(settled(site.node.outputs[0]).name or "")
    return list(dict.fromkeys(names))


def insert_switches(
    model: ir.Model,
    sites: Sequence[tuple[Site, QuantizedWeight]],
    scales: Mapping[str, ActivationScale] | None,
) -> tuple[Switch, ...]:
    """Insert a switch for each site in place; ``scales=None``: activations get dynamic scales."""
    builder = _Builder(model.graph, scales)
    ons = [builder.new_input() for _ in sites]
    for (site, _), on in zip(sites, ons, strict=True):
        if site.node.op_type == "Conv":
            builder.switch_result(settled(site.node.outputs[0]), on)
    return tuple(
        builder.switch_operands(site, weight, on) for (site, weight), on in zip(sites, ons, strict=True)
    )


@dataclass(slots=True)
class _Builder:
    graph: ir.Graph
    scales: Mapping[str, ActivationScale] | None
    rounded: dict[ir.Value, ir.Value] = field(default_factory=dict[ir.Value, ir.Value])
    """Rounded forms made so far; readers of one value share one."""

    def new_input(self) -> ir.Value:
        name = fresh_name(self.graph, INPUT)
        value = ir.Value(name=name, type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([]))
        self.graph.inputs.append(value)
        return value

    def switch_result(self, value: ir.Value, on: ir.Value) -> None:
        """Let all readers of ``value`` see its rounded form while the switch is on."""
        producer = value.producer()
        assert producer is not None  # the result of a convolution
        nodes = self._rounding(value, value.name or "")
        choose = ir.node("Where", [on, nodes[-1].outputs[0], value])
        insert_after(producer, [*nodes, choose])
        replace_uses(value, choose.outputs[0])
        nodes[0].replace_input_with(0, value)
        choose.replace_input_with(2, value)
        # reading the switched value again is rounding at the same scale: nothing changes the second time
        self.rounded[choose.outputs[0]] = nodes[-1].outputs[0]
        self.rounded[value] = nodes[-1].outputs[0]

    def switch_operands(self, site: Site, weight: QuantizedWeight, on: ir.Value) -> Switch:
        node, data = site.node, site.node.inputs[0]
        assert data is not None  # a site has both operands
        if data not in self.rounded:
            nodes = self._rounding(data, data.name or "")
            producer = data.producer()
            if producer is None:
                insert_before(self.graph[0], nodes)
            else:
                insert_after(producer, nodes)
            self.rounded[data] = nodes[-1].outputs[0]
        exact = new_initializer(self.graph, f"{site.name}_weight", site.weight)
        near = new_initializer(self.graph, f"{site.name}_weight_rounded", weight.dequantized())
        chosen_data = ir.node("Where", [on, self.rounded[data], data])
        chosen_weight = ir.node("Where", [on, near, exact])
        insert_before(node, [chosen_data, chosen_weight])
        node.replace_input_with(0, chosen_data.outputs[0])
        node.replace_input_with(1, chosen_weight.outputs[0])
        node.attributes.pop("alpha", None)  # multiplied into the site's weight
        return Switch(on.name or "", chosen_data)

    def _rounding(self, value: ir.Value, name: str) -> list[ir.Node]:
        if self.scales is None:
            measure = ir.node("DynamicQuantizeLinear", [value], num_outputs=3)
            return [measure, ir.node("DequantizeLinear", measure.outputs)]
        found = self.scales[name]
        scale = new_initializer(self.graph, f"{name}_scale", np.asarray(found.scale))
        zero = new_initializer(self.graph, f"{name}_zero_point", np.asarray(found.zero_point))
        quantize = ir.node("QuantizeLinear", [value, scale, zero])
        return [quantize, ir.node("DequantizeLinear", [quantize.outputs[0], scale, zero])]
