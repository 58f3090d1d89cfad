"""Does a generator compute what the model says? Asked of the original, before a run relies on it.

A runtime may take a model and get it wrong, and without data nothing later would notice. The answers of
its first exact variant are compared with those of the reference session.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir

from adapass.budgeted import Array, Feeds
from adapass.errors import InvalidInputError
from adapass.generator import Generator, Outcome
from adapass.ops import EXIT_INDEX
from adapass.rewrite import Exactness
from adapass.target import Target
from adapass.verification import ROUNDING_TOLERANCE, compare_outputs, run_all

ROUNDED = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})
ROUNDED_BOUND = 0.25
"""Of the root mean square, where the model rounds activations: one off in the last bit moves a whole step."""


def disagreement(
    generator: Generator, model: ir.Model, target: Target, feeds: Sequence[Feeds], *, threads: int
) -> str | None:
    """Why ``generator`` cannot be relied on for ``model``; ``None`` when it agrees on ``feeds``."""
    variants = generator.variants(model, target, threads=threads, batch=1)
    variant = next((each for each in variants if each.exact), None)
    if variant is None:
        return None
    try:
        with TemporaryDirectory(prefix="adapass-") as folder:
            generator.build(model, target, Path(folder), variant.options)
            runner = generator.load(Path(folder), threads=threads)
            found = [_outputs(runner.run(feed)) for feed in feeds]
            runner.close()
    except InvalidInputError as error:
        return str(error)
    worst = compare_outputs(run_all(model, feeds), found).worst()
    if _rounds(model):
        agrees = worst.within(Exactness.LOSSY, ROUNDED_BOUND)
    else:
        agrees = worst.within(Exactness.ROUNDING, _bound(model, worst.output))
    if agrees:
        return None
    off = worst.note or f"off by {worst.relative_max:.2g} of its size"
    return f"it does not compute this model as it is meant: output '{worst.output}' is {off}"


def _outputs(outcome: Outcome) -> dict[str, Array]:
    return outcome.outputs if outcome.exits is None else {**outcome.outputs, EXIT_INDEX: outcome.exits}


def _bound(model: ir.Model, output: str) -> float:
    dtypes = {value.name: value.dtype for value in model.graph.outputs}
    dtype = dtypes[output]
    return 0.0 if dtype is None else ROUNDING_TOLERANCE.get(dtype.numpy().name, 0.0)


def _rounds(model: ir.Model) -> bool:
    nodes = ir.traversal.RecursiveGraphIterator(model.graph)
    return any(node.op_type in ROUNDED for node in nodes)
