"""Vision networks with several resolutions: windows, pooled attention, convolutions and mixtures of them."""

from __future__ import annotations

from typing import Any

from tests.coupling.zoo.architecture import Architecture, hugging, image

FOUR: dict[str, Any] = {
    "hidden_sizes": [16, 24, 32, 48],
    "depths": [1, 2, 1, 1],
    "num_attention_heads": [1, 2, 4, 4],
    "num_labels": 5,
}


def _pyramid(
    name: str,
    prefix: str,
    task: str = "ForImageClassification",
    outputs: tuple[str, ...] = ("logits",),
    side: int = 64,
    **settings: Any,
) -> Architecture:
    return hugging(name, f"{prefix}{task}", f"{prefix}Config", image(side), outputs, **settings)


WINDOWS: dict[str, Any] = {
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "num_labels": 5,
}

PYRAMIDS: tuple[Architecture, ...] = (
    _pyramid("swin", "Swin", **WINDOWS, image_size=64, window_size=4),
    _pyramid("swin-padded", "Swin", side=56, **WINDOWS, image_size=56, window_size=4),
    _pyramid("swin-absolute", "Swin", **WINDOWS, image_size=64, window_size=4, use_absolute_embeddings=True),
    _pyramid("swinv2", "Swinv2", **WINDOWS, image_size=64, window_size=4),
    _pyramid("swinv2-padded", "Swinv2", side=56, **WINDOWS, image_size=56, window_size=4),
    _pyramid(
        "swin2sr",
        "Swin2SR",
        "ForImageSuperResolution",
        ("reconstruction",),
        side=16,
        image_size=16,
        patch_size=1,
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 2],
        window_size=4,
        upscale=2,
    ),
    _pyramid(
        "focalnet",
        "FocalNet",
        image_size=64,
        embed_dim=16,
        hidden_sizes=[16, 32],
        depths=[2, 1],
        num_labels=5,
    ),
    _pyramid(
        "hiera",
        "Hiera",
        side=64,
        image_size=[64, 64],
        embed_dim=16,
        depths=[1, 2, 2],
        num_heads=[1, 2, 4],
        num_labels=5,
        num_query_pool=2,
        masked_unit_size=[4, 4],
        masked_unit_attention=[True, True, False],
    ),
    _pyramid("pvt", "Pvt", image_size=64, **FOUR),
    _pyramid("pvt-v2", "PvtV2", image_size=64, **FOUR),
    _pyramid("pvt-v2-linear", "PvtV2", image_size=64, **FOUR, linear_attention=True),
    _pyramid("segformer", "Segformer", "ForSemanticSegmentation", **FOUR, decoder_hidden_size=24),
    _pyramid("glpn", "GLPN", "ForDepthEstimation", ("predicted_depth",), **FOUR, decoder_hidden_size=16),
    _pyramid("cvt", "Cvt", embed_dim=[16, 24, 32], num_heads=[1, 2, 4], depth=[1, 2, 3], num_labels=5),
    _pyramid("poolformer", "PoolFormer", hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 2, 1], num_labels=5),
    _pyramid(
        "levit",
        "Levit",
        image_size=64,
        hidden_sizes=[32, 48, 64],
        num_attention_heads=[2, 3, 4],
        depths=[1, 2, 1],
        key_dim=[8, 8, 8],
        num_labels=5,
    ),
    _pyramid(
        "mobilevit",
        "MobileViT",
        image_size=64,
        hidden_sizes=[24, 32, 40],
        neck_hidden_sizes=[8, 12, 16, 24, 24, 32, 48],
        num_labels=5,
    ),
    _pyramid(
        "mobilevitv2",
        "MobileViTV2",
        image_size=64,
        base_attn_unit_dims=[16, 24, 32],
        n_attn_blocks=[1, 2, 1],
        width_multiplier=0.25,
        num_labels=5,
    ),
    _pyramid(
        "swiftformer",
        "SwiftFormer",
        image_size=64,
        depths=[1, 1, 1, 1],
        embed_dims=[16, 24, 32, 48],
        num_labels=5,
    ),
    _pyramid("convnext", "ConvNext", hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 2, 1], num_labels=5),
    _pyramid("convnextv2", "ConvNextV2", hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 2, 1], num_labels=5),
)
