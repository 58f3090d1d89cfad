"""A library is accepted when every kernel in it, and the whole, computes what the reference computes.

Each kernel is watched while the library runs on generated inputs and held against the same computation in
numpy, so that a wrong one is named; then the outputs are held against the model in ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array, Feeds
from adapass.codegen.runner import first_line
from adapass.codegen.tvm.kernels.kernel import Kernel
from adapass.codegen.tvm.session import TvmSession
from adapass.errors import DataError, ModelError
from adapass.execution import Session
from adapass.lowering.wiring import Wiring, run_stages
from adapass.ops import EXIT_THRESHOLDS
from adapass.rewrite import Exactness
from adapass.verification import ROUNDING_TOLERANCE, compare_outputs, usable_feeds

KERNEL_BOUND = 1e-4
"""Of the largest number of a result: sums of products in another order stay a hundred times below."""
ROUNDED_BOUND = 0.25
"""Of the root mean square, where the model rounds activations: one off in the last bit moves a whole step."""
CASES = 4
_ROUNDS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})
_UNWATCHED = "compact_"


@dataclass(frozen=True, slots=True)
class Part:
    """A library, with the model it was made from."""

    session: TvmSession
    model: ir.Model
    kernels: Mapping[str, Kernel]


def accept(part: Part, *, seed: int = 0) -> None:
    """Raises ``ModelError`` naming the kernel, or the output, whose numbers are wrong."""
    check = _Check(part)
    defaults = {
        value.name or "": np.asarray(value.const_value.numpy())
        for value in part.model.graph.inputs
        if value.const_value is not None
    }
    names = [value.name or "" for value in part.model.graph.outputs]
    for feeds in usable_feeds(part.model, seed=seed, cases=CASES):
        check(names, {**defaults, **feeds})


def accept_stages(parts: Sequence[Part], wiring: Wiring, model: ir.Model, *, seed: int = 0) -> None:
    """The same for stages, on what really crosses from one to the next while no sample leaves.

    Raises:
        ModelError: see ``accept``.

    """
    checks = [_Check(part) for part in parts]
    for feeds in usable_feeds(model, seed=seed, cases=CASES):
        limits = next(value for value in model.graph.inputs if value.name == EXIT_THRESHOLDS)
        assert limits.shape is not None
        never = np.full(limits.shape.numpy(), np.inf, np.float32)
        given = {**feeds, EXIT_THRESHOLDS: never}
        batch = next(
            (given[name].shape[axis] for name, axis in wiring.batch_axes.items() if name in given), 1
        )
        run_stages(wiring, checks, given, batch)


class _Check:
    """Runs a part and the reference on the same inputs; gives the numbers of the reference."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._reference = Session(part.model)
        self._wrong: dict[str, float] = {}
        nodes = ir.traversal.RecursiveGraphIterator(part.model.graph)
        self._rounds = any(node.op_type in _ROUNDS for node in nodes)
        self._dtypes = {value.name: value.dtype for value in part.model.graph.outputs}

    def __call__(self, outputs: Sequence[str], feeds: Feeds, /) -> Sequence[Array]:
        expected = self._reference.run({name: np.asarray(array) for name, array in feeds.items()})
        names = list(self._reference.outputs)
        session = self._part.session
        session.observe(self._watch)
        try:
            found = dict(zip(names, session.run(names, feeds), strict=True))
        except DataError as error:
            raise ModelError(f"the compiled model is refused: {error}") from error
        except Exception as error:  # TVM has no public base class for its errors
            raise ModelError(f"the compiled model does not run: {first_line(error)}") from error
        finally:
            session.observe(None)
        self._judge(expected, found)
        return [expected[name] for name in outputs]

    def _watch(self, name: str, arrays: Sequence[Array]) -> None:
        kernel = self._part.kernels.get(name)
        if kernel is None or name.startswith(_UNWATCHED):
            return
        *given, result = (np.asarray(array, np.float32) for array in arrays)
        off = _difference(kernel.reference(*given), result)
        if not off <= KERNEL_BOUND:
            self._wrong[name] = max(off, self._wrong.get(name, 0.0))

    def _judge(self, expected: Mapping[str, Array], found: Mapping[str, Array]) -> None:
        if self._wrong:
            each = sorted(self._wrong.items())
            told = ", ".join(f"{name} (off by {off:.2g} of its size)" for name, off in each)
            raise ModelError(f"the compiled model is refused: wrong numbers from kernel {told}")
        worst = compare_outputs([expected], [found]).worst()
        exactness = Exactness.LOSSY if self._rounds else Exactness.ROUNDING
        if not worst.within(exactness, ROUNDED_BOUND if self._rounds else self._bound(worst.output)):
            off = worst.note or f"off by {worst.relative_max:.2g} of its size"
            raise ModelError(f"the compiled model is refused: output '{worst.output}' is {off}")

    def _bound(self, output: str) -> float:
        dtype = self._dtypes[output]
        return 0.0 if dtype is None else ROUNDING_TOLERANCE.get(dtype.numpy().name, 0.0)


def _difference(expected: Array, found: Array) -> float:
    """The largest error by the largest number; infinite when one is not a number and the other is."""
    a, b = np.asarray(expected, np.float64), np.asarray(found, np.float64)
    finite = np.isfinite(a)
    if a.shape != b.shape or not np.array_equal(finite, np.isfinite(b)):
        return float("inf")
    if not finite.any():
        return 0.0
    size = max(float(np.abs(a[finite]).max()), 1e-30)
    return float(np.abs(a[finite] - b[finite]).max()) / size
