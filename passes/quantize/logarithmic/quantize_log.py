"""Round probabilities of attentions, and what comes out of Gelus, to a few logarithmic codes.

    y = MatMul(p, v)                       ->   y = MatMul(LogRound(p, scale, base, last), v)
    y = Add(MatMul(Gelu(x), w), b)         ->   y = Add(MatMul(LogRound(Add(Gelu(x), 0.17), ...), w),
                                                        b - 0.17 * sum of the rows of w)

``adapass.LogRound`` is a function with a body of standard operators: what a code of a few bits says,
``scale * base ^ -code``. The base is searched for each tensor (Wu et al. 2024, AdaLog, arXiv:2407.12951).
Probabilities range over orders of magnitude, so equal steps put most of them into one code; powers keep their
ratios. A Gelu is shifted above 0, and the bias behind it takes the shift back.

No runtime on a CPU computes with such codes: a model becomes slower by the operators inserted, and stores
what it stored before. The family is for studies, and for generators of hardware with a logarithmic unit: it
is in no default, and what it saves is measured like anything else, and negative.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array, BudgetedPass, Choice, Feeds, Proposal, Refusal, Samples
from adapass.errors import DataError, UsageError, VerificationError
from adapass.execution import Session
from adapass.executor.threads import one_thread
from adapass.facts import FactCache
from adapass.graph.edit import constant_array, insert_after, new_initializer, replace_uses
from adapass.graph.text import clone
from adapass.ops import DOMAIN, LOG_ROUND, add_function
from adapass.passes.quantize.fitting import spread
from adapass.passes.quantize.logarithmic.codes import Reads, search_log, search_uniform
from adapass.passes.quantize.logarithmic.sites import LogSite, bias_index, find_sites
from adapass.rewrite import Exactness, PassResult
from adapass.verification import ROUNDING_TOLERANCE, compare

MARK = "adapass.quantize_log"
"""Metadata of the node that rounds: its setting. Removed by ``fit``."""
ROUNDS = "adapass.quantize_log.rounds"
"""Metadata of the same node, which stays: ``check`` finds by it what rounds."""
LOG, UNIFORM = "log", "uniform"
ROWS_EACH, WIDE_ROWS_EACH = 16, 2
"""Rows of each sample that candidates are judged on: of each head of an attention, and behind a Gelu."""


@dataclass(frozen=True, kw_only=True)
class QuantizeLog(BudgetedPass):
    """Codes of a few bits with a searched base for post-softmax and post-Gelu activations.

    Settings are ``log-4``, ``uniform-4`` (equal steps, to compare with) and so on. Never faster on a CPU, and
    never smaller: priced at what the inserted operators cost.
    """

    name: ClassVar[str] = "quantize-log"
    max_distortion: ClassVar[float] = 0.5
    source: ClassVar[str] = "Wu et al. 2024, AdaLog, arXiv:2407.12951"

    bits: tuple[int, ...] = (4, 3)
    """Sizes of codes to offer, the preferred one first."""
    kinds: tuple[str, ...] = (LOG, UNIFORM)
    """log, uniform, or both, the preferred one first."""
    base: float | None = None
    """The base of all logarithms; none: searched for each tensor."""
    calibration_samples: int = 128
    """How many samples, evenly spaced, scales and bases are searched on."""
    skip_sites: tuple[str, ...] = ()
    """Values that stay as they are."""

    def __post_init__(self) -> None:
        if not self.bits or not all(2 <= each <= 8 for each in self.bits):
            raise ValueError(f"bits must be sizes from 2 to 8, found {list(self.bits)}")
        if not self.kinds or not set(self.kinds) <= {LOG, UNIFORM}:
            raise ValueError(f"kinds must be of log and uniform, found {list(self.kinds)}")
        if self.base is not None and not 1.0 < self.base <= 16.0:
            raise ValueError(f"base must lie above 1 and not above 16, found {self.base}")
        if self.calibration_samples < 1:
            raise ValueError(f"calibration_samples must be at least 1, found {self.calibration_samples}")

    def propose(self, model: ir.Model, facts: FactCache) -> Proposal:
        del facts
        sites, refusals = self._find(model)
        choices = [
            Choice(
                family=self.name,
                site=site.name,
                setting=setting,
                detail=MappingProxyType({"shift": site.shift, "faster_on": "nothing adapass generates for"}),
            )
            for site in sites
            for setting in self._settings
        ]
        return Proposal(tuple(choices), refusals)

    def apply(self, model: ir.Model, facts: FactCache, choices: Sequence[Choice]) -> PassResult:
        """Round at the chosen sites; scales and bases are placeholders until ``fit``.

        Raises:
            UsageError: a choice names an unknown site or setting, or a site twice.

        """
        sites, refusals = self._find(model)
        known = {site.name: site for site in sites}
        wanted: dict[str, str] = {}
        for choice in choices:
            if choice.site not in known or choice.setting not in self._settings:
                raise UsageError(f"this model has no choice {choice.key}; propose() lists sites and settings")
            if choice.site in wanted:
                raise UsageError(
                    f"{self.name}: site '{choice.site}' is chosen twice; choose one setting a site"
                )
            wanted[choice.site] = choice.setting
        chosen = [site for site in sites if site.name in wanted]
        for site in chosen:
            _insert(model, site, wanted[site.name])
        if chosen:
            facts.keep_only(())
        reasons = Counter(refusal.reason for refusal in refusals)
        return PassResult(len(chosen), MappingProxyType(dict(reasons)), tuple(site.name for site in chosen))

    def fit(self, model: ir.Model, data: Samples | None) -> None:
        """Search scales and bases.

        Raises:
            DataError: a site is open and there is no data.

        """
        marked = [node for node in model.graph if MARK in node.metadata_props]
        if not marked:
            return
        if data is None or len(data) == 0:
            raise DataError(f"{self.name}: {len(marked)} scales are searched on data and none was given")
        with one_thread():
            self._search(marked, _watch(model, marked, data, self.calibration_samples))

    def _search(self, marked: Sequence[ir.Node], found: Mapping[str, Reads]) -> None:
        for node in marked:
            kind, bits = _parts(node.metadata_props.pop(MARK))
            seen = found[_read(node)]
            if kind == LOG:
                codes = search_log(seen, bits, self.base)
                _store(node, 1, codes.scale)
                _store(node, 2, codes.base)
            else:
                scale = search_uniform(seen, bits).scale
                _store(node, 1, scale)
                _store(_last_of_uniform(node), 1, scale)

    def check(self, before: ir.Model, after: ir.Model, feeds: Sequence[Feeds]) -> None:
        """Count what is left of every rounded value; without rounding it must be the model before.

        Raises:
            VerificationError: more different numbers than there are codes, or something else changed as well.

        """
        worst = compare(before, _without_rounding(after, ROUNDS), feeds=feeds).worst()
        if not worst.within(Exactness.ROUNDING, ROUNDING_TOLERANCE["float32"]):
            raise VerificationError(f"quantize-log: besides what is rounded, something changed: {worst}")
        rounded = dict(_rounded_values(after))
        session = Session(after, outputs=list(rounded)) if rounded else None
        for case in feeds:
            for name, array in (session.run(case) if session is not None else {}).items():
                count = len(np.unique(array))
                if count > 2 ** rounded[name]:
                    raise VerificationError(
                        f"quantize-log: '{name}' takes {count} values, {rounded[name]} bits have codes for "
                        f"{2 ** rounded[name]}"
                    )

    @property
    def _settings(self) -> tuple[str, ...]:
        return tuple(f"{kind}-{bits}" for bits in self.bits for kind in self.kinds)

    def _find(self, model: ir.Model) -> tuple[tuple[LogSite, ...], tuple[Refusal, ...]]:
        sites, refusals = find_sites(model)
        skipped = tuple(Refusal(s.name, "listed in skip_sites") for s in sites if s.name in self.skip_sites)
        return tuple(s for s in sites if s.name not in self.skip_sites), (*refusals, *skipped)


def _parts(setting: str) -> tuple[str, int]:
    kind, _, bits = setting.partition("-")
    return kind, int(bits)


def _insert(model: ir.Model, site: LogSite, setting: str) -> None:
    graph, name = model.graph, site.name
    readers = list(site.value.uses())
    source, nodes = site.value, list[ir.Node]()
    if site.bias is not None:
        shift = new_initializer(graph, f"{name}_shift", np.array(site.shift, np.float32))
        nodes.append(ir.node("Add", [source, shift]))
        source = nodes[0].outputs[0]
        _take_back(graph, site)
    nodes += _rounding(model, source, name, setting)
    producer = site.value.producer()
    assert producer is not None  # a softmax or a Gelu
    insert_after(producer, nodes)
    for use in readers:
        use.node.replace_input_with(use.idx, nodes[-1].outputs[0])


def _rounding(model: ir.Model, source: ir.Value, name: str, setting: str) -> list[ir.Node]:
    """The nodes that round; the first is marked, and has the scale as its second input."""
    kind, bits = _parts(setting)

    def scalar(part: str, number: float) -> ir.Value:
        return new_initializer(model.graph, f"{name}_{part}", np.array(number, np.float32))

    scale = scalar("scale", 1.0)
    if kind == LOG:
        add_function(model, LOG_ROUND)
        inputs = [source, scale, scalar("base", 2.0), scalar("last", float(2**bits - 2))]
        return [ir.node(LOG_ROUND, inputs, domain=DOMAIN, metadata_props={MARK: setting, ROUNDS: setting})]
    divided = ir.node("Div", [source, scale], metadata_props={MARK: setting, ROUNDS: setting})
    near = ir.node("Round", divided.outputs)
    last = scalar("last", float(2**bits - 1))
    clipped = ir.node("Clip", [near.outputs[0], scalar("zero", 0.0), last])
    return [divided, near, clipped, ir.node("Mul", [clipped.outputs[0], scalar("step", 1.0)])]


def _take_back(graph: ir.Graph, site: LogSite) -> None:
    """Subtract what the shift adds to the product from its bias."""
    assert site.bias is not None  # only sites with a shift
    index, weight = bias_index(site), constant_array(site.weight)
    bias = constant_array(site.bias.inputs[index])
    assert weight is not None
    assert bias is not None
    inputs = 1 if site.bias.op_type == "Gemm" and site.bias.attributes.get_int("transB", 0) != 0 else 0
    lifted = site.shift * weight.astype(np.float64).sum(axis=inputs)
    array = (bias.astype(np.float64) - lifted.reshape(bias.shape)).astype(bias.dtype)
    site.bias.replace_input_with(index, new_initializer(graph, f"{site.name}_bias_shifted", array))


def _watch(model: ir.Model, marked: Sequence[ir.Node], data: Samples, count: int) -> Mapping[str, Reads]:
    """What the float model multiplies the values by: nothing is rounded at places that are still open."""
    readers = {_read(node): _reader_of(node) for node in marked}
    weights = {name: _weight_of(reader) for name, reader in readers.items()}
    others = {name: reader.inputs[1] for name, reader in readers.items()}
    computed = {name: other.name or "" for name, other in others.items() if other is not None}
    found = {name: Reads(ROWS_EACH if weights[name] is None else WIDE_ROWS_EACH) for name in readers}
    shown = [*found, *(computed[name] for name in found if weights[name] is None)]
    session = Session(_without_rounding(model), outputs=list(dict.fromkeys(shown)))
    for index in spread(len(data), count):
        seen = session.run(data.feeds(index))
        for name, reads in found.items():
            weight = weights[name]
            reads.add(seen[name], seen[computed[name]] if weight is None else weight)
    return found


def _reader_of(node: ir.Node) -> ir.Node:
    """The first product that reads what ``node`` rounds."""
    end = node if node.op_type == LOG_ROUND else _last_of_uniform(node)
    return min((use.node for use in end.outputs[0].uses()), key=lambda each: each.outputs[0].name or "")


def _weight_of(reader: ir.Node) -> Array | None:
    """[K, N]; ``None`` where a product multiplies by what the model computes."""
    weight = constant_array(reader.inputs[1])
    is_transposed = reader.attributes.get_int("transB", 0) != 0
    return weight.T if weight is not None and is_transposed else weight


def _without_rounding(model: ir.Model, mark: str = MARK) -> ir.Model:
    copy = clone(model)
    for node in [node for node in copy.graph if mark in node.metadata_props]:
        source = node.inputs[0]
        assert source is not None  # laid out with all inputs
        end = node if node.op_type == LOG_ROUND else _last_of_uniform(node)
        replace_uses(end.outputs[0], source)
    return copy


def _read(node: ir.Node) -> str:
    value = node.inputs[0]
    assert value is not None  # laid out with all inputs
    return value.name or ""


def _store(node: ir.Node, index: int, number: float) -> None:
    value = node.inputs[index]
    assert value is not None  # laid out with all inputs
    value.const_value = ir.tensor(np.array(number, np.float32), name=value.name)


def _last_of_uniform(node: ir.Node) -> ir.Node:
    """From the division to the multiplication: Div, Round, Clip, Mul."""
    for operator in ("Round", "Clip", "Mul"):
        readers = [use.node for use in node.outputs[0].uses()]
        if len(readers) != 1 or readers[0].op_type != operator:
            raise VerificationError(f"quantize-log: '{node.outputs[0].name}' is not read by one {operator}")
        node = readers[0]
    return node


def _rounded_values(model: ir.Model) -> list[tuple[str, int]]:
    """Results of ``LogRound`` with the bits of their codes."""
    found: list[tuple[str, int]] = []
    for node in model.graph:
        if node.domain == DOMAIN and node.op_type == LOG_ROUND:
            last = constant_array(node.inputs[3])
            assert last is not None  # laid out as an initializer
            found.append((node.outputs[0].name or "", int(np.log2(float(last.astype(np.float64)) + 2.0))))
    return found
