"""Learn the queries of attentive pooling: L-BFGS on a bounded number of token activations.

    scores = tokens @ Q;  weights = softmax over tokens;  pooled = weights^T tokens;  logits = pooled @ W + b

Q, W and b are learned together; only Q is kept, the linear part is fitted again on all samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from scipy.optimize import minimize
from scipy.special import expit, softmax

from adapass.budgeted import Samples
from adapass.graph.edit import remove_dead_nodes
from adapass.passes.exits.features import Site, token_weights, tokens_first
from adapass.passes.exits.heads import HeadSpec
from adapass.passes.exits.nodes import Builder
from adapass.passes.exits.solvers import cross_entropy
from adapass.passes.exits.streaming import run_batches

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

MAX_SAMPLES = 1024
TOKEN_BYTES = 1 << 27
"""Bound on the token activations held while queries are learned."""
ITERATIONS = 60
PENALTY = 1e-2
FLOOR = np.float32(1e-6)


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Samples of equal length."""

    tokens: Floats
    """[B, T, C]"""
    hidden: Floats
    """[B, T, 1]: 0 for a token, very negative for padding."""
    targets: Floats
    """[B, K]"""


def fit_queries(
    base: ir.Model,
    site: Site,
    spec: HeadSpec,
    samples: Samples,
    targets: Floats,
    exclusive: bool,
    seed: int,
) -> Floats:
    """Queries ``[C, M]`` for the raw tokens at ``site``; ``targets`` start with one row a sample."""
    batches = _token_batches(base, site, samples, targets)
    scale = (
        np.sqrt(np.mean([np.var(b.tokens, axis=(0, 1)) for b in batches], axis=0)).astype(np.float32) + FLOOR
    )
    scaled = [TokenBatch(b.tokens / scale, b.hidden, b.targets) for b in batches]
    channels, classes = len(scale), targets.shape[1]
    shapes = ((channels, spec.queries), (channels * spec.queries, classes), (classes,))
    sizes = [int(np.prod(shape)) for shape in shapes]
    start = np.zeros(sum(sizes))
    random = np.random.default_rng([seed, channels, spec.queries])
    start[: sizes[0]] = random.standard_normal(sizes[0]) / channels

    def objective(flat: Doubles) -> tuple[float, Doubles]:
        return _loss(flat, shapes, scaled, exclusive=exclusive)

    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS})
    queries = np.asarray(found.x, np.float64)[: sizes[0]].reshape(shapes[0])
    return np.asarray(queries / scale[:, None], np.float32)


def _token_batches(base: ir.Model, site: Site, samples: Samples, targets: Floats) -> list[TokenBatch]:
    probe = base.clone()
    build = Builder(probe, "probe")
    weights = token_weights(build, site)
    wanted = [
        build.op("Identity", value) for value in (tokens_first(build, site), weights) if value is not None
    ]
    probe.graph.outputs.clear()
    probe.graph.outputs.extend(wanted)
    remove_dead_nodes(probe)
    names = [value.name or "" for value in wanted]
    batches: list[TokenBatch] = []
    held_bytes = 0
    for group, values in run_batches(probe, names, samples, _spread(len(samples))):
        tokens = np.asarray(values[names[0]], np.float32)
        shown = np.asarray(values[names[1]], np.float32)[:, 0, :, None] if weights is not None else None
        hidden = (
            np.zeros((*tokens.shape[:2], 1), np.float32)
            if shown is None
            else (shown - 1.0) * np.float32(1e30)
        )
        batches.append(TokenBatch(tokens, hidden, targets[group]))
        held_bytes += tokens.nbytes
        if held_bytes > TOKEN_BYTES:
            break
    return batches


def _spread(count: int) -> list[int]:
    """At most ``MAX_SAMPLES`` indices, evenly spread over the data."""
    return [int(index) for index in np.unique(np.linspace(0, count - 1, min(count, MAX_SAMPLES)).round())]


def _loss(
    flat: Doubles, shapes: Sequence[tuple[int, ...]], batches: Sequence[TokenBatch], *, exclusive: bool
) -> tuple[float, Doubles]:
    queries, weight, bias = _split(flat, shapes)
    total = sum(len(batch.targets) for batch in batches)
    loss = 0.5 * PENALTY * float(np.square(weight, dtype=np.float64).sum())
    slopes = [np.zeros_like(queries), np.float32(PENALTY) * weight, np.zeros_like(bias)]
    for batch in batches:
        scores = batch.tokens @ queries + batch.hidden
        attention = np.asarray(softmax(scores, axis=1), np.float32)
        pooled = np.matmul(attention.transpose(0, 2, 1), batch.tokens)
        rows = pooled.reshape(len(pooled), -1)
        logits = rows @ weight + bias
        share = np.float32(1.0 / total)
        said = np.asarray(softmax(logits, axis=1) if exclusive else expit(logits), np.float32)
        residual = (said - batch.targets) * share
        loss += cross_entropy(logits, batch.targets, exclusive=exclusive) * len(rows) / total
        back = (residual @ weight.T).reshape(pooled.shape)
        towards = np.matmul(batch.tokens, back.transpose(0, 2, 1))
        inner = attention * (towards - (attention * towards).sum(axis=1, keepdims=True))
        slopes[0] += np.einsum("btc,btm->cm", batch.tokens, inner, optimize=True)
        slopes[1] += rows.T @ residual
        slopes[2] += residual.sum(axis=0)
    return loss, np.concatenate([slope.ravel() for slope in slopes]).astype(np.float64)


def _split(flat: Doubles, shapes: Sequence[tuple[int, ...]]) -> list[Floats]:
    parts: list[Floats] = []
    at = 0
    for shape in shapes:
        size = int(np.prod(shape))
        parts.append(flat[at : at + size].reshape(shape).astype(np.float32))
        at += size
    return parts
