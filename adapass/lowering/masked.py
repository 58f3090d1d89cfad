"""Lower exits to masks: everything is computed for every sample, then the results are selected.

This saves nothing. It is the fallback for targets without control flow, and the definition the
other two lowerings are tested against.
"""

from __future__ import annotations

import onnx_ir as ir

from adapass.lowering.exits import prepare, standard_only


def lower_to_masked(model: ir.Model) -> ir.Model:
    """A copy of ``model`` with all functions inlined: standard operators only."""
    return standard_only(prepare(model, keep_selects=False))
