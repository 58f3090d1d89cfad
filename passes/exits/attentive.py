"""Learn the queries of attentive pooling: L-BFGS on a bounded number of token activations.

    scores = tokens @ Q;  weights = softmax over tokens;  pooled = weights^T tokens;  logits = pooled @ W + b

Q, W and b are learned together; only Q is kept, the linear part is fitted again on all samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from adapass.passes.exits.streaming import BATCH, equal_shape_batches, fixed_batch, run_batches

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

MAX_SAMPLES = 768
TOKEN_BYTES = 1 << 27
"""Bound on the token activations held while queries are learned."""
ITERATIONS = 40
PENALTY = 1e-2
FLOOR = np.float32(1e-6)


@dataclass(frozen=True, slots=True)
class QueryOptions:
    """What learning queries depends on beside the data."""

    exclusive: bool
    seed: int


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
    targets: Mapping[int, Floats],
    options: QueryOptions,
) -> Floats:
    """Queries ``[C, M]`` for the raw tokens at ``site``, learned on the samples that have ``targets``."""
    batches = _token_batches(base, site, samples, targets, options.seed)
    scale = np.sqrt(np.mean([np.var(b.tokens, axis=(0, 1)) for b in batches], axis=0)) + FLOOR
    scaled = [TokenBatch(b.tokens / scale.astype(np.float32), b.hidden, b.targets) for b in batches]
    channels, classes = len(scale), batches[0].targets.shape[1]
    shapes = ((channels, spec.queries), (channels * spec.queries, classes), (classes,))
    sizes = [int(np.prod(shape)) for shape in shapes]
    start = np.zeros(sum(sizes))
    random = np.random.default_rng([options.seed, channels, spec.queries])
    start[: sizes[0]] = random.standard_normal(sizes[0]) / channels

    def objective(flat: Doubles) -> tuple[float, Doubles]:
        return _loss(flat, shapes, scaled, exclusive=options.exclusive)

    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS})
    queries = np.asarray(found.x, np.float64)[: sizes[0]].reshape(shapes[0])
    return np.asarray(queries / scale[:, None], np.float32)


def query_samples(allowed: Sequence[int]) -> list[int]:
    """At most ``MAX_SAMPLES`` of the allowed indices, evenly spread."""
    places = np.unique(np.linspace(0, len(allowed) - 1, min(len(allowed), MAX_SAMPLES)).round())
    return [allowed[int(place)] for place in places]


def _token_batches(
    base: ir.Model, site: Site, samples: Samples, targets: Mapping[int, Floats], seed: int
) -> list[TokenBatch]:
    probe = base.clone()
    build = Builder(probe, "probe")
    weights = token_weights(build, site)
    values = [tokens_first(build, site), *([] if weights is None else [weights])]
    wanted = [build.op("Identity", value) for value in values]
    probe.graph.outputs.clear()
    probe.graph.outputs.extend(wanted)
    remove_dead_nodes(probe)
    names = [value.name or "" for value in wanted]
    groups = equal_shape_batches(samples, list(targets), fixed_batch(base) or BATCH)
    # Shuffled, so that stopping early does not drop the lengths that come last.
    order = [int(place) for place in np.random.default_rng(seed).permutation(len(groups))]
    batches: list[TokenBatch] = []
    held_bytes = 0
    for group, found in run_batches(probe, names, samples, [groups[place] for place in order]):
        tokens = np.asarray(found[names[0]], np.float32)
        hidden = np.zeros((*tokens.shape[:2], 1), np.float32)
        if weights is not None:
            hidden = (np.asarray(found[names[1]], np.float32)[:, 0, :, None] - 1.0) * np.float32(1e30)
        batches.append(TokenBatch(tokens, hidden, np.stack([targets[index] for index in group])))
        held_bytes += tokens.nbytes
        if held_bytes > TOKEN_BYTES:
            break
    return batches


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
