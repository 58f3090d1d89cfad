"""adapass.trace: torch modules become models that compute the same."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from adapass.errors import ModelError, UsageError
from adapass.execution import Session
from adapass.trace import trace

torch: Any = pytest.importorskip("torch", reason="torch is an extra")


def _mlp() -> Any:
    layers = torch.nn
    return layers.Sequential(layers.Linear(6, 8), layers.GELU(), layers.Dropout(0.5), layers.Linear(8, 3))


def _convolutions() -> Any:
    layers = torch.nn
    return layers.Sequential(
        layers.Conv2d(3, 4, 3, padding=1), layers.BatchNorm2d(4), layers.ReLU(), layers.Flatten()
    )


def _attention() -> Any:
    return torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)


@pytest.mark.parametrize(
    ("make", "shape", "dynamic"),
    [
        pytest.param(_mlp, (2, 6), {0: "batch"}, id="multilayer-perceptron"),
        pytest.param(_convolutions, (2, 3, 8, 8), {0: "batch"}, id="convolutions"),
        pytest.param(_attention, (2, 5, 16), {0: "batch"}, id="attention"),
    ],
)
def test_computes_the_same_at_another_batch_size(
    make: Any, shape: tuple[int, ...], dynamic: dict[int, str]
) -> None:
    torch.manual_seed(0)
    module = make()
    example = torch.randn(*shape)

    model = trace(module, (example,), dynamic_shapes=(dynamic,))

    other = torch.randn(5, *shape[1:])
    found = next(iter(Session(model).run({model.graph.inputs[0].name or "": other.numpy()}).values()))
    expected = module.eval()(other).detach().numpy()
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, rtol=1e-4, atol=1e-5)
    assert str(model.graph.inputs[0].shape).startswith("[batch,")


def test_puts_the_module_back_into_its_mode() -> None:
    module = _mlp().train()

    trace(module, (torch.randn(2, 6),))

    assert module.training


def test_says_why_torch_cannot_export() -> None:
    class Breaks(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            raise RuntimeError("this module cannot run")

    with pytest.raises(ModelError, match=r"cannot export Breaks: .*this module cannot run"):
        trace(Breaks(), (torch.randn(2),))


def test_refuses_what_is_not_a_module() -> None:
    with pytest.raises(UsageError, match=r"expected a torch\.nn\.Module, found int"):
        trace(3, ())  # type: ignore[arg-type]


def test_says_how_to_get_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)

    with pytest.raises(UsageError, match=r"pip install adapass\[torch\]"):
        trace(_mlp(), ())
