"""Counted work: the multiply-adds that a runtime really executes for given samples.

What an adaptive model computes depends on its inputs: how many tokens a layer keeps, how many rows are
live, at which exit a sample leaves. So nothing is predicted here. The model is lowered to branches, which
skip what need not run, and run in ONNX Runtime with its own profile on: that says which nodes ran, and on
what shapes. Products and convolutions are counted, also those that a mechanism adds to decide what to skip.

The graph runs as it is written, without fusion, one multiply and one add a count. 8 bits execute as many
multiply-adds as float ones; that they are cheaper is seen in time only.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

import numpy as np
import onnx_ir as ir

from adapass.analyses.work import Shape, flops_of
from adapass.budgeted import Array, Samples
from adapass.errors import DataError, VerificationError
from adapass.graph.save import save_model
from adapass.graph.tensors import graphs_everywhere
from adapass.lowering import lower_to_if

ort: Any = import_module("onnxruntime")  # ships no types

PRODUCTS: Final = frozenset(
    {
        "Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "MatMul", "MatMulInteger", "QLinearMatMul",
        "FusedMatMul", "Gemm", "Einsum", "Attention", "LSTM", "GRU", "RNN",
    }
)  # fmt: skip
"""Operators of multiply-adds; all others move numbers, or compute a few operations for each."""
EVENTS: Final = 100_000
"""Entries of one profile; the runtime drops those beyond a million without a word."""
MOST_RUNS: Final = 128
"""Of one profile: their feeds are in memory together, and may be images."""
SUFFIX: Final = "_kernel_time"
Ran = tuple[str, tuple[list[Shape | None], list[Shape | None]]]
"""A node by its name, and the shapes of its inputs and outputs."""
NO_KNOBS: Final[Mapping[str, Array]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class CountedWork:
    """Multiply-adds executed, mean over the samples."""

    samples: int
    by_product: Mapping[str, float]
    """By the name of the result; 0 where a product never ran."""

    @property
    def multiply_adds(self) -> float:
        return sum(self.by_product.values())

    def share_of(self, before: CountedWork) -> float:
        """Executed work over that of ``before``."""
        return self.multiply_adds / before.multiply_adds if before.multiply_adds else 1.0

    def left_of(self, before: CountedWork) -> dict[str, float]:
        """Share of its work that each product of ``before`` still executes."""
        known = {name: amount for name, amount in before.by_product.items() if amount}
        return {name: self.by_product.get(name, 0.0) / amount for name, amount in known.items()}

    def added_to(self, before: CountedWork) -> float:
        """Multiply-adds of products that ``before`` does not have: what it takes to decide what to skip."""
        return sum(amount for name, amount in self.by_product.items() if name not in before.by_product)


def counted_work(
    model: ir.Model,
    samples: Samples,
    indices: Sequence[int] | None = None,
    *,
    knobs: Mapping[str, Array] = NO_KNOBS,
    batch: int = 1,
) -> CountedWork:
    """Run ``model`` on ``samples`` (those of ``indices``), ``batch`` at a time, and count what ran.

    ``knobs`` are fed to every run, thresholds of exits for instance; without them the model's own defaults
    hold.

    Raises:
        DataError: there are no samples.
        ModelError: the model cannot be lowered.
        VerificationError: the runtime does not take the model or a sample.

    """
    chosen = list(range(len(samples))) if indices is None else list(indices)
    if not chosen or batch < 1:
        raise DataError(f"work is counted on samples, found {len(chosen)} in batches of {batch}")
    lowered = lower_to_if(model)
    products = _named(lowered)
    nodes = sum(1 for graph in graphs_everywhere(lowered) for _ in graph)
    groups = [chosen[at : at + batch] for at in range(0, len(chosen), batch)]
    runs = max(1, min(MOST_RUNS, EVENTS // max(nodes, 1)))
    totals = dict.fromkeys((_result(node) for node in products.values()), 0)
    with tempfile.TemporaryDirectory(prefix="adapass-") as folder:
        file = Path(folder) / "model.onnx"
        save_model(lowered, file)
        for at in range(0, len(groups), runs):
            feeds = [{**samples.batch(group), **knobs} for group in groups[at : at + runs]]
            for name, shapes in profile(file, feeds):
                if name in products:
                    node = products[name]
                    totals[_result(node)] += flops_of(node, *shapes) // 2
    return CountedWork(
        len(chosen), MappingProxyType({name: total / len(chosen) for name, total in totals.items()})
    )


def _named(model: ir.Model) -> dict[str, ir.Node]:
    """Give all nodes, in branches too, names of their own; returns the products among them."""
    found: dict[str, ir.Node] = {}
    number = 0
    for graph in graphs_everywhere(model):
        for node in graph:
            node.name = f"counted.{number}"
            number += 1
            if node.op_type in PRODUCTS:
                found[node.name] = node
    return found


def _result(node: ir.Node) -> str:
    return node.outputs[0].name or ""


def profile(file: Path, feeds: Sequence[Mapping[str, Array]]) -> Iterator[Ran]:
    """Every node of the model in ``file`` that ran for ``feeds``.

    Raises:
        VerificationError: the runtime does not take the model or a feed, or lost a part of its profile.

    """
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(file.with_name("profile"))
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_prepacking", "1")  # packed weights have no shape there
    try:
        session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        for feed in feeds:
            session.run(None, {name: np.asarray(array) for name, array in feed.items()})
        written = Path(session.end_profiling())
    except Exception as error:
        raise VerificationError(f"ONNX Runtime cannot count the work of the model: {error}") from error
    events = cast("list[dict[str, Any]]", json.loads(written.read_text(encoding="utf-8")))
    written.unlink()
    ran = sum(event.get("name") == "model_run" for event in events)
    if ran != len(feeds):
        raise VerificationError(f"the profile holds {ran} of {len(feeds)} runs; count in smaller parts")
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(SUFFIX):
            details = event["args"]
            inputs, outputs = (_shapes(details[key]) for key in ("input_type_shape", "output_type_shape"))
            yield name.removesuffix(SUFFIX), (inputs, outputs)


def _shapes(entries: Sequence[Mapping[str, Sequence[int]]]) -> list[Shape | None]:
    """``[{"float": [1, 48, 384]}, ...]``; a scalar has an empty list."""
    return [tuple(int(size) for size in next(iter(entry.values()), ())) for entry in entries]
