"""Structure facts of public architectures, from tiny configurations with random weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapass.analyses.attention import AttentionCores
from adapass.analyses.blocks import Blocks
from adapass.analyses.cut_points import CutPoints, Layout
from adapass.analyses.feed_forward import FeedForwards
from adapass.analyses.token_mask import TokenMask
from adapass.facts import FactCache
from adapass.graph.load import load_model

torch: Any = pytest.importorskip("torch", reason="needs torch to export")
transformers: Any = pytest.importorskip("transformers", reason="needs transformers for the architectures")

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 99,
}


def distilbert() -> Any:
    config = transformers.DistilBertConfig(vocab_size=99, dim=32, n_layers=3, n_heads=4, hidden_dim=64)
    return transformers.DistilBertForSequenceClassification(config)


def gpt2() -> Any:
    config = transformers.GPT2Config(vocab_size=99, n_embd=32, n_layer=3, n_head=4, use_cache=False)
    return transformers.GPT2LMHeadModel(config)


def llama() -> Any:
    config = transformers.LlamaConfig(**SIZES, num_key_value_heads=2, use_cache=False)
    return transformers.LlamaForCausalLM(config)


def t5_encoder() -> Any:
    config = transformers.T5Config(vocab_size=99, d_model=32, d_kv=8, d_ff=64, num_layers=3, num_heads=4)
    return transformers.T5EncoderModel(config)


def vit() -> Any:
    config = transformers.ViTConfig(**SIZES, image_size=32, patch_size=8)
    return transformers.ViTForImageClassification(config)


def swin() -> Any:
    sizes = {"depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
    config = transformers.SwinConfig(image_size=64, patch_size=4, embed_dim=16, **sizes)
    return transformers.SwinForImageClassification(config)


class Wrapped(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
    """Positional inputs, the first output only."""

    model: Any
    names: tuple[str, ...]

    def forward(self, *inputs: Any) -> Any:
        return self.model(**dict(zip(self.names, inputs, strict=True)))[0]


def export(make: Callable[[], Any], folder: Path, *, dynamo: bool) -> FactCache:
    """The model with a symbolic batch and, for text, a symbolic length."""
    torch.manual_seed(0)
    model = make().eval()
    is_image = model.main_input_name == "pixel_values"
    names = ("pixel_values",) if is_image else ("input_ids", "attention_mask")
    side = getattr(model.config, "image_size", 64)
    shape = (2, 3, side, side) if is_image else (2, 8)
    dtype = torch.float32 if is_image else torch.long
    feeds = tuple(torch.ones(shape, dtype=dtype) for _ in names)
    axes = {0: "batch"} if is_image else {0: "batch", 1: "tokens"}
    file = folder / "model.onnx"
    options: dict[str, Any] = {
        "dynamo": dynamo,
        "input_names": list(names),
        "output_names": ["out"],
        "verbose": False,
    }
    if dynamo:
        dims = {0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("tokens", min=2, max=64)}
        options["dynamic_shapes"] = (tuple({axis: dims[axis] for axis in axes} for _ in names),)
    else:
        options |= {"dynamic_axes": dict.fromkeys(names, axes), "opset_version": 17}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = Wrapped()
        wrapped.model, wrapped.names = model, names
        torch.onnx.export(wrapped.eval(), feeds, str(file), **options)
    return FactCache(load_model(file))


@pytest.mark.parametrize(
    ("make", "dynamo", "repeats"),
    [
        pytest.param(distilbert, False, ((0, 1, 2),), id="distilbert"),
        pytest.param(gpt2, True, ((0, 1),), id="gpt2-dynamo"),
        pytest.param(llama, False, ((0, 1),), id="llama"),
        pytest.param(t5_encoder, False, (), id="t5-encoder"),
        pytest.param(vit, False, ((0, 1),), id="vit"),
    ],
)
def test_transformers(
    make: Callable[[], Any], dynamo: bool, repeats: tuple[tuple[int, ...], ...], tmp_path: Path
) -> None:
    """Three layers each: post-norm, pre-norm, rotary and relative positions, class token.

    A last layer that ends in the final normalisation is no repeat, nor is the first of T5, which computes the
    relative positions.
    """
    facts = export(make, tmp_path, dynamo=dynamo)
    blocks = facts.get(Blocks).blocks
    points = facts.get(CutPoints).points

    assert len(blocks) == 3
    assert all(block.attention and block.residual for block in blocks)
    assert facts.get(Blocks).repeats == repeats
    assert len(facts.get(FeedForwards).parts) == 3
    assert [core.heads for core in facts.get(AttentionCores).cores] == [4, 4, 4]
    assert facts.get(TokenMask).input == (None if make is vit else "attention_mask")
    assert sum(point.layout is Layout.TOKENS for point in points) >= 6
    assert {point.channels for point in points if point.block is not None} == {32}


def test_swin(tmp_path: Path) -> None:
    """Windows fold the samples into another axis; the stream between the blocks does not."""
    facts = export(swin, tmp_path, dynamo=False)

    assert len(facts.get(AttentionCores).cores) == 4
    assert [block.attention for block in facts.get(Blocks).blocks] == [True] * 4
    assert len(facts.get(CutPoints).points) == 10
