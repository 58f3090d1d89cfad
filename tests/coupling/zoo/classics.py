"""Classic convolutional networks written by hand, a stage or two of each and narrow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.coupling.zoo.architecture import Architecture, image
from tests.coupling.zoo.parts import (
    Branches,
    Head,
    Module,
    Residual,
    Shuffle,
    Squeeze,
    chain,
    conv,
    flat,
    nn,
    torch,
)


def alexnet() -> Any:
    features = chain(
        *(nn.Conv2d(3, 16, 11, 4, 2), nn.ReLU(), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(16, 24, 5, padding=2, groups=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(24, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
    )
    return chain(features, *flat(32 * 4, 48, 32, 5, drop=True))


def vgg(*, norm: bool) -> Any:
    layers: list[Any] = []
    channels = 3
    for width in (12, 16, 24):
        layers += [conv(channels, width, norm=norm), conv(width, width, norm=norm), nn.MaxPool2d(2)]
        channels = width
    return chain(*layers, nn.Flatten(), *flat(24 * 64, 40, 32, 5, drop=True))


def squeezenet() -> Any:
    def fire(inputs: int, squeeze: int, expand: int) -> Any:
        return chain(
            conv(inputs, squeeze, 1, norm=False),
            Branches(conv(squeeze, expand, 1, norm=False), conv(squeeze, expand, 3, norm=False)),
        )

    return chain(
        *(conv(3, 16, stride=2, norm=False), nn.MaxPool2d(3, 2, ceil_mode=True)),
        *(fire(16, 6, 12), fire(24, 6, 12), nn.MaxPool2d(3, 2, ceil_mode=True), fire(24, 8, 16)),
        *(conv(32, 5, 1, norm=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


def inception_block(inputs: int) -> Any:
    return Branches(
        conv(inputs, 8, 1),
        chain(conv(inputs, 6, 1), conv(6, 12)),
        chain(conv(inputs, 4, 1), conv(4, 6, 5)),
        chain(nn.MaxPool2d(3, 1, 1), conv(inputs, 6, 1)),
    )


def googlenet() -> Any:
    return chain(
        *(conv(3, 16, 7, 2), nn.MaxPool2d(3, 2, 1), inception_block(16), inception_block(32)),
        *(nn.MaxPool2d(3, 2, 1), inception_block(32), Head(32)),
    )


class _Asymmetric(Module):
    """Inception v3: 1 x 7 after 7 x 1, and a branch that splits once more."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.first = chain(conv(inputs, 6, 1), nn.Conv2d(6, 8, (1, 7), padding=(0, 3)), nn.Conv2d(8, 10, (7, 1), padding=(3, 0)))  # fmt: skip  # noqa: E501
        self.second = conv(inputs, 8, 1)
        self.halves = Branches(
            nn.Conv2d(8, 6, (1, 3), padding=(0, 1)), nn.Conv2d(8, 6, (3, 1), padding=(1, 0))
        )

    def forward(self, x: Any) -> Any:
        pooled = nn.functional.avg_pool2d(x, 3, stride=1, padding=1)
        return torch.relu(torch.cat([self.first(x), self.halves(self.second(x)), pooled], 1))


def inception_v3() -> Any:
    return chain(conv(3, 12, 3, 2), conv(12, 16, 3, 2), _Asymmetric(16), _Asymmetric(38), Head(60))


class _Dense(Module):
    """A layer that appends its result to what it saw."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        before = (nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, 2 * growth, 1, bias=False))
        self.body = chain(
            *before,
            nn.BatchNorm2d(2 * growth),
            nn.ReLU(),
            nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Any) -> Any:
        return torch.cat([x, self.body(x)], 1)


def densenet() -> Any:
    def transition(inputs: int, outputs: int) -> Any:
        return chain(
            nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, outputs, 1, bias=False), nn.AvgPool2d(2)
        )

    return chain(
        *(conv(3, 16, 3, 2), _Dense(16, 8), _Dense(24, 8), _Dense(32, 8), transition(40, 20)),
        *(_Dense(20, 8), _Dense(28, 8), nn.BatchNorm2d(36), nn.ReLU(), Head(36)),
    )


class _ShuffleUnit(Module):
    """ShuffleNetV2: half of the channels pass by, then all are shuffled."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        entering = inputs if stride > 1 else half
        none = nn.Identity
        self.short = (
            chain(conv(inputs, inputs, 3, stride, inputs, none()), conv(inputs, half, 1))
            if stride > 1
            else None
        )
        self.body = chain(
            conv(entering, half, 1), conv(half, half, 3, stride, half, none()), conv(half, half, 1)
        )
        self.shuffle = Shuffle(2)

    def forward(self, x: Any) -> Any:
        if self.short is not None:
            return self.shuffle(torch.cat([self.short(x), self.body(x)], 1))
        passed, worked = x.chunk(2, dim=1)
        return self.shuffle(torch.cat([passed, self.body(worked)], 1))


def shufflenet_v2() -> Any:
    return chain(
        *(conv(3, 12, 3, 2), _ShuffleUnit(12, 24, 2), _ShuffleUnit(24, 24, 1), _ShuffleUnit(24, 24, 1)),
        *(_ShuffleUnit(24, 48, 2), _ShuffleUnit(48, 48, 1), conv(48, 64, 1), Head(64)),
    )


def shufflenet_v1() -> Any:
    def unit(channels: int, groups: int) -> Any:
        inner = channels // 2
        none = nn.Identity
        return Residual(
            chain(
                conv(channels, inner, 1, groups=groups),
                Shuffle(groups),
                conv(inner, inner, 3, 1, inner, none()),
                conv(inner, channels, 1, groups=groups, act=none()),
            ),
            rectify=True,
        )

    return chain(conv(3, 24, 3, 2), unit(24, 3), unit(24, 3), conv(24, 48, 3, 2), unit(48, 4), Head(48))


def inverted(
    inputs: int, outputs: int, stride: int, expand: int, kernel: int = 3, *, squeeze: bool = False
) -> Any:
    """Expand, depthwise, optionally squeeze and excite, project; a residual where shapes allow."""
    inner = inputs * expand
    gate = (Squeeze(inner, inner // 4, nn.Hardsigmoid()),) if squeeze else ()
    act = nn.Hardswish if squeeze else nn.ReLU6
    body = chain(
        conv(inputs, inner, 1, act=act()),
        conv(inner, inner, kernel, stride, inner, act()),
        *gate,
        conv(inner, outputs, 1, act=nn.Identity()),
    )
    return Residual(body) if stride == 1 and inputs == outputs else body


def mnasnet() -> Any:
    return chain(
        *(conv(3, 16, 3, 2), conv(16, 16, 3, 1, 16), conv(16, 8, 1, act=nn.Identity())),
        *(
            inverted(8, 12, 2, 3),
            inverted(12, 12, 1, 3),
            inverted(12, 16, 2, 3, 5),
            inverted(16, 16, 1, 6, 5),
        ),
        *(conv(16, 48, 1), Head(48)),
    )


def mobilenet_v3() -> Any:
    return chain(
        *(conv(3, 16, 3, 2, act=nn.Hardswish()), inverted(16, 16, 1, 1, squeeze=True)),
        *(inverted(16, 24, 2, 4), inverted(24, 24, 1, 3), inverted(24, 32, 2, 4, 5, squeeze=True)),
        *(
            inverted(32, 32, 1, 4, 5, squeeze=True),
            conv(32, 64, 1, act=nn.Hardswish()),
            nn.AdaptiveAvgPool2d(1),
        ),
        *(nn.Flatten(), nn.Linear(64, 48), nn.Hardswish(), nn.Linear(48, 5)),
    )


def resnext() -> Any:
    def block(inputs: int, inner: int, outputs: int, stride: int) -> Any:
        none = nn.Identity
        body = chain(
            conv(inputs, inner, 1), conv(inner, inner, 3, stride, 4), conv(inner, outputs, 1, act=none())
        )
        short = None if stride == 1 and inputs == outputs else conv(inputs, outputs, 1, stride, act=none())
        return Residual(body, short, rectify=True)

    return chain(
        conv(3, 16, 7, 2), block(16, 16, 32, 1), block(32, 16, 32, 1), block(32, 32, 48, 2), Head(48)
    )


def wide_preactivation() -> Any:
    def block(channels: int) -> Any:
        body = [nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1, bias=False)]
        return Residual(
            chain(*body, nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1))
        )

    return chain(nn.Conv2d(3, 16, 3, 2, 1), block(16), nn.Conv2d(16, 24, 3, 2, 1), block(24), nn.BatchNorm2d(24), nn.ReLU(), Head(24))  # fmt: skip  # noqa: E501


class _UNet(Module):
    """Two steps down, two up by transposed convolutions, skips by concatenation."""

    def __init__(self, *, shuffle: bool = False) -> None:
        super().__init__()
        self.down = nn.ModuleList([conv(3, 12), conv(12, 16), conv(16, 24)])
        ups = [nn.ConvTranspose2d(24, 16, 2, 2), nn.ConvTranspose2d(16, 12, 2, 2)]
        if shuffle:
            ups = [
                chain(nn.Conv2d(24, 64, 1), nn.PixelShuffle(2)),
                chain(nn.Conv2d(16, 48, 1), nn.PixelShuffle(2)),
            ]
        self.up = nn.ModuleList(ups)
        self.joined = nn.ModuleList([conv(32, 16), conv(24, 12)])
        self.last = nn.Conv2d(12, 2, 1)

    def forward(self, x: Any) -> Any:
        first = self.down[0](x)
        second = self.down[1](nn.functional.max_pool2d(first, 2))
        deep = self.down[2](nn.functional.max_pool2d(second, 2))
        deep = self.joined[0](torch.cat([self.up[0](deep), second], 1))
        return self.last(self.joined[1](torch.cat([self.up[1](deep), first], 1)))


class _Pyramid(Module):
    """Feature pyramid: lateral convolutions, upsampling by interpolation, sums."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([conv(3, 12, 3, 2), conv(12, 20, 3, 2), conv(20, 28, 3, 2)])
        self.lateral = nn.ModuleList([nn.Conv2d(width, 16, 1) for width in (12, 20, 28)])
        self.smooth = nn.Conv2d(16, 16, 3, padding=1)
        self.boxes = nn.Conv2d(16, 4, 1)

    def forward(self, x: Any) -> Any:
        found: list[Any] = []
        for stage, lateral in zip(self.stages, self.lateral, strict=True):
            x = stage(x)
            found.append(lateral(x))
        summed = found[2]
        for finer in (found[1], found[0]):
            summed = finer + nn.functional.interpolate(summed, scale_factor=2.0, mode="nearest")
        return self.boxes(torch.relu(self.smooth(summed)))


def ghostnet() -> Any:
    def ghost(inputs: int, outputs: int) -> Any:
        half = outputs // 2
        return chain(conv(inputs, half, 1), Branches(nn.Identity(), conv(half, half, 3, 1, half)))

    return chain(conv(3, 16, 3, 2), Residual(chain(ghost(16, 32), Squeeze(32, 8), ghost(32, 16))), ghost(16, 24), Head(24))  # fmt: skip  # noqa: E501


class _Mixer(Module):
    """MLP-Mixer: perceptrons across the tokens, then across the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 16, 16)
        self.norms = nn.ModuleList([nn.LayerNorm(32) for _ in range(5)])
        self.tokens = nn.ModuleList(
            [chain(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16)) for _ in range(2)]
        )
        self.channels = nn.ModuleList(
            [chain(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 32)) for _ in range(2)]
        )
        self.classifier = nn.Linear(32, 5)

    def forward(self, x: Any) -> Any:
        x = self.patches(x).flatten(2).transpose(1, 2)
        for index in range(2):
            x = x + self.tokens[index](self.norms[2 * index](x).transpose(1, 2)).transpose(1, 2)
            x = x + self.channels[index](self.norms[2 * index + 1](x))
        return self.classifier(self.norms[4](x).mean(1))


def normalized(kind: Callable[[int], Any]) -> Any:
    """A plain network with a normalisation other than batch norm."""
    return chain(
        *(nn.Conv2d(3, 16, 3, 2, 1), kind(16), nn.SiLU(), nn.Conv2d(16, 24, 3, 2, 1), kind(24), nn.PReLU(24)),
        *(Residual(chain(nn.Conv2d(24, 24, 3, padding=1), kind(24), nn.LeakyReLU(0.1))), Head(24)),
    )


CLASSICS: tuple[Architecture, ...] = tuple(
    Architecture(name, make, image(64))
    for name, make in {
        "alexnet": alexnet,
        "vgg": lambda: vgg(norm=False),
        "vgg-bn": lambda: vgg(norm=True),
        "squeezenet": squeezenet,
        "googlenet": googlenet,
        "inception-v3": inception_v3,
        "densenet": densenet,
        "shufflenet-v1": shufflenet_v1,
        "shufflenet-v2": shufflenet_v2,
        "mnasnet": mnasnet,
        "mobilenet-v3": mobilenet_v3,
        "resnext": resnext,
        "preactivation-resnet": wide_preactivation,
        "u-net": _UNet,
        "u-net-pixel-shuffle": lambda: _UNet(shuffle=True),
        "feature-pyramid": _Pyramid,
        "ghostnet": ghostnet,
        "mlp-mixer": _Mixer,
        "group-norm-net": lambda: normalized(lambda width: nn.GroupNorm(4, width)),
        "instance-norm-net": lambda: normalized(lambda width: nn.InstanceNorm2d(width, affine=True)),
    }.items()
)
