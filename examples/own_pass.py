"""Write a pass of your own: replace x / c by x * (1 / c), and run it with all checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

import adapass
from adapass.graph.edit import constant_array
from adapass.graph.text import parse, to_text


@dataclass(frozen=True, kw_only=True)
class MultiplyByReciprocal(adapass.Rewrite):
    """Div by a constant -> Mul by its reciprocal."""

    name: ClassVar[str] = "multiply-by-reciprocal"
    exactness: ClassVar[adapass.Exactness] = adapass.Exactness.ROUNDING
    root_ops: ClassVar[frozenset[str]] = frozenset({"Div"})

    def rewrite(self, root: ir.Node, facts: adapass.FactCache) -> adapass.Replacement:
        value, divisor = root.inputs
        constant = constant_array(divisor)
        if constant is None or not np.issubdtype(constant.dtype, np.floating):
            raise adapass.Reject("the divisor is not a floating-point constant")
        factor = ir.Value(
            name=f"{root.outputs[0].name}_factor", const_value=ir.tensor(np.reciprocal(constant))
        )
        product = ir.node("Mul", [value, factor])
        return adapass.Replacement([product], product.outputs, [factor])


model = parse(
    '<ir_version: 10, opset_import: ["" : 20]> '
    "g (float[N, 3] x) => (float[N, 3] y) <float k = {4}> { y = Div (x, k) }"
)
result = adapass.Pipeline([MultiplyByReciprocal()]).run(model)
print(result.results[0])
print(to_text(result.model))
