"""Whether products are computed in bfloat16 while training.

Weights, their means, losses and judgements stay in single precision. A step takes half the time on processors
with matrix units for it, and longer on others; so the processor decides, not a measurement, and the
same machine always decides alike.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from adapass.budgeted import Array
from adapass.errors import ModelError
from adapass.machine import read_processor
from adapass.twin.build import build_twin
from adapass.twin.torch_import import torch

logger = logging.getLogger(__name__)
_UNITS = ("amx_bf16", "avx512_bf16")


def can_mix(model: ir.Model, feeds: Mapping[str, Array], outputs: Sequence[str]) -> bool:
    """The processor multiplies bfloat16, and the twin of ``model`` computes finite numbers with it."""
    isa = read_processor().isa
    if not all(unit in isa for unit in _UNITS):
        return False
    try:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            found = build_twin(model, outputs=outputs).compute(feeds)
    except ModelError as error:
        logger.info("healing in single precision: %s", error)
        return False
    return all(bool(torch.isfinite(x).all()) for x in found.values())
