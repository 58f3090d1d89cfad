"""Take over what was learned: weights of one model into another with the same initializers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from adapass.graph.edit import constant_array


def take_weights(model: ir.Model, healed: ir.Model) -> int:
    """Give ``model`` the weights of its healed copy, in place; how many were different."""
    taken = 0
    for name, value in healed.graph.initializers.items():
        array, old = constant_array(value), constant_array(model.graph.initializers[name])
        if array is None or old is None or np.array_equal(array, old):
            continue
        model.graph.initializers[name].const_value = ir.tensor(np.ascontiguousarray(array), name=name)
        taken += 1
    return taken
