"""Is what is restored the weight it stands for?

Restored weights are computed by the nodes that the model has for them, so that a wrong axis, a lost node or a
wrong type shows as well as a wrong number. Rounding moves a weight by about a step of its grid; a sign or an
axis that is wrong moves it by more than its own size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array
from adapass.errors import VerificationError
from adapass.execution import Session
from adapass.graph.edit import constant_array
from adapass.passes.prune.kept_weights import alignment, check_weights
from adapass.passes.quantize.weight_only.formats import Format, Kind
from adapass.passes.quantize.weight_only.grid import Doubles, Scales, grid_of
from adapass.passes.quantize.weight_only.layout import format_of, product_of, restored_value
from adapass.passes.quantize.weight_only.sites import Site

STEPS = 4.0
"""Errors of so many roots of the mean squared rounding error of the grid over the whole range are expected at
most: second order moves weights further than the nearest value is."""
LEAST, MOST = 0.02, 1.2
"""Bounds of what may be expected, in sizes of the weight. Turned around, a weight is off by 2; with its
entries elsewhere by 1.4."""


def check_stored(family: str, sites: Sequence[Site], before: ir.Model, after: ir.Model) -> None:
    """Compare each stored weight of ``after`` with that of its site, then all weights that nobody touched.

    Raises:
        VerificationError: naming the weight.

    """
    nodes = {node.outputs[0].name: node for node in after.graph}
    marked: dict[str, tuple[Site, Format, ir.Node]] = {}
    for site in sites:
        if site.name not in nodes:
            raise VerificationError(f"{family}: the product '{site.name}' is lost")
        node = product_of(nodes[site.name])
        if node is not None and (format_ := format_of(node)) is not None:
            marked[site.name] = (site, format_, node)
    numbers = _restored(after, [node for _, _, node in marked.values()])
    for name, (site, format_, node) in marked.items():
        restored = _matrix(site, numbers[restored_value(node).name or ""], family)
        _judge(family, site, format_, restored)
        if format_.rank:
            _judge_branch(family, site, nodes[name], restored)
    check_weights(family, before, after, ())


def _restored(model: ir.Model, nodes: Sequence[ir.Node]) -> Mapping[str, Array]:
    """Values of the weights, computed as the model does."""
    names = [restored_value(node).name or "" for node in nodes]
    if not names:
        return {}
    graph = ir.convenience.extract(model.graph, [], names)
    return Session(ir.Model(graph, ir_version=model.ir_version)).run({})


def _matrix(site: Site, array: Array, family: str) -> Doubles:
    """As [inputs, outputs]."""
    if array.dtype != np.float32:
        raise VerificationError(f"{family}: the weight of '{site.name}' is restored as {array.dtype}")
    wide = array.astype(np.float64)
    flat = wide.reshape(len(wide), -1).T if site.convolution else wide
    if flat.shape != site.shape:
        raise VerificationError(
            f"{family}: the weight of '{site.name}' is restored as {list(flat.shape)}, "
            f"{list(site.shape)} expected"
        )
    return flat


def _judge(family: str, site: Site, format_: Format, restored: Doubles) -> None:
    matrix = site.matrix
    size = float(np.linalg.norm(matrix))
    error = float(np.linalg.norm(restored - matrix))
    allowed = allowed_error(matrix, format_)
    if not error <= allowed * size:
        raise VerificationError(
            f"{family}: the weight of '{site.name}' is off by {error / size if size else np.inf:.3g} of its "
            f"size, {format_.text} explains {allowed:.3g}"
        )


def allowed_error(matrix: Doubles, format_: Format) -> float:
    """What a format may move a weight by, in sizes of the weight."""
    if format_.kind is Kind.BINARY:
        return MOST
    if format_.kind is not Kind.INTEGER:
        return LEAST
    if format_.rank:
        return MOST  # what is stored is the weight without its branch
    size = float(np.linalg.norm(matrix))
    block = format_.block(len(matrix))
    grid = grid_of(matrix, bits=format_.bits, block=block, symmetric=True, scales=Scales.MIN_MAX)
    steps = grid.rows(len(matrix))[0]
    expected = STEPS * float(np.linalg.norm(steps)) / np.sqrt(12.0) / size if size > 0.0 else 0.0
    return min(max(expected, LEAST), MOST)


def _judge_branch(family: str, site: Site, total: ir.Node, restored: Doubles) -> None:
    """Factors are the error projected onto directions of the outputs, so they point where it does."""
    left, right = (_factor(total, place) for place in (0, 1))
    product, error = left @ right, site.matrix - restored
    if alignment(error, product) <= 0.0 and product.any():
        raise VerificationError(
            f"{family}: the branch beside '{site.name}' points away from what rounding lost; a sign or an "
            "axis is wrong"
        )


def _factor(total: ir.Node, place: int) -> Doubles:
    wide = total.inputs[1].producer() if total.inputs[1] is not None else None
    thin = wide.inputs[0].producer() if wide is not None and wide.inputs[0] is not None else None
    array = constant_array((thin, wide)[place].inputs[1]) if thin is not None and wide is not None else None
    if array is None:
        raise VerificationError(f"the branch of '{total.outputs[0].name}' has lost a factor")
    return array.astype(np.float64)
