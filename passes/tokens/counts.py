"""How many tokens of each sample stay, as nodes.

A count is int64 ``[B]``, or ``[1]`` where it is the same for all samples.

    keep-0.7  ->  ceil(0.7 * real tokens), in whole numbers
    mass-0.9  ->  the fewest of the best whose scores sum up to 0.9 of the sum of the sample's
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from adapass.passes.tokens.nodes import TokenBuilder
from adapass.passes.tokens.settings import PER_MILLE, Rule, Setting


@dataclass(frozen=True, slots=True)
class Tokens:
    """What is known of the tokens at a place of the model."""

    stream: ir.Value
    """``[B, T, C]``."""
    live: ir.Value | None
    """bool ``[B, T]``: the real ones; ``None`` where all are."""
    length: int | None
    """T, where it is fixed."""
    first: bool
    """Whether the first token must stay."""


def share_of(length: int, setting: Setting) -> int:
    """How many of ``length`` tokens stay."""
    return max(1, -(-length * setting.share_per_mille // PER_MILLE))


def count_tokens(
    build: TokenBuilder, tokens: Tokens, score: ir.Value, setting: Setting, threshold: ir.Value | None
) -> ir.Value:
    if setting.rule is Rule.MASS and setting.share_per_mille < PER_MILLE:
        return _at_least_one(build, _by_mass(build, tokens, score, setting))
    if threshold is not None:
        return _at_least_one(build, _by_threshold(build, tokens, score, threshold))
    if tokens.live is None and tokens.length is not None:
        return build.integers(share_of(tokens.length, setting))
    scaled = build.op("Mul", _real(build, tokens), build.integer(setting.share_per_mille))
    rounded = build.op("Add", scaled, build.integer(PER_MILLE - 1))
    return _at_least_one(build, build.op("Div", rounded, build.integer(PER_MILLE)))


def ranking(build: TokenBuilder, tokens: Tokens, score: ir.Value) -> ir.Value:
    """The score by which tokens are selected: padding last, and the first token first where it must stay."""
    if tokens.live is not None:
        score = build.op("Where", tokens.live, score, build.number(-np.inf))
    if tokens.first:
        score = build.op("Where", _is_first(build, tokens), build.number(np.inf), score)
    return score


def _real(build: TokenBuilder, tokens: Tokens) -> ir.Value:
    """The number of real tokens, int64 ``[B]`` or ``[1]``."""
    live = tokens.live
    if live is None:
        return build.size(tokens.stream, 1)
    return build.once(
        f"count {live.name}",
        lambda: build.reduce("ReduceSum", build.op("Cast", live, to=int(ir.DataType.INT64)), (1,)),
    )


def _at_least_one(build: TokenBuilder, count: ir.Value) -> ir.Value:
    return build.op("Max", count, build.integer(1))


def _is_first(build: TokenBuilder, tokens: Tokens) -> ir.Value:
    """True for one place, ``[T]``."""
    if tokens.length is not None:
        return build.constant(np.arange(tokens.length) == 0)
    end = build.squeeze(build.size(tokens.stream, 1), 0)
    places = build.op("Range", build.integer(0), end, build.integer(1))
    return build.op("Equal", places, build.integer(0))


def _by_mass(build: TokenBuilder, tokens: Tokens, score: ir.Value, setting: Setting) -> ir.Value:
    """The first token is outside of the sum, and counted on top."""
    mass = score
    if tokens.first:
        mass = build.op("Where", _is_first(build, tokens), build.number(0.0), mass)
    if tokens.live is not None:
        mass = build.op("Where", tokens.live, mass, build.number(0.0))
    falling = build.sorted(mass, build.size(tokens.stream, 1))
    before = build.op("CumSum", falling, build.integer(1), exclusive=1)
    total = build.reduce("ReduceSum", mass, (1,), keep=True)
    wanted = build.op("Mul", total, build.number(setting.share))
    needed = build.op("Cast", build.op("Less", before, wanted), to=int(ir.DataType.INT64))
    count = build.reduce("ReduceSum", needed, (1,))
    return build.op("Add", count, build.integer(1)) if tokens.first else count


def _by_threshold(build: TokenBuilder, tokens: Tokens, score: ir.Value, threshold: ir.Value) -> ir.Value:
    above = build.op("Greater", ranking(build, tokens, score), threshold)
    return build.reduce("ReduceSum", build.op("Cast", above, to=int(ir.DataType.INT64)), (1,))
