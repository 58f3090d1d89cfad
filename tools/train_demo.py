"""Train the model that `adapass demo` optimizes, on the digits that scikit-learn bundles.

    pip install -e .[dev]
    python tools/train_demo.py

Writes adapass/assets/demo.onnx, demo_fit.npz and demo_eval.npz. Takes some minutes on one core and
gives the same weights again on the same machine and library versions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from torch import nn

ASSETS = Path(__file__).resolve().parent.parent / "adapass" / "assets"
CHANNELS = 48
BLOCKS = 10
EPOCHS = 24
FIT_SHARE = 0.5
SEED = 0


class Block(nn.Module):
    """Two 3x3 convolutions with a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(x + self.second_norm(self.second(inner)))


class Digits(nn.Module):
    """An isotropic residual network on 8x8 images: [B, 1, 8, 8] -> [B, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, CHANNELS, 3, padding=1)
        self.blocks = nn.ModuleList(Block(CHANNELS) for _ in range(BLOCKS))
        self.classify = nn.Linear(CHANNELS, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(image))
        for block in self.blocks:
            x = block(x)
        return self.classify(x.mean(dim=(2, 3)))


def shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image moved by up to one pixel, with a little noise."""
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    moves = torch.randint(0, 3, (len(images), 2), generator=generator)
    moved = [padded[i, :, y : y + 8, x : x + 8] for i, (y, x) in enumerate(moves.tolist())]
    return torch.stack(moved) + 0.1 * torch.randn(images.shape, generator=generator)


def train(images: torch.Tensor, labels: torch.Tensor) -> Digits:
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    model = Digits()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    steps = EPOCHS * -(-len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(images), generator=generator)
        for rows in order.split(64):
            loss = nn.functional.cross_entropy(
                model(shifted(images[rows], generator)), labels[rows], label_smoothing=0.05
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{EPOCHS}: loss {loss.item():.3f}", flush=True)
    return model.eval()


def forget_where_it_was_made(file: Path) -> None:
    """Take out the exporter's stack traces, which name folders of this machine."""
    model = onnx.load(file)
    graph = model.graph
    for part in (
        *graph.node,
        *graph.value_info,
        *graph.input,
        *graph.output,
        *graph.initializer,
        graph,
        model,
    ):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.save(model, file)


def main() -> None:
    torch.set_num_threads(1)
    digits = load_digits()
    images = ((digits.images[:, None] - 8.0) / 8.0).astype(np.float32)
    labels = digits.target.astype(np.int64)
    order = np.random.default_rng(SEED).permutation(len(images))
    fit, held_out = np.split(order, [round(FIT_SHARE * len(order))])
    model = train(torch.from_numpy(images[fit]), torch.from_numpy(labels[fit]))
    with torch.no_grad():
        right = model(torch.from_numpy(images[held_out])).argmax(1).numpy() == labels[held_out]
    print(f"accuracy on {len(held_out)} held-out digits: {right.mean():.4f}")
    ASSETS.mkdir(exist_ok=True)
    torch.onnx.export(
        model,
        (torch.from_numpy(images[:2]),),
        str(ASSETS / "demo.onnx"),
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
        dynamo=True,
        external_data=False,
    )
    forget_where_it_was_made(ASSETS / "demo.onnx")
    for name, rows in (("demo_fit", fit), ("demo_eval", held_out)):
        np.savez_compressed(ASSETS / f"{name}.npz", image=images[rows], labels=labels[rows])


if __name__ == "__main__":
    main()
