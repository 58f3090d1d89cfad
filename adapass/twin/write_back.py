"""Put trained parameters back into the initializers of a model."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array
from adapass.errors import ModelError
from adapass.graph.tensors import graphs_everywhere
from adapass.twin.dtypes import TORCH_TYPES, to_array
from adapass.twin.twin import Twin


def update_weights(model: ir.Model, twin: Twin) -> int:
    """Store each parameter bit for bit, in the type and shape the initializer has; how many changed.

    A weight whose bits are the same keeps its tensor (it may still lie in a file). Half types are rounded
    to the nearest, as the twin does when it computes.

    Raises:
        ModelError: an initializer is missing or has another shape or type than the twin was built with.

    """
    places = {name: g.initializers[name] for g in graphs_everywhere(model) for name in g.initializers}
    new = {name: weight_array(twin, name) for name in twin.weights}
    for name, array in new.items():
        _check(places.get(name), name, array, twin.stored[name])
    changed = 0
    for name, array in new.items():
        old = places[name].const_value
        assert old is not None
        if np.array_equal(_bits(old.numpy()), _bits(array)):
            continue
        places[name].const_value = ir.tensor(array, dtype=old.dtype, name=name)
        changed += 1
    return changed


def weight_array(twin: Twin, initializer: str) -> Array:
    """A parameter as it will be stored."""
    dtype = TORCH_TYPES[twin.stored[initializer]]
    return to_array(twin.parameter(initializer).detach().to(dtype).clone())


def _check(place: ir.Value | None, name: str, array: Array, dtype: ir.DataType) -> None:
    if place is None or place.const_value is None:
        raise ModelError(f"the model has no initializer '{name}', which the twin was built with")
    found = place.const_value
    if found.dtype != dtype or tuple(found.shape.numpy()) != array.shape:
        raise ModelError(
            f"initializer '{name}' is {found.dtype}{list(found.shape.numpy())} in the model, "
            f"{dtype}{list(array.shape)} expected; build the twin from this model"
        )


def _bits(array: Array) -> Array:
    return np.ascontiguousarray(array).view(np.uint8) if array.ndim else array.reshape(1).view(np.uint8)
