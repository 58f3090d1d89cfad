"""Heads: from pooled features to the output of an exit, as nodes whose weights are fitted later.

    kind        logits                                     fitted by
    linear      features @ W + b                           multinomial (or per-label) logistic regression
    gda         features @ W + b                           class means and one shared covariance, closed form
    attentive   [softmax(Q x^T / sqrt C) x] @ W + b        queries Q, then W and b as for linear

GDA is the linear discriminant of one Gaussian a class (Fisher 1936); E2CM (Görmez et al. 2022) exits by
class means alone, the case of a covariance that is a multiple of the identity.
Attentive pooling with M learned queries and no key or value projection follows efficient probing
(Psomas et al. 2025): all it costs over a mean is M rows of scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import onnx_ir as ir

from adapass.analyses.cut_points import Layout
from adapass.passes.exits.features import Site, pooled, token_weights, tokens_first
from adapass.passes.exits.nodes import Builder
from adapass.passes.exits.output_form import Activation, OutputForm

ATTENTIVE = "attentive"
"""The feature name of attentive pooling: its width is that of the queries."""
PADDING_SCORE = np.float32(-1e30)


class HeadKind(StrEnum):
    """How a head turns a cut into scores."""

    AUTO = "auto"
    """Fit all that exist and keep the one that follows the original best on held-out fit samples."""
    LINEAR = "linear"
    GDA = "gda"
    ATTENTIVE = "attentive"


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """The structure of a head: what it reads and how it is fitted."""

    kind: HeadKind
    features: str
    """Parts joined by ``+`` (see ``features``), or ``attentive``."""
    queries: int = 0
    """Rows of the query matrix of an attentive head, else 0."""


@dataclass(frozen=True, slots=True)
class HeadValues:
    """The values of one head in the graph."""

    features: ir.Value
    logits: ir.Value
    weight: ir.Value
    """float32 ``[F, C]``, initializer"""
    bias: ir.Value
    """float32 ``[C]``, initializer"""
    queries: ir.Value | None
    """float32 ``[C, M]``, initializer, scaled by ``1 / sqrt(C)``"""


def width_of(site: Site, spec: HeadSpec) -> int:
    """Length of the feature vector ``spec`` reads at ``site``; the head must exist there."""
    if spec.kind is HeadKind.ATTENTIVE:
        return (site.cut.channels or 0) * spec.queries
    return site.width_of(spec.features) or 0


def candidates(site: Site, kind: HeadKind, features: str, queries: int) -> tuple[HeadSpec, ...]:
    """The heads that the options allow at ``site``, cheapest first; empty when none exists there."""
    found: list[HeadSpec] = []
    for kind_ in (HeadKind.LINEAR, HeadKind.GDA):
        if kind in (HeadKind.AUTO, kind_):
            found += [HeadSpec(kind_, offered) for offered in site.offered(features)]
    possible = site.cut.layout is Layout.TOKENS and site.cut.channels is not None and features == "auto"
    if kind in (HeadKind.AUTO, HeadKind.ATTENTIVE) and possible:
        found.append(HeadSpec(HeadKind.ATTENTIVE, ATTENTIVE, queries))
    return tuple(found)


def head_features(build: Builder, site: Site, spec: HeadSpec, queries: ir.Value | None) -> ir.Value:
    """Nodes for the features of a head, float32 ``[B, F]``."""
    if queries is None:
        return pooled(build, site, spec.features)
    tokens = tokens_first(build, site)
    scores = build.op("Transpose", build.op("MatMul", tokens, queries), perm=[0, 2, 1])
    weights = token_weights(build, site)
    if weights is not None:
        scores = build.op(
            "Add", scores, build.once(f"padding of {site.mask}", lambda: _penalty(build, weights))
        )
    attended = build.op("MatMul", build.op("Softmax", scores, axis=2), tokens)
    return build.op("Flatten", attended, axis=1)


def insert_head(build: Builder, site: Site, spec: HeadSpec, classes: int, name: str) -> HeadValues:
    """Insert a head whose weights are all zero: it answers every class with the same score."""
    queries = None
    if spec.kind is HeadKind.ATTENTIVE:
        queries = build.constant(
            np.zeros((site.cut.channels or 0, spec.queries), np.float32), f"{name}_queries"
        )
    features = head_features(build, site, spec, queries)
    weight = build.constant(np.zeros((width_of(site, spec), classes), np.float32), f"{name}_weight")
    bias = build.constant(np.zeros(classes, np.float32), f"{name}_bias")
    logits = build.op("Gemm", features, weight, bias, name=f"{name}_logits")
    return HeadValues(features, logits, weight, bias, queries)


def as_output(build: Builder, logits: ir.Value, form: OutputForm) -> ir.Value:
    """Turn logits ``[B, C]`` into the model's kind of output: activation, axes of size 1, type."""
    value = logits
    if form.activation is Activation.SIGMOID:
        value = build.op("Sigmoid", value)
    elif form.activation is not Activation.NONE:
        value = build.op(form.activation.value, value, axis=1)
    if form.unit_axes:
        value = build.unsqueeze(value, *form.unit_axes)
    if form.dtype != ir.DataType.FLOAT:
        value = build.op("Cast", value, to=int(form.dtype))
    return value


def _penalty(build: Builder, weights: ir.Value) -> ir.Value:
    missing = build.op("Sub", build.constant(np.float32(1.0)), weights)
    return build.op("Mul", missing, build.constant(PADDING_SCORE))
