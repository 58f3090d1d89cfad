"""From a base and its fine-tune to a delta, and from the base and the delta to the fine-tune."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from adapass.deltas.container import Delta, Dims
from adapass.deltas.parts import (
    FLOATS,
    Part,
    exclusive_part,
    restored,
    same,
    ternary_part,
    whole_part,
)
from adapass.deltas.structure import Key, equal_contents, first_difference, stored
from adapass.deltas.ternary import Doubles, ternary
from adapass.errors import ArtifactError, UsageError
from adapass.graph.digest import digest
from adapass.graph.tensors import reopened

DENSITY = 0.05


@dataclass(frozen=True, slots=True)
class Packed:
    """A delta with the model it unpacks to."""

    delta: Delta
    model: ir.Model
    relative_error: float
    """Root of the squared error left over the squared change, over all float tensors of equal shape."""


def pack(
    base: ir.Model, fine: ir.Model, *, density: float = DENSITY, alpha: float = 1.0, exact: bool = False
) -> Packed:
    """Store of each float tensor the ``density`` share of largest changes; with ``exact``, all bits.

    Tensors that are no floats, or whose shape or type changed, are stored exactly in any case.

    Raises:
        UsageError: the models differ in more than stored tensors, or an option is out of range.

    """
    _check_options(density, alpha)
    if (difference := first_difference(base, fine)) is not None:
        raise UsageError(
            f"the fine-tune has another graph than the base: {difference}; "
            "export both with the same tool and the same options"
        )
    before, after = stored(base), stored(fine)
    parts = {key: _part(key, before[key], after[key], density, alpha, exact=exact) for key in before}
    changed = {key: part for key, part in parts.items() if part.kind != same().kind}
    outputs = _changed_outputs(base, fine)
    model = _with_parts(base, changed, outputs)
    delta = Delta(
        base=digest(base),
        fine=digest(fine),
        result=digest(model),
        density=1.0 if exact else density,
        alpha=alpha,
        parts=changed,
        outputs=outputs,
    )
    return Packed(delta, model, _relative_error(before, after, stored(model)))


def unpack(base: ir.Model, delta: Delta) -> ir.Model:
    """The model that was packed; ``base`` stays as it is.

    Raises:
        UsageError: the delta belongs to another base.
        ArtifactError: the delta is damaged, or does not fit its base.

    """
    found = digest(base)
    if found != delta.base:
        raise UsageError(
            f"the delta was made for a base with digest {delta.base}, this one has {found}; "
            "give the model that it was packed against"
        )
    model = _with_parts(base, delta.parts, delta.outputs)
    if (result := digest(model)) != delta.result:
        raise ArtifactError(
            f"unpacking gives a model with digest {result}, {delta.result} was packed; pack it again"
        )
    return model


def _check_options(density: float, alpha: float) -> None:
    if not 0.0 < density <= 1.0:
        raise UsageError(f"density is {density}, a share above 0 and at most 1 expected")
    if not 0.0 < alpha < math.inf:
        raise UsageError(f"alpha is {alpha}, a number above 0 expected")


def _part(key: Key, base: ir.Value, fine: ir.Value, density: float, alpha: float, *, exact: bool) -> Part:
    a, b = base.const_value, fine.const_value
    assert a is not None  # only what is stored is listed
    assert b is not None
    alike = a.dtype == b.dtype and a.shape == b.shape
    if alike and equal_contents(reopened(a), reopened(b)):
        return same()
    if ir.DataType.STRING in (a.dtype, b.dtype):
        raise UsageError(f"the texts in tensor '{key[1]}' differ; a delta stores numbers only")
    if not alike:
        return whole_part(b)
    if exact or a.dtype not in FLOATS:
        return min((exclusive_part(a, b), whole_part(b)), key=lambda part: len(part.blobs[0]))
    change = difference_of(a, b)
    if not np.isfinite(change).all():
        return exclusive_part(a, b)
    return ternary_part(ternary(change, density, alpha), change.size)


def difference_of(base: ir.TensorProtocol, fine: ir.TensorProtocol) -> Doubles:
    """What a fine-tune adds to a float tensor, flat."""
    first, second = (reopened(tensor).numpy().astype(np.float64).ravel() for tensor in (base, fine))
    with np.errstate(invalid="ignore"):
        return np.asarray(second - first, np.float64)


def _changed_outputs(base: ir.Model, fine: ir.Model) -> dict[str, Dims]:
    pairs = zip(base.graph.outputs, fine.graph.outputs, strict=True)
    return {b.name or "": _dims(b.shape) for a, b in pairs if a.shape != b.shape and b.shape is not None}


def _dims(shape: ir.Shape) -> Dims:
    return tuple(dim if isinstance(dim, int) else dim.value for dim in shape)


def _with_parts(base: ir.Model, parts: Mapping[Key, Part], outputs: Mapping[str, Dims]) -> ir.Model:
    model = base.clone()
    places = stored(model)
    if odd := sorted(parts.keys() - places.keys()):
        raise ArtifactError(f"the delta changes tensor '{odd[0][1]}', which the base does not have")
    for key, part in parts.items():
        tensor = places[key].const_value
        assert tensor is not None
        made = restored(part, tensor)
        places[key].const_value = made
        places[key].shape, places[key].type = ir.Shape(made.shape.numpy()), ir.TensorType(made.dtype)
    known = {value.name: value for value in model.graph.outputs}
    for name, dims in outputs.items():
        if name not in known:
            raise ArtifactError(f"the delta gives a shape to output '{name}', which the base does not have")
        known[name].shape = ir.Shape(dims)
    return model


def _relative_error(
    base: Mapping[Key, ir.Value], fine: Mapping[Key, ir.Value], made: Mapping[Key, ir.Value]
) -> float:
    left = whole = 0.0
    for key, value in fine.items():
        a, b, c = base[key].const_value, value.const_value, made[key].const_value
        if a is None or b is None or c is None or a.dtype not in FLOATS or a.shape != b.shape:
            continue
        change, error = difference_of(a, b), difference_of(c, b)
        finite = np.isfinite(change) & np.isfinite(error)
        whole += float((change[finite] ** 2).sum())
        left += float((error[finite] ** 2).sum())
    return math.sqrt(left / whole) if whole > 0.0 else 0.0
