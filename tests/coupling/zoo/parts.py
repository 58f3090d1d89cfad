"""Building stones of the hand-written networks."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Any

torch: Any = import_module("torch")  # typed, but not where modules are subclassed and called
nn: Any = torch.nn

if TYPE_CHECKING:

    class Module:
        """``torch.nn.Module``, as far as its subclasses here need it."""

        def __call__(self, *inputs: Any) -> Any: ...
        def eval(self) -> Any: ...
else:
    Module = nn.Module


class Residual(Module):
    """``body(x) + shortcut(x)``, then a rectifier where wanted."""

    def __init__(self, body: Any, shortcut: Any = None, *, rectify: bool = False) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut or nn.Identity()
        self.last = nn.ReLU() if rectify else nn.Identity()

    def forward(self, x: Any) -> Any:
        return self.last(self.body(x) + self.shortcut(x))


class Branches(Module):
    """The results of several branches, one after the other along the channels."""

    def __init__(self, *branches: Any) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Any) -> Any:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class Squeeze(Module):
    """Squeeze and excitation: every channel scaled by a gate that sees all channels."""

    def __init__(self, channels: int, inner: int, gate: Any = None) -> None:
        super().__init__()
        self.inner = nn.Conv2d(channels, inner, 1)
        self.outer = nn.Conv2d(inner, channels, 1)
        self.gate = gate or nn.Sigmoid()

    def forward(self, x: Any) -> Any:
        pooled = torch.relu(self.inner(x.mean((2, 3), keepdim=True)))
        return x * self.gate(self.outer(pooled))


class Shuffle(Module):
    """Channel shuffle: the groups are dealt out like cards."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Any) -> Any:
        batch, channels, height, width = x.shape
        dealt = x.view(batch, self.groups, channels // self.groups, height, width).transpose(1, 2)
        return dealt.reshape(batch, channels, height, width)


class Head(Module):
    """Global average pooling and a classifier."""

    def __init__(self, channels: int, classes: int = 5) -> None:
        super().__init__()
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Any) -> Any:
        return self.classifier(x.mean((2, 3)))


def conv(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    act: Any = None,
    *,
    norm: bool = True,
) -> Any:
    """Convolution, batch norm, activation (``nn.Identity()`` for none)."""
    padding = (kernel - 1) // 2
    steps = [nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=not norm)]
    if norm:
        steps.append(nn.BatchNorm2d(outputs))
    return nn.Sequential(*steps, act or nn.ReLU())


def chain(*steps: Any) -> Any:
    return nn.Sequential(*steps)


def flat(*sizes: int, drop: bool = False) -> Sequence[Any]:
    """Linear layers of these sizes with rectifiers between them."""
    layers: list[Any] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Dropout() if drop else nn.Identity(), nn.Linear(inputs, outputs), nn.ReLU()]
    return layers[:-1]
