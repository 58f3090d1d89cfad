"""Correct biases by the mean error of the products they are added to (Nagel et al. 2019, arXiv:1906.04721).

    y = Conv (x, w, b)        y' = Conv (q(x), q(w), b)   ->   b - mean (y' - y), one number a channel

Rounding a weight moves the mean of its output by the rounding error times the mean of the input, which does
not average out over positions or samples. The error of each product is measured on exact inputs, so that a
product does not make up for what those in front of it correct themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.budgeted import Array, Samples
from adapass.execution import Session
from adapass.graph.edit import constant_array, new_initializer
from adapass.passes.quantize.fitting import spread
from adapass.passes.quantize.local_check import Forced

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Product:
    """A quantized product, by the names of what it reads and of its result."""

    data: str
    result: str
    channels: int
    axis: int
    """The axis of the result that holds the channels."""


def correct_biases(
    original: ir.Model, model: ir.Model, products: Sequence[Product], data: Samples, *, samples: int
) -> tuple[str, ...]:
    """Subtract mean errors from the biases of ``model`` in place; the results whose products have none.

    A bias is an input of the product or the constant operand of the ``Add`` that alone reads it.
    """
    places = {product: _bias_of(model, product) for product in products}
    found = {product: place for product, place in places.items() if place is not None}
    errors = mean_errors(original, model, list(found), data, samples=samples)
    for product, (node, index) in found.items():
        bias = constant_array(node.inputs[index])
        assert bias is not None  # looked at by _bias_of
        corrected = bias.astype(np.float64) - errors[product.result].reshape(bias.shape)
        name = f"{product.result}_bias_corrected"
        node.replace_input_with(index, new_initializer(model.graph, name, corrected.astype(bias.dtype)))
    return tuple(product.result for product, place in places.items() if place is None)


def mean_errors(
    original: ir.Model, model: ir.Model, products: Sequence[Product], data: Samples, *, samples: int
) -> Mapping[str, Doubles]:
    """Mean error of each result, one number a channel, each computed from exact inputs."""
    if not products:
        return {}
    inputs = {value.name for value in original.graph.inputs}
    results = [product.result for product in products]
    read = [product.data for product in products if product.data not in inputs]
    shared = list(dict.fromkeys([*read, *results]))
    exact, forced = Session(original, outputs=shared), Forced(model, shared)
    total = {product.result: np.zeros(product.channels) for product in products}
    rows = dict.fromkeys(total, 0)
    for index in spread(len(data), samples):
        feeds = data.feeds(index)
        given = exact.run(feeds)
        computed = forced.run(feeds, given)
        for product in products:
            error = _by_channel(computed[product.result], product) - _by_channel(
                given[product.result], product
            )
            total[product.result] += error.sum(axis=0)
            rows[product.result] += len(error)
    return {name: sum_ / max(rows[name], 1) for name, sum_ in total.items()}


def _by_channel(array: Array, product: Product) -> Doubles:
    return np.moveaxis(array, product.axis, -1).reshape(-1, product.channels).astype(np.float64)


def _bias_of(model: ir.Model, product: Product) -> tuple[ir.Node, int] | None:
    """The node and the place of its input that is a bias, one number a channel."""
    result = next(
        (value for node in model.graph for value in node.outputs if value.name == product.result), None
    )
    node = result.producer() if result is not None else None
    if result is None or node is None:
        return None
    if node.op_type in ("Conv", "Gemm"):
        return _constant_operand(node, (2,), product)
    if node.op_type == "Add":  # a bias laid out behind an integer product
        return _constant_operand(node, (0, 1), product)
    uses = result.uses()
    reader = next(iter(uses)).node if len(uses) == 1 and not result.is_graph_output() else None
    if reader is None or reader.op_type != "Add" or reader.domain != "" or reader.graph is not model.graph:
        return None
    return _constant_operand(reader, (0, 1), product)


def _constant_operand(node: ir.Node, places: Sequence[int], product: Product) -> tuple[ir.Node, int] | None:
    for index in places:
        array = constant_array(node.inputs[index]) if index < len(node.inputs) else None
        if array is not None and array.shape[-1:] == (product.channels,) == (array.size,):
            return node, index
    return None
