"""`adapass analyze --sensitivity` and `--compare`: which layer 8 bits damage, and why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from adapass.cli.output import print_json, print_line, print_note, print_table
from adapass.errors import UsageError

if TYPE_CHECKING:
    import onnx_ir as ir

    from adapass.data import Dataset
    from adapass.passes.quantize.diagnosis.compare import Walked
    from adapass.passes.quantize.diagnosis.diagnose import Diagnosis, Layer
    from adapass.passes.quantize.quantize_8bit import Quantize8bit

GENERATED_SAMPLES = 32
SHOWN = 20
"""Rows of the table of a comparison."""


def show_sensitivity(
    path: Path, *, data: str | None, quantizer: str, seed: int, allow_code: bool, as_json: bool
) -> None:
    """Print the damage of 8 bits at each layer alone, worst first."""
    from adapass.defaults import CLEAN
    from adapass.graph.load import load_model
    from adapass.passes.quantize.diagnosis.diagnose import diagnose
    from adapass.pipeline import Pipeline
    from adapass.text_form import parse_pass

    options = _options(quantizer)
    model = load_model(path)
    samples = _samples(model, data, seed=seed, allow_code=allow_code)
    clean = Pipeline([parse_pass(name) for name in CLEAN]).run(model, data=samples).model
    found = diagnose(clean, samples, options=options, setting=options.settings[0])
    if as_json:
        print_json({"inputs": samples.source, "quantizer": quantizer, **_diagnosis_json(found)})
        return
    _print_diagnosis(found, samples)


def show_comparison(
    path: Path, quantized: Path, *, data: str | None, seed: int, allow_code: bool, as_json: bool
) -> None:
    """Print where a quantized model leaves the float one."""
    from adapass.graph.load import load_model
    from adapass.passes.quantize.diagnosis.compare import walk

    model, other = load_model(path), load_model(quantized)
    samples = _samples(model, data, seed=seed, allow_code=allow_code)
    walked = walk(model, other, samples)
    if as_json:
        print_json({"inputs": samples.source, **_walked_json(walked)})
        return
    _print_walked(walked, samples)


def _samples(model: ir.Model, data: str | None, *, seed: int, allow_code: bool) -> Dataset:
    from adapass.data import load_data
    from adapass.data.generated import generated_data

    if data is not None:
        return load_data(data, model, allow_code=allow_code)
    return generated_data(model, count=GENERATED_SAMPLES, seed=seed)


def _options(quantizer: str) -> Quantize8bit:
    from adapass.passes.quantize.quantize_8bit import Quantize8bit
    from adapass.text_form import parse_pass

    step = parse_pass(quantizer)
    if not isinstance(step, Quantize8bit):
        raise UsageError(f"--quantizer is '{quantizer}', expected quantize-8bit with any options")
    return step


def _print_diagnosis(found: Diagnosis, samples: Dataset) -> None:
    rows = [
        (
            layer.site,
            f"{layer.operator} {'x'.join(map(str, layer.weight_shape))}",
            f"{layer.damage.distortion:.4f}",
            "-" if layer.damage.divergence is None else f"{layer.damage.divergence:.2e}",
            f"{100 * layer.share:.1f} %",
        )
        for layer in found.layers
    ]
    columns = ("layer", "operator", "output distortion alone", "divergence", "share of the sum")
    print_table(columns, rows, title=f"8 bits in one layer at a time; data: {samples.source}")
    for layer in found.layers:
        _print_reasons(layer)
    for site, reason in found.refused.items():
        print_line(f"{site}: stays in float, {reason}")


def _print_reasons(layer: Layer) -> None:
    if not layer.reasons:
        return
    print_line(f"{layer.site}:")
    for reason in layer.reasons:
        print_line(f"    why    {reason}")
    for remedy in layer.remedies:
        print_line(f"    to do  {remedy}")


def _diagnosis_json(found: Diagnosis) -> Mapping[str, object]:
    layers = [
        {
            "layer": layer.site,
            "operator": layer.operator,
            "weight_shape": list(layer.weight_shape),
            "distortion": layer.damage.distortion,
            "divergence": layer.damage.divergence,
            "share": layer.share,
            "reasons": list(layer.reasons),
            "remedies": list(layer.remedies),
            "measured": layer.measured,
        }
        for layer in found.layers
    ]
    return {"layers": layers, "refused": found.refused}


def _print_walked(walked: Walked, samples: Dataset) -> None:
    jump = walked.first_jump
    worst = sorted(walked.steps, key=lambda step: -step.growth)[:SHOWN]
    shown = [step for step in walked.steps if step in worst]
    rows = [
        (step.value, step.operator, f"{step.error_before:.4f}", f"{step.error:.4f}", f"{step.growth:.1f}x")
        for step in shown
    ]
    title = f"values whose error grows most, in order; data: {samples.source}"
    print_table(("value", "made by", "error before", "error", "grows"), rows, title=title)
    if jump is None:
        print_line("no layer's error jumps: what there is adds up over the layers")
    else:
        print_line(
            f"the first jump is at '{jump.value}' ({jump.operator}): its inputs are off by "
            f"{jump.error_before:.2%}, its result by {jump.error:.2%}"
        )
    if walked.unmatched:
        print_note(f"{len(walked.unmatched)} of the float model's values are not in the other one by name")


def _walked_json(walked: Walked) -> Mapping[str, object]:
    jump = walked.first_jump
    return {
        "first_jump": None if jump is None else jump.value,
        "values": [
            {
                "value": step.value,
                "operator": step.operator,
                "error_before": step.error_before,
                "error": step.error,
                "jumps": step.jumps,
            }
            for step in walked.steps
        ],
        "unmatched": list(walked.unmatched),
    }
