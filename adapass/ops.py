"""The adaptive operators: model-local ONNX functions in the domain ``adapass``, version 1.

Their bodies are standard ONNX, and the body *is* the definition: masked computation that any
runtime can execute. A generator that knows an operator may skip what the mask would throw away; the
portable export inlines the body. Nothing else lives in this domain.

    operator       inputs                               output
    ExitSelect     stop, taken, rest                    selected
    LogRound       x, scale, base, last                 rounded
    SelectTokens   score, count                         kept, valid
    GatherTokens   x, kept                              y
    ScatterTokens  rest, kept, valid, y                 z
    MergeTokens    x, key, size, kept, valid, takes     y, total
    LiveRows       live                                 rows
    GatherRows     x, rows                              y
    ScatterRows    rest, rows, y                        z

``ExitSelect(stop, taken, rest)``
    Per sample: ``taken`` where ``stop`` holds, else ``rest``. ``stop`` is bool ``[B]``. ``taken`` and
    ``rest`` have one type, and either lead with the batch axis or are scalars that stand for every
    sample. A generator need not compute what only feeds ``rest`` for samples with ``stop``.

``LogRound(x, scale, base, last)``
    What is left of ``x >= 0`` when only the code ``round(-log(x / scale) / log(base))``, 0 to ``last``, is
    kept: ``scale * base ^ -code``. Larger numbers become ``scale``, and those whose code would lie beyond
    ``last`` become 0, which has a code of its own. ``scale``, ``base`` (above 1) and ``last`` are scalars of
    the type of ``x``. A generator may store the codes in the place of ``x``.

``SelectTokens(score, count)``
    Per sample the ``count`` tokens of the highest ``score`` ``[B, T]``, best first, ties to the lower
    position: their positions ``kept`` int64 ``[B, K]``, with K the largest count (at least 1, at most T).
    ``count`` is int64 ``[B]``, or ``[1]`` where it is that of every sample. ``valid`` bool ``[B, K]`` (or
    ``[1, K]``) says which places are within the count of their sample; nothing may depend on the others.

``GatherTokens(x, kept)``
    ``x`` ``[B, T, ...]`` at the positions ``kept`` of each sample: ``[B, K, ...]``.

``ScatterTokens(rest, kept, valid, y)``
    ``rest`` ``[B, T, ...]`` with ``y`` ``[B, K, ...]`` at those of the positions ``kept`` that are ``valid``.

``MergeTokens(x, key, size, kept, valid, takes)``
    Every token that is in no valid place goes to the place, of those with ``takes`` (bool ``[B, K]``, valid
    ones only), whose ``key`` ``[B, T, D]`` has the largest cosine with its own (ties to the lower place), or
    nowhere where no place takes. ``y`` ``[B, K, C]`` is the mean of ``x`` ``[B, T, C]`` over the tokens of
    a place, weighted by their ``size`` ``[B, T]`` (0 for padding), and ``total`` ``[B, K]`` the sum of the
    sizes; both are 0 in places that are not valid.

``LiveRows(live)``
    Where ``live`` bool ``[B, T]`` holds: positions int64 ``[n]`` in the flattened ``[B * T]``, rising; n may
    be 0. What is computed of the rows between a ``GatherRows`` and the ``ScatterRows`` of the same ``rows``
    is computed row by row, so that it does not matter which others are live.

``GatherRows(x, rows)``
    ``x`` ``[B, T, C]`` at ``rows``: ``[n, C]``.

``ScatterRows(rest, rows, y)``
    ``rest`` ``[B, T, C]`` with ``y`` ``[n, C]`` at ``rows``.

How early exits use ExitSelect (E exits, numbered 0 to E-1 in execution order):

    adapass_exit_thresholds                        graph input float32 [E] with an initializer of that name
    h_k                                            what exit k returns: type and shape of the model's output
    c_k                                            float32 [B], larger is more certain
    t_k    = Gather(adapass_exit_thresholds, k)    scalar
    stop_k = GreaterOrEqual(c_k, t_k)              bool [B]
    s_k    = ExitSelect(stop_k, h_k, s_k+1)        s_0 is the graph output, s_E the original output
    i_k    = ExitSelect(stop_k, k, i_k+1)          i_0 is the graph output adapass_exit, int64 [B]; k and
                                                   i_E = E are scalar initializers

A threshold of ``+inf`` never stops a sample: with all of them infinite the model computes what it did
before. All ``ExitSelect`` nodes of one ``stop_k`` form one exit. State that a rule carries from exit
to exit (the patience counter, the cumulative exit probability) is a value with a batch axis like any
other. ``h_k`` and ``c_k`` depend on nothing that is computed after the cut of exit k.

``model.metadata_props["adapass.exits"]`` is JSON: ``cuts`` (names of the cut values), ``rule``,
``thresholds`` (the fitted defaults, ``null`` for infinite), ``task``, and ``heads`` (one record an exit).
``read_exits`` finds the exits from the graph alone and does not need it.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from adapass.errors import ModelError, UsageError
from adapass.op_bodies import BODIES

DOMAIN = "adapass"
VERSION = 1
EXIT_SELECT = "ExitSelect"
LOG_ROUND = "LogRound"
SELECT_TOKENS = "SelectTokens"
GATHER_TOKENS = "GatherTokens"
SCATTER_TOKENS = "ScatterTokens"
MERGE_TOKENS = "MergeTokens"
LIVE_ROWS = "LiveRows"
GATHER_ROWS = "GatherRows"
SCATTER_ROWS = "ScatterRows"
EXPECTED_SHARE = "adapass.expected_share"
"""Metadata of a ``SelectTokens`` whose count depends on the content: share of the tokens to reckon with."""
TOKEN_OPERATORS = frozenset({SELECT_TOKENS, GATHER_TOKENS, SCATTER_TOKENS, MERGE_TOKENS})
"""What a sample's row becomes depends on its own row of every input, whatever their bodies number."""
EXIT_THRESHOLDS = "adapass_exit_thresholds"
EXIT_INDEX = "adapass_exit"
EXITS_METADATA = "adapass.exits"

MINIMUM_OPSET = 13
"""Operator set the bodies need from the model's default domain (``Unsqueeze`` and others changed there)."""
MINIMUM_IR_VERSION = 8
"""First IR version with model-local functions."""


@dataclass(frozen=True, slots=True)
class Exit:
    """One early exit, as found in a graph."""

    index: int
    """Position in the order of execution, which is the number ``adapass_exit`` reports."""
    stop: ir.Value
    """bool ``[B]``."""
    selects: tuple[ir.Node, ...]
    """The ``ExitSelect`` nodes of this exit, in the order of the graph's outputs."""

    @property
    def confidence(self) -> ir.Value:
        """float32 ``[B]``: what is compared with the threshold."""
        comparison = self.stop.producer()
        value = comparison.inputs[0] if comparison is not None and comparison.inputs else None
        if value is None:
            raise ModelError(f"exit {self.index}: '{self.stop.name}' is not computed by a comparison")
        return value


def add_function(model: ir.Model, name: str) -> None:
    """Define the adaptive operator ``name`` in ``model`` and import the domain; a no-op when it is there.

    Raises:
        UsageError: no such operator.
        ModelError: the model's operator set is too old for the body.

    """
    if name not in BODIES:
        raise UsageError(f"unknown adaptive operator '{name}'; known: {', '.join(sorted(BODIES))}")
    opset = model.opset_imports.get("", 0)
    if opset < MINIMUM_OPSET:
        raise ModelError(
            f"adaptive operators need operator set {MINIMUM_OPSET} or newer, the model imports {opset}; "
            "convert it first (onnx.version_converter.convert_version)"
        )
    model.graph.opset_imports[DOMAIN] = VERSION
    model.ir_version = max(model.ir_version, MINIMUM_IR_VERSION)
    if (DOMAIN, name, "") not in model.functions:
        model.functions[(DOMAIN, name, "")] = _function(name, opset)


def is_adaptive(node: ir.Node) -> bool:
    """Whether ``node`` is one of the operators of this module."""
    return node.domain == DOMAIN and node.op_type in BODIES


def is_token_operator(node: ir.Node | None) -> bool:
    return node is not None and node.domain == DOMAIN and node.op_type in TOKEN_OPERATORS


def is_bookkeeping(value: ir.Value) -> bool:
    """Whether a value only says which tokens are left, or how many each of them stands for.

    It is small, and goes with the tokens wherever they go.
    """
    node = value.producer()
    if node is None or not is_token_operator(node):
        return False
    return node.op_type == SELECT_TOKENS or (node.op_type == MERGE_TOKENS and value is node.outputs[1])


def is_exit_select(node: ir.Node | None) -> bool:
    return node is not None and node.domain == DOMAIN and node.op_type == EXIT_SELECT


def read_exits(model: ir.Model) -> tuple[Exit, ...]:
    """The early exits of ``model`` in execution order; empty for a model without.

    Raises:
        ModelError: the outputs do not agree on the order of the exits, or the form is broken.

    """
    chains = [chain for value in model.graph.outputs if (chain := _chain(value))]
    if not chains:
        return ()
    stops = [_stop(node) for node in chains[0]]
    for chain in chains[1:]:
        if [_stop(node) for node in chain] != stops:
            names = f"'{chains[0][0].outputs[0].name}' and '{chain[0].outputs[0].name}'"
            raise ModelError(f"outputs {names} select from different exits, or in a different order")
    return tuple(
        Exit(index, stop, tuple(chain[index] for chain in chains)) for index, stop in enumerate(stops)
    )


def _chain(value: ir.Value) -> list[ir.Node]:
    chain: list[ir.Node] = []
    node = value.producer()
    while node is not None and is_exit_select(node):
        chain.append(node)
        rest = node.inputs[2]
        node = rest.producer() if rest is not None else None
    return chain


def _stop(node: ir.Node) -> ir.Value:
    stop = node.inputs[0] if node.inputs else None
    if stop is None:
        raise ModelError(f"ExitSelect '{node.name}' has no stop input")
    return stop


def _function(name: str, opset: int) -> ir.Function:
    text = '<ir_version: 8, opset_import: ["" : {opset}, "adapass" : 1]>\nholder () => () {{ }}\n'
    model = ir.from_onnx_text((text + BODIES[name]).format(opset=opset))
    return model.functions[(DOMAIN, name, "")]
