"""How much work is left where tokens are left behind: counted on samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.analyses.dataflow import name_of
from adapass.budgeted import Samples
from adapass.execution import Session
from adapass.passes.tokens.counts import share_of
from adapass.passes.tokens.settings import Setting
from adapass.passes.tokens.sites import Site, Way
from adapass.passes.tokens.surgery import records
from adapass.passes.tokens.walk import PRODUCTS, Walk

Counts = npt.NDArray[np.float64]


def lengths(site: Site, mask: str | None, samples: Samples, indices: Sequence[int]) -> Counts:
    """Real tokens of samples, one by one."""
    if site.length is not None:
        return np.full(len(indices), float(site.length))
    found: list[float] = []
    for index in indices:
        feeds = samples.feeds(index)
        if mask is not None and mask in feeds:
            found.append(float(np.count_nonzero(feeds[mask])))
        else:
            found.append(float(max(array.shape[1] for array in feeds.values() if array.ndim > 1)))
    return np.array(found)


def kept_by_share(whole: Counts, setting: Setting) -> Counts:
    return np.array([share_of(int(length), setting) for length in whole], np.float64)


def kept_by_running(model: ir.Model, samples: Samples, indices: Sequence[int]) -> Counts:
    """Tokens that stay at the only site of ``model``, sample by sample."""
    (select,) = records(model)
    session = Session(model, outputs=[name_of(select.outputs[1])])
    name = session.outputs[0]
    names = {value.name for value in model.graph.inputs}
    rows = [samples.feeds(index) for index in indices]
    return np.array(
        [float(session.run({k: v for k, v in row.items() if k in names})[name].sum()) for row in rows]
    )


def shares(way: Way, whole: Counts, kept: Counts) -> Mapping[str, float]:
    """Share of its work that each product on the way keeps, by the name of its result."""
    found: dict[str, float] = {}
    for output in way.walk.axes:
        node = output.producer()
        if node is None or output is way.walk.start or node.op_type not in PRODUCTS:
            continue
        power = _axes_of_work(way.walk, node)
        if power:
            found[name_of(output)] = float((kept**power).sum() / (whole**power).sum())
    return found


def _axes_of_work(walk: Walk, node: ir.Node) -> int:
    """How many axes of tokens a product runs over: two between queries and keys."""
    left, right = (len(walk.axes.get(value, ())) if value is not None else 0 for value in node.inputs[:2])
    return max(left, right) if 2 in (left, right) else left + right
