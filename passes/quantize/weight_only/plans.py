"""What whole plans of formats damage: the model whose stored weights are inputs, fed those of a plan.

Every weight is rounded once for each format it is asked for, by second moments of the float model; ``fit``
takes them from the model as it has become, which hardly differs. A plan then costs one run over the samples,
and a plan with one weight exchanged the part of a run behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from adapass.budgeted import Array, Choice, Damage, Exchange, Feeds, Samples
from adapass.executor.threads import one_thread
from adapass.passes.quantize.sensitivity import compare
from adapass.passes.quantize.weight_only.damage import Fed, as_read, batches_of, grams_of, halves
from adapass.passes.quantize.weight_only.formats import Format
from adapass.passes.quantize.weight_only.rounding import Method, stored_form
from adapass.passes.quantize.weight_only.sites import Site

Offers = Mapping[tuple[str, str], tuple[Site, Format]]
"""(site, setting) -> where, and all of what."""
Values = Mapping[str, Array]


class FedPlans:
    """Damage of plans on every other sample; weights are rounded by the samples between.

    Half of the samples that are judged on tell what plans do, the other half what exchanges do: a plan made
    of exchanges that only suited those samples shows.
    """

    def __init__(
        self,
        model: ir.Model,
        offers: Offers,
        samples: Samples,
        method: Method,
        *,
        calibration_samples: int,
        rows_each: int,
    ) -> None:
        fitted, judged = halves(len(samples))
        sites = list({site.name: site for site, _ in offers.values()}.values())
        formats = [format_ for _, format_ in offers.values()]
        self._offers, self._method = offers, method
        self._weights: dict[tuple[str, str], Array] = {}
        self._fed = Fed(model, sites)
        batches = list(batches_of(samples, judged))
        self._feeds, self._probes = (batches[::2], batches[1::2]) if len(batches) > 1 else (batches, batches)
        with one_thread():
            self._grams = grams_of(
                model, sites, formats, method, samples, fitted[:calibration_samples], rows_each
            )
            self._said = self._outputs(self._runs((), self._feeds))
            self._said_of_probes = self._outputs(self._runs((), self._probes))

    def damage(self, chosen: Sequence[Choice]) -> Damage:
        """Of all these choices together."""
        with one_thread():
            return self._compared(self._said, self._runs(chosen, self._feeds))

    def beside(self, chosen: Sequence[Choice], exchanges: Sequence[Exchange]) -> list[Damage]:
        """Of ``chosen`` with one site exchanged, for each of ``exchanges``."""
        found: list[Damage] = []
        with one_thread():
            runs = self._runs(chosen, self._probes)
            for site, choice in exchanges:
                weight = None if choice is None else self._weight(choice)
                exchanged = [self._fed.again(known, site, weight) for known in runs]
                found.append(self._compared(self._said_of_probes, exchanged))
        return found

    def _runs(self, chosen: Sequence[Choice], batches: Sequence[Feeds]) -> list[Values]:
        weights = {choice.site: self._weight(choice) for choice in chosen}
        return [self._fed.first(feeds, weights) for feeds in batches]

    def _weight(self, choice: Choice) -> Array:
        key = choice.site, choice.setting
        if key not in self._weights:
            site, format_ = self._offers[key]
            form = stored_form(site.matrix, self._grams.get(site.op.source), format_, self._method)
            self._weights[key] = as_read(site, form.weights())
        return self._weights[key]

    def _outputs(self, runs: Sequence[Values]) -> list[Values]:
        return [{name: values[name] for name in self._fed.outputs} for values in runs]

    def _compared(self, said: Sequence[Values], runs: Sequence[Values]) -> Damage:
        measured = compare(said, runs, self._fed.outputs)
        return Damage(measured.distortion, measured.divergence)
