"""Bounds other than latency: bytes of weights, and a proxy for energy.

Energy is counted, not measured: picojoules for each operation and each byte moved, from Horowitz,
"Computing's energy problem (and what we can do about it)", ISSCC 2014 (45 nm, 0.9 V). Newer processors need
less, all operations about equally, so the proxy ranks models and tells by what factor one needs less than
another. It is no number of joules.

    operation        add     multiply   pJ         traffic         pJ a byte
    f32              0.9     3.7                   main memory     160         (1.3 to 2.6 nJ for 64 bits)
    f16              0.4     1.1                   last cache      12.5        (100 pJ for 64 bits of 1 MB)
    int8             0.03    0.2
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import onnx_ir as ir

from adapass.budgeted import Feeds
from adapass.cost.model import Work
from adapass.cost.work_of import works_of
from adapass.graph.tensors import tensor_bytes

PICO: Final = 1e-12
OPERATION_PICOJOULES: Final[Mapping[str, float]] = MappingProxyType(
    {"f32": 2.3, "f16": 0.75, "bf16": 0.75, "i8": 0.115}
)
"""The mean of an addition and a multiplication, the two operations of a product. Others count as f32."""
DRAM_PICOJOULES_A_BYTE: Final = 160.0
CACHE_PICOJOULES_A_BYTE: Final = 12.5


@dataclass(frozen=True, slots=True)
class Resources:
    """What a call of a model takes besides time."""

    weight_bytes: int
    """Stored tensors, whether a call reads them or not."""
    operations: int
    moved_bytes: int
    energy_proxy: float
    """Joules of a 45 nm processor; for comparing models with one another only."""


def resources(model: ir.Model, feed: Feeds) -> Resources:
    """Count one call of ``model``. Exits count as if no sample took one."""
    works = tuple(works_of(model, feed))
    return Resources(
        weight_bytes=tensor_bytes(model),
        operations=sum(work.flops for work in works),
        moved_bytes=sum(work.bytes_read + work.bytes_written for work in works),
        energy_proxy=energy(works, tensor_bytes(model)),
    )


def energy(works: Iterable[Work], weight_bytes: int) -> float:
    """Joules by the table: weights come from main memory once a call, activations go through the cache."""
    total = weight_bytes * DRAM_PICOJOULES_A_BYTE
    for work in works:
        each = OPERATION_PICOJOULES.get(work.dtype, OPERATION_PICOJOULES["f32"])
        total += each * work.flops + CACHE_PICOJOULES_A_BYTE * (work.bytes_read + work.bytes_written)
    return total * PICO
