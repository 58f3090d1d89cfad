"""Few codes for the probabilities of attentions: logarithms with a searched base, base 2, and equal steps.

    python -m benchmarks.log_quantizer [--fit 32] [--held 128]

All on minilm-sst2, at equal bits. Scales (of all three) and bases are searched on samples of the fit part;
what they do is measured on samples of the evaluation part, executed in ONNX Runtime:

    layer by layer    one attention rounded, the rest in float: root mean square of the change over that
                      of the value, of the probabilities, of what the attention returns, and of the logits
    together          all attentions rounded: distortion of the last attention's context and of the logits,
                      divergence of the classes, share of answers that stay, accuracy
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Choice, Samples
from adapass.data import Dataset
from adapass.execution import Session
from adapass.facts import FactCache
from adapass.graph.text import clone
from adapass.machine import fingerprint
from adapass.moments.batches import spread
from adapass.ops import LOG_ROUND
from adapass.passes.quantize.logarithmic.quantize_log import QuantizeLog
from adapass.search.damage import damage_of, distortion
from benchmarks.harness import write_results
from benchmarks.trained import Doubles, Trained, accuracy

NAME, MODEL = "log_quantizer", "minilm-sst2"
SEARCHED, TWO, UNIFORM = "log, searched base", "log, base 2", "uniform"
METHODS: Mapping[str, tuple[str, QuantizeLog]] = {
    SEARCHED: ("log", QuantizeLog()),
    TWO: ("log", QuantizeLog(base=2.0)),
    UNIFORM: ("uniform", QuantizeLog()),
}
BITS = (4, 3)


@dataclass(frozen=True, slots=True)
class Layer:
    """One attention rounded alone."""

    method: str
    bits: int
    site: str
    base: float | None
    probabilities: float
    """Distortions: root mean square of the change over that of the value."""
    context: float
    logits: float


@dataclass(frozen=True, slots=True)
class Whole:
    """All attentions rounded."""

    method: str
    bits: int
    context: float
    """Of the last attention."""
    logits: float
    divergence: float
    agreement: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Attention:
    """Names of the values of one attention."""

    probabilities: str
    context: str


def attentions(model: ir.Model) -> tuple[Attention, ...]:
    """In execution order."""
    found: list[Attention] = []
    for node in model.graph:
        if node.op_type == "Softmax":
            reader = next(iter(node.outputs[0].uses())).node
            found.append(Attention(node.outputs[0].name or "", reader.outputs[0].name or ""))
    return tuple(found)


def rounded(trained: Trained, method: str, bits: int, sites: Sequence[str], fit: Samples) -> ir.Model:
    """The clean model with these attentions rounded."""
    kind, step = METHODS[method]
    step = replace(step, bits=(bits,), calibration_samples=len(fit))
    model = clone(trained.clean)
    choices = [Choice(step.name, site, f"{kind}-{bits}") for site in sites]
    step.apply(model, FactCache(model), choices)
    step.fit(model, fit)
    step.check(trained.clean, model, [fit.feeds(0)])
    return model


def read_probabilities(model: ir.Model, attention: Attention) -> str:
    """What weighs the values: the rounded probabilities where they are rounded."""
    product = next(node for node in model.graph if node.outputs[0].name == attention.context)
    value = product.inputs[0]
    return value.name or "" if value is not None else ""


def values(model: ir.Model, names: Sequence[str], samples: Dataset) -> list[list[Doubles]]:
    """Each value on each sample."""
    session = Session(model, outputs=list(names))
    runs = [session.run(samples.feeds(index)) for index in range(len(samples))]
    return [[run[name].astype(np.float64) for run in runs] for name in names]


def moved(exact: Sequence[Doubles], found: Sequence[Doubles]) -> float:
    """Distortion over all samples, whatever their lengths."""
    flat = [np.concatenate([array.ravel() for array in each]) for each in (exact, found)]
    return distortion(flat[0], flat[1])


def by_layer(trained: Trained, method: str, bits: int, fit: Samples) -> list[Layer]:
    found: list[Layer] = []
    output = trained.clean.graph.outputs[0].name or ""
    for attention in attentions(trained.clean):
        model = rounded(trained, method, bits, [attention.probabilities], fit)
        names = [read_probabilities(model, attention), attention.context, output]
        exact = values(trained.clean, [attention.probabilities, attention.context, output], trained.held)
        changes = [moved(a, b) for a, b in zip(exact, values(model, names, trained.held), strict=True)]
        found.append(Layer(method, bits, attention.probabilities, base_of(model), *changes))
    return found


def base_of(model: ir.Model) -> float | None:
    """Of the first logarithm."""
    for node in model.graph:
        value = node.inputs[2] if node.op_type == LOG_ROUND else None
        if value is not None and value.const_value is not None:
            return float(value.const_value.numpy().astype(np.float64))
    return None


def together(trained: Trained, method: str, bits: int, fit: Samples) -> Whole:
    places = attentions(trained.clean)
    model = rounded(trained, method, bits, [place.probabilities for place in places], fit)
    names = [places[-1].context, trained.clean.graph.outputs[0].name or ""]
    (context, logits), (new_context, new_logits) = (
        values(each, names, trained.held) for each in (trained.clean, model)
    )
    a, b = np.concatenate(logits), np.concatenate(new_logits)
    damage = damage_of(a, b)
    return Whole(
        method,
        bits,
        moved(context, new_context),
        damage.distortion,
        damage.divergence or 0.0,
        np.count_nonzero(a.argmax(axis=1) == b.argmax(axis=1)) / len(a),
        accuracy(b, trained.held),
    )


def table(layers: Sequence[Layer], wholes: Sequence[Whole], heading: str) -> str:
    lines = [heading, "", "one attention rounded, everything else in float: distortion", ""]
    lines.append(
        f"{'bits':4} {'layer':5} {'method':20} {'base':>6} {'probabilities':>14} {'context':>9} {'logits':>9}"
    )
    order = {site: index for index, site in enumerate(dict.fromkeys(layer.site for layer in layers))}
    for layer in sorted(layers, key=lambda each: (-each.bits, order[each.site])):
        base = f"{layer.base:.3f}" if layer.base is not None else "-"
        lines.append(
            f"{layer.bits:4} {order[layer.site]:5} {layer.method:20} {base:>6} {layer.probabilities:14.4f} "
            f"{layer.context:9.4f} {layer.logits:9.4f}"
        )
    lines += ["", "all attentions rounded", ""]
    lines.append(
        f"{'bits':4} {'method':20} {'last context':>12} {'logits':>8} {'divergence':>11} {'agreement':>10} "
        f"{'accuracy':>9}"
    )
    lines += [
        f"{whole.bits:4} {whole.method:20} {whole.context:12.4f} {whole.logits:8.4f} "
        f"{whole.divergence:11.5f} {whole.agreement:10.4f} {whole.accuracy:9.4f}"
        for whole in wholes
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fit", type=int, default=32, help="samples that scales and bases are searched on")
    parser.add_argument("--held", type=int, default=128, help="samples that the outcome is measured on")
    asked = parser.parse_args(arguments)
    trained = Trained.load(MODEL, asked.held)
    fit = trained.fit.subset(spread(len(trained.fit), asked.fit))
    layers = [layer for bits in BITS for method in METHODS for layer in by_layer(trained, method, bits, fit)]
    wholes = [together(trained, method, bits, fit) for bits in BITS for method in METHODS]
    machine = fingerprint(1)
    heading = (
        f"{NAME}: {MODEL}, searched on {len(fit)} samples, measured on {len(trained.held)} others\n"
        f"versions  {', '.join(f'{name} {version}' for name, version in machine.versions.items())}"
    )
    results: dict[str, object] = {
        "model": MODEL,
        "fit_samples": len(fit),
        "held_samples": len(trained.held),
        "versions": dict(machine.versions),
        "layers": [asdict(layer) for layer in layers],
        "whole": [asdict(whole) for whole in wholes],
    }
    text = table(layers, wholes, heading)
    write_results(NAME, results, text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
