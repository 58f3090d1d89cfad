"""The damage of 8 bits at each layer alone, worst first, each with its measured reasons.

Damages are those of ``sensitivity``: one layer is rounded, all others stay in float. Reasons come from the
traits of what is rounded there: the weight, the activation that is read and, of a convolution, its result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import onnx_ir as ir

from adapass.budgeted import Damage, Samples
from adapass.errors import DataError, UsageError
from adapass.facts import FactCache
from adapass.graph.constants import constant_tensor
from adapass.passes.quantize.chains import settled
from adapass.passes.quantize.diagnosis.reasons import (
    Reason,
    Remedy,
    activation_reasons,
    nothing_stands_out,
    weight_reasons,
)
from adapass.passes.quantize.diagnosis.traits import (
    ActivationTraits,
    activation_traits,
    weight_channels,
)
from adapass.passes.quantize.quantize_8bit import Quantize8bit
from adapass.passes.quantize.sensitivity import sensitivity
from adapass.passes.quantize.sites import PRODUCTS, Setting, Site

_ELEMENTWISE = frozenset(
    {"Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "Gelu", "Identity", "BatchNormalization", "MaxPool"}
)
HARMLESS = 0.01
"""A distortion below this needs no explanation beyond the numbers."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer in 8 bits, everything else in float."""

    site: str
    """Name of its result: what ``skip-sites`` takes."""
    operator: str
    weight_shape: tuple[int, ...]
    damage: Damage
    share: float
    """Of the damages of all layers; additive (``Damage.additive``)."""
    reasons: tuple[str, ...]
    """In plain words, the worst operand first."""
    remedies: tuple[str, ...]
    measured: Mapping[str, float]
    """Channel ratios and errors of the weight, the input and the result."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All layers, the worst first, and those that stay in float anyway, with the reason."""

    layers: tuple[Layer, ...]
    refused: Mapping[str, str]


def diagnose(
    model: ir.Model,
    samples: Samples,
    *,
    options: Quantize8bit | None = None,
    setting: Setting = Setting.STATIC,
    count: int = 64,
) -> Diagnosis:
    """Measure every layer of ``model`` on ``count`` evenly spaced samples, as ``options`` would round it.

    Unless they say ``migrate=never``, outliers are moved into weights first, where that clearly helps.

    Raises:
        UsageError: the model has no layer that can be quantized.
        DataError: there are no samples, or they do not fit.

    """
    options = options or Quantize8bit()
    if len(samples) == 0:
        raise DataError("the data has no samples to measure layers on; give at least one")
    model = options.rescaled(model, samples, setting)
    proposal = options.propose(model, FactCache(model))
    refused = MappingProxyType({refusal.site: refusal.reason for refusal in proposal.refusals})
    sites = [site for site in options.sites(model) if setting in site.settings]
    if not sites:
        why = "; ".join(sorted(set(refused.values()))) or "it has no product with a constant weight"
        raise UsageError(f"no layer of this model can be computed in 8 bits ({setting}): {why}")
    measured = sensitivity(model, FactCache(model), samples, options=options, setting=setting, count=count)
    damages = {name: Damage(found.distortion, found.divergence) for name, found in measured.items()}
    classes = any(damage.divergence is not None for damage in damages.values())
    total = sum(damage.additive(classes=classes) for damage in damages.values())
    traits = activation_traits(model, _watched(sites), samples, options)
    layers = [
        _layer(site, damages[site.name], total, traits, options, classes=classes, static=setting)
        for site in sites
    ]
    order = {site.name: place for place, site in enumerate(sites)}
    layers.sort(key=lambda layer: (-layer.damage.additive(classes=classes), order[layer.site]))
    return Diagnosis(tuple(layers), refused)


def channel_axis(site: Site) -> int:
    """Of what a site reads and makes."""
    return 1 if site.node.op_type == "Conv" else -1


def _watched(sites: Sequence[Site]) -> dict[str, int]:
    """Values whose traits are wanted, with their channel axes; the first reader decides."""
    axes: dict[str, int] = {}
    for site in sites:
        axes.setdefault(_input(site), channel_axis(site))
        if site.node.op_type == "Conv":
            axes.setdefault(_result(site), channel_axis(site))
    return axes


def _input(site: Site) -> str:
    data = site.node.inputs[0]
    return (data.name or "") if data is not None else ""


def _result(site: Site) -> str:
    return settled(site.node.outputs[0]).name or ""


def _maker(site: Site) -> str | None:
    """The product whose channels the input has, where only operators on single numbers lie between."""
    value = site.node.inputs[0]
    while value is not None and (node := value.producer()) is not None:
        if node.op_type in PRODUCTS:
            return node.outputs[0].name
        if node.op_type not in _ELEMENTWISE:
            return None
        value = next((read for read in node.inputs if constant_tensor(read) is None), None)
    return None


def _layer(
    site: Site,
    damage: Damage,
    total: float,
    traits: Mapping[str, ActivationTraits],
    options: Quantize8bit,
    *,
    classes: bool,
    static: Setting,
) -> Layer:
    weight = weight_channels(site, options.rounded(site).dequantized())
    maker = _maker(site)
    operands = {"input" if maker is None else f"input (of '{maker}')": traits[_input(site)]}
    if site.node.op_type == "Conv" and static is Setting.STATIC:
        operands["result"] = traits[_result(site)]
    reasons = weight_reasons(weight, per_channel=options.per_channel)
    for operand, found in operands.items():
        reasons += activation_reasons(operand, found)
    reasons.sort(key=lambda reason: -reason.error)
    channels = {"weight": weight, **{name.split()[0]: found.channels for name, found in operands.items()}}
    return Layer(
        site=site.name,
        operator=site.node.op_type,
        weight_shape=tuple(site.weight.shape),
        damage=damage,
        share=damage.additive(classes=classes) / total if total > 0.0 else 0.0,
        reasons=_words(reasons, damage, [(name, c.error) for name, c in channels.items()]),
        remedies=_remedies(reasons, damage),
        measured=MappingProxyType(
            {f"{name} channel ratio": c.ratio for name, c in channels.items()}
            | {f"{name} error": c.error for name, c in channels.items()}
        ),
    )


def _words(reasons: Sequence[Reason], damage: Damage, errors: Sequence[tuple[str, float]]) -> tuple[str, ...]:
    if reasons:
        return tuple(reason.words for reason in reasons)
    return () if damage.distortion < HARMLESS else (nothing_stands_out(errors),)


def _remedies(reasons: Sequence[Reason], damage: Damage) -> tuple[str, ...]:
    if damage.distortion < HARMLESS:
        return ()
    found = dict.fromkeys([*(reason.remedy for reason in reasons), Remedy.FLOAT])
    return tuple(str(remedy) for remedy in found)
