"""Which function computes which operator. Operators of other domains carry their domain: ``domain::Name``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Final

import onnx_ir as ir

from adapass.twin.operators import (
    attention,
    convolutions,
    elementwise,
    fused,
    images,
    indexing,
    normalisation,
    pools,
    products,
    quantization,
    recurrent,
    reductions,
    shapes,
)
from adapass.twin.torch_import import Tensor

Compute = Callable[..., Tensor]

FAMILIES: Final[tuple[Mapping[str, Compute], ...]] = (
    attention.OPERATORS,
    convolutions.OPERATORS,
    elementwise.OPERATORS,
    fused.OPERATORS,
    images.OPERATORS,
    indexing.OPERATORS,
    normalisation.OPERATORS,
    pools.OPERATORS,
    products.OPERATORS,
    quantization.OPERATORS,
    recurrent.OPERATORS,
    reductions.OPERATORS,
    shapes.OPERATORS,
)
REGISTRY: Final[Mapping[str, Compute]] = {name: f for family in FAMILIES for name, f in family.items()}
CONTROL: Final = frozenset({"Constant", "If", "Loop", "Scan"})
"""Built from their attributes by the builder itself."""


def find(node: ir.Node) -> Compute | None:
    """The function that computes ``node``; ``None`` where there is none."""
    key = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
    return REGISTRY.get(key)


def is_translated(node: ir.Node) -> bool:
    return find(node) is not None or (node.domain in ("", "ai.onnx") and node.op_type in CONTROL)


@cache
def parameters(compute: Compute) -> Mapping[str, inspect.Parameter]:
    """What a function of the registry takes."""
    return inspect.signature(compute).parameters


def accepts(compute: Compute, attribute: str) -> bool:
    found = parameters(compute).get(attribute)
    return found is not None and found.kind is inspect.Parameter.KEYWORD_ONLY


def required(compute: Compute) -> list[str]:
    """Attributes without a default."""
    kinds = inspect.Parameter
    return [
        name
        for name, p in parameters(compute).items()
        if p.kind is kinds.KEYWORD_ONLY and p.default is kinds.empty and name not in ("outputs", "opset")
    ]


def most_inputs(compute: Compute) -> int | None:
    """How many inputs it takes at most; ``None`` for any number."""
    kinds = [p.kind for p in parameters(compute).values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return None
    return kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD)
