"""Check inserted exits on a few inputs: what neutral thresholds hide must be right as well.

Every head and its confidence is computed a second time, in NumPy, from the cut values of the model
before the pass; then every exit is opened alone, and all of them half-way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.budgeted import Array, Feeds
from adapass.errors import VerificationError
from adapass.execution import Session
from adapass.ops import EXIT_INDEX, EXIT_THRESHOLDS, read_exits
from adapass.passes.exits.record import ExitsRecord, HeadRecord, read_record
from adapass.passes.exits.reference import as_output, confidences, features

Doubles = npt.NDArray[np.float64]

TOLERANCE = 2e-3
"""Largest error of a head, relative to the root mean square of what it should say (or to 1)."""
ROUNDING = 1e-5
"""What the features of a head may be off by, relative to themselves: the layers before it round differently
in the two models. Large weights that nearly cancel make much of it."""
NEAR = 1e-3
"""Confidences this close to a threshold may fall on either side."""


@dataclass(frozen=True, slots=True)
class _Expected:
    """What the exits should say about one feed."""

    features: tuple[Doubles, ...]
    """Per exit [B, F]."""
    outputs: tuple[Doubles, ...]
    """Per exit [B, C]."""
    confidence: Doubles
    """[B, E]"""
    slack: tuple[float, ...]
    """Per exit, what rounding of its features may do to its output."""


def head_digest(model: ir.Model, head: HeadRecord) -> str:
    """A short hash of the fitted weights of a head."""
    digest = sha256()
    for name in head.values[2:]:
        digest.update(_stored(model, name).tobytes() if name else b"-")
    if head.readiness:
        digest.update(_stored(model, head.readiness).tobytes())
    return digest.hexdigest()[:16]


def check_exits(before: ir.Model, after: ir.Model, feeds: Sequence[Feeds]) -> None:
    """Compare the exits of ``after`` with a second computation from the cuts of ``before``.

    Raises:
        VerificationError: a weight changed since it was fitted, or an exit says something else.

    """
    record = read_record(after)
    for index, head in enumerate(record.heads):
        if head.digest and head.digest != head_digest(after, head):
            raise VerificationError(
                f"exit {index} at '{head.cut}': its weights are not those that were fitted"
            )
    exits = read_exits(after)
    if len(exits) != len(record.heads):
        raise VerificationError(f"{len(record.heads)} exits were inserted, the graph has {len(exits)}")
    certain = [found.confidence.name or "" for found in exits]
    read = [head.values[0] for head in record.heads]
    inputs = {value.name for value in before.graph.inputs}
    masks = [head.mask for head in record.heads if head.mask is not None and head.mask not in inputs]
    cuts = Session(before, outputs=list(dict.fromkeys([*record.cuts, *masks])))
    inside, whole = Session(after, outputs=list(dict.fromkeys([*certain, *read]))), Session(after)
    for feed in feeds:
        expected = _expected(after, record, {**feed, **cuts.run(feed)})
        said = inside.run(feed)
        for head, name, wanted in zip(record.heads, read, expected.features, strict=True):
            compare(f"what the exit at '{head.cut}' reads", said[name], wanted)
        found = np.stack([said[name] for name in certain], axis=1)
        compare("confidence", found, expected.confidence, max(expected.slack, default=0.0))
        _check_leaving(whole, record, feed, expected)


def _check_leaving(session: Session, record: ExitsRecord, feed: Feeds, expected: _Expected) -> None:
    """Open every exit alone, then all of them half-way."""
    count = len(record.heads)
    half = (0.5 * (expected.confidence.min(axis=0) + expected.confidence.max(axis=0))).astype(np.float32)
    alone = [np.where(np.arange(count) == index, -1.0, np.inf).astype(np.float32) for index in range(count)]
    for thresholds in (*alone, half):
        found = session.run({**feed, EXIT_THRESHOLDS: thresholds})
        stops = expected.confidence >= thresholds
        clear = (np.abs(expected.confidence - thresholds) > NEAR).all(axis=1)
        leaves = np.where(stops.any(axis=1), stops.argmax(axis=1), count)
        compare(EXIT_INDEX, found[EXIT_INDEX][clear], leaves[clear].astype(np.float64))
        output = next(value for name, value in found.items() if name != EXIT_INDEX)
        for row in np.flatnonzero(clear & (leaves < count)):
            exit_index = int(leaves[row])
            what = f"the output of exit {exit_index} at '{record.cuts[exit_index]}'"
            compare(
                what,
                output[row].reshape(-1),
                expected.outputs[exit_index][row],
                expected.slack[exit_index],
            )


def _expected(model: ir.Model, record: ExitsRecord, known: Mapping[str, Array]) -> _Expected:
    read: list[Doubles] = []
    logits: list[Doubles] = []
    slack: list[float] = []
    for head in record.heads:
        queries = _stored(model, head.values[4]) if head.values[4] else None
        mask = None if head.mask is None else known[head.mask]
        read.append(features(head, known[head.cut], mask, queries))
        weight, bias = (_stored(model, name).astype(np.float64) for name in head.values[2:4])
        logits.append(read[-1] @ weight + bias)
        slack.append(ROUNDING * float((np.abs(read[-1]) @ np.abs(weight)).max(initial=0.0)))
    outputs = tuple(as_output(record, z) for z in logits)
    ready = [_stored(model, head.readiness) for head in record.heads if head.readiness]
    return _Expected(tuple(read), outputs, confidences(record, logits, ready), tuple(slack))


def _stored(model: ir.Model, name: str) -> Array:
    value = model.graph.initializers.get(name)
    if value is None or value.const_value is None:
        raise VerificationError(f"the weight '{name}' of an exit is gone")
    return value.const_value.numpy()


def compare(what: str, found: Array, expected: Doubles, slack: float = 0.0) -> None:
    """Allow ``TOLERANCE`` times the size of ``expected`` (or 1), or ``slack`` where that is more.

    Raises:
        VerificationError: naming ``what`` and the largest error, or shapes that differ.

    """
    if found.shape != expected.shape:
        raise VerificationError(f"{what} has shape {list(found.shape)}, expected {list(expected.shape)}")
    if not expected.size:
        return
    error = float(np.abs(found.astype(np.float64) - expected).max())
    scale = max(1.0, float(np.sqrt(np.mean(expected**2))))
    if not error <= max(TOLERANCE * scale, slack):
        raise VerificationError(f"{what} is off by {error:.3g}, computed a second time in NumPy")
