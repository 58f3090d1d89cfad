"""A twin: the module, and how its inputs, outputs and parameters map to the graph's names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from adapass.budgeted import Array
from adapass.errors import DataError, ModelError
from adapass.twin.dtypes import to_array, to_tensor
from adapass.twin.torch_import import Tensor, torch


@dataclass(frozen=True, eq=False, slots=True)
class Twin:
    """See ``adapass.twin.build``."""

    module: Tensor
    """The ``torch.fx.GraphModule``: takes the inputs in order, returns a tuple of the outputs."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: Mapping[str, str]
    """Initializer -> parameter of the module that stands for it, by sorted name."""
    stored: Mapping[str, ir.DataType]
    """Initializer -> the type it is stored in. Parameters of half types are kept in single precision."""
    defaults: Mapping[str, Tensor]
    """Inputs that may be left out."""

    def parameter(self, initializer: str) -> Tensor:
        """The ``torch.nn.Parameter`` of an initializer; a ``KeyError`` where it is no weight."""
        return self.module.get_parameter(self.weights[initializer])

    def compute(
        self, feeds: Mapping[str, Array | Tensor], replaced: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The outputs as tensors, with gradients where torch records them.

        ``replaced`` are tensors that stand in for parameters of the module, for this call.

        Raises:
            DataError: an input is missing.
            ModelError: torch cannot compute the model on these inputs.

        """
        arguments = [self._argument(name, feeds) for name in self.inputs]
        try:
            if replaced:
                results = torch.func.functional_call(self.module, dict(replaced), tuple(arguments))
            else:
                results = self.module(*arguments)
        except (RuntimeError, IndexError, TypeError, ValueError, NotImplementedError) as error:
            shapes = ", ".join(f"{n}{list(x.shape)}" for n, x in zip(self.inputs, arguments, strict=True))
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(f"the twin cannot compute on {shapes}: {reason}") from error
        return dict(zip(self.outputs, results, strict=True))

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs as arrays, without gradients: what ``adapass.execution.Session`` returns."""
        with torch.no_grad():
            return {name: to_array(tensor) for name, tensor in self.compute(feeds).items()}

    def _argument(self, name: str, feeds: Mapping[str, Array | Tensor]) -> Tensor:
        if name in feeds:
            given = feeds[name]
            return given if isinstance(given, torch.Tensor) else _laid_out(to_tensor(given))
        if name not in self.defaults:
            raise DataError(f"input '{name}' is missing; found {sorted(feeds)}")
        return self.defaults[name]


def _laid_out(x: Tensor) -> Tensor:
    """Images with their channels last in memory: a training step takes two thirds of the time on CPUs."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def as_stored(weight: Tensor, *, dtype: Tensor) -> Tensor:
    """A weight in the type the graph has it in."""
    return weight.to(dtype)
