"""Samples that look to the model like what it was trained on.

    noise  ->  inputs whose activations have, in front of every batch normalisation, the stored mean and
               deviation (ZeroQ, Cai et al. 2020, arXiv:2001.00281)

Half of the samples of a classifier are also drawn to the middle between two classes, half to one class, so
that both sides of a decision are seen: the entropy of the outputs is balanced, not left to chance (the idea
of adaptability in AdaDFQ, Qian et al. 2023, arXiv:2303.06869). Samples are optimised through the FX twin.

They are no data: what is measured on them says how layers are used, not how good the answers are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array
from adapass.data.dataset import Dataset
from adapass.data.load import load_data
from adapass.errors import UsageError
from adapass.graph.inputs import generate_feeds
from adapass.synthetic.statistics import Remembered, remembered
from adapass.twin.build import build_twin
from adapass.twin.torch_import import Tensor, torch
from adapass.twin.twin import Twin

BATCH = 32
STEPS = 200
RATE = 0.1
CLASS_WEIGHT = 0.03
"""Of the adaptive term. In 100 steps 0.1 left ranges of ResNet-20 a factor of 1.17 off, and 0 one of 1.13."""
Report = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Synthetic:
    """Samples, and how near their activations are to what the model remembers."""

    samples: Dataset
    values: int
    """Batch normalisations that were matched."""
    before: float
    """Mean squared distance of means and deviations, in units of these, of the noise it began with."""
    after: float


def synthesize(
    model: ir.Model, *, count: int = 64, steps: int = STEPS, seed: int = 0, report: Report | None = None
) -> Synthetic:
    """``count`` samples. The same model and seed give the same samples.

    Raises:
        UsageError: the model stores no statistics, or an input cannot be optimised; or torch is missing.
        ModelError: an operator has no twin.

    """
    targets = remembered(model)
    if not targets:
        raise UsageError(
            "this model stores no statistics: it has no batch normalisation, or it was folded into weights "
            "when the model was exported; export it unfolded, give data, or work with generated inputs"
        )
    _check_inputs(model)
    twin = _frozen(build_twin(model, outputs=[*(t.value for t in targets), _classes(model)]))
    total = -(-count // BATCH) * steps
    parts: list[_Batch] = []
    for start in range(0, count, BATCH):
        batch = _Batch(twin, targets, _noise(model, min(BATCH, count - start), seed, start))
        done = start // BATCH * steps
        batch.optimize(steps, None if report is None else _progress(report, done, total))
        parts.append(batch)
    arrays = {name: np.concatenate([part.arrays()[name] for part in parts]) for name in parts[0].arrays()}
    samples = load_data(arrays, model, trim=False)
    source = f"synthetic samples, matched to {len(targets)} batch normalisations: no data"
    return Synthetic(
        samples=replace(samples, source=source, synthetic=True),
        values=len(targets),
        before=float(np.mean([part.before for part in parts])),
        after=float(np.mean([part.after for part in parts])),
    )


def _check_inputs(model: ir.Model) -> None:
    for value in model.graph.inputs:
        if not value.is_initializer() and value.dtype != ir.DataType.FLOAT:
            raise UsageError(
                f"input '{value.name}' is {value.dtype}; only FLOAT inputs can be optimised: give data, or "
                "work with generated inputs"
            )


def _classes(model: ir.Model) -> str:
    return model.graph.outputs[0].name or ""


def _frozen(twin: Twin) -> Twin:
    for parameter in twin.module.parameters():
        parameter.requires_grad_(False)
    return twin


def _noise(model: ir.Model, count: int, seed: int, start: int) -> dict[str, Array]:
    """Normal numbers in the shapes that generated inputs have."""
    shapes = {name: array.shape[1:] for name, array in generate_feeds(model, seed=seed, cases=1)[0].items()}
    random = np.random.default_rng([seed, start])
    return {
        name: random.standard_normal((count, *shape)).astype(np.float32) for name, shape in shapes.items()
    }


def _progress(report: Report, done: int, total: int) -> Callable[[int], None]:
    return lambda step: report(done + step, total, "synthetic samples")


class _Batch:
    """Some samples on their way from noise."""

    def __init__(self, twin: Twin, targets: Sequence[Remembered], noise: Mapping[str, Array]) -> None:
        self._twin = twin
        self._targets = [
            (target.value, torch.from_numpy(target.mean), torch.from_numpy(target.deviation))
            for target in targets
        ]
        self._inputs: dict[str, Tensor] = {
            name: torch.from_numpy(array).requires_grad_() for name, array in noise.items()
        }
        self.before = self.after = math.inf

    def optimize(self, steps: int, report: Callable[[int], None] | None) -> None:
        """Adam along a cosine; what is kept is the nearest that was seen."""
        optimizer = torch.optim.Adam(list(self._inputs.values()), lr=RATE)
        best, lowest = self._inputs, math.inf
        for step in range(steps + 1):
            values = self._twin.compute(self._inputs)
            distance = self._distance(values)
            found = float(distance.detach())
            self.before = found if step == 0 else self.before
            loss = distance + CLASS_WEIGHT * self._class_term(values[self._twin.outputs[-1]])
            whole = float(loss.detach())
            if step == 0 or whole < lowest:
                lowest, self.after = whole, found
                best = {name: tensor.detach().clone() for name, tensor in self._inputs.items()}
            if step == steps or not math.isfinite(whole):
                break
            optimizer.param_groups[0]["lr"] = RATE * 0.5 * (1.0 + math.cos(math.pi * step / steps))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if report is not None:
                report(step + 1)
        self._inputs = best

    def arrays(self) -> dict[str, Array]:
        return {name: tensor.detach().numpy() for name, tensor in self._inputs.items()}

    def _distance(self, values: Mapping[str, Tensor]) -> Tensor:
        """Mean over values of the squared distance of means and deviations, in units of the deviations."""
        parts: list[Tensor] = []
        for name, mean, deviation in self._targets:
            here = values[name]
            axes = [axis for axis in range(here.ndim) if axis != 1]
            centre, spread = here.mean(axes), (here.var(axes, correction=0) + 1e-8).sqrt()
            parts.append(
                (((centre - mean) / deviation) ** 2 + ((spread - deviation) / deviation) ** 2).mean()
            )
        return torch.stack(parts).mean()

    def _class_term(self, outputs: Tensor) -> Tensor:
        """Divergence from one class (even samples), or from the middle between two (odd ones)."""
        if outputs.ndim != 2 or outputs.shape[1] < 2 or not outputs.is_floating_point():
            return torch.zeros(())
        wanted = class_targets(len(outputs), outputs.shape[1])
        logs = torch.log_softmax(outputs, dim=1)
        entropy = torch.special.entr(wanted).sum()
        return (-(wanted * logs).sum() - entropy) / len(outputs)


def class_targets(count: int, classes: int) -> Tensor:
    """Probabilities that samples are drawn to, [count, classes]: far from decisions, and near to them."""
    index = torch.arange(count)
    first, second = (index // 2) % classes, (index // 2 + 1) % classes
    wanted = torch.zeros(count, classes)
    wanted[index, first] += torch.where(index % 2 == 0, 1.0, 0.5)
    wanted[index, second] += torch.where(index % 2 == 0, 0.0, 0.5)
    return wanted
