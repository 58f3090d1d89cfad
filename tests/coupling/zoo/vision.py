"""Vision transformers with one resolution, and the two-tower models built on them."""

from __future__ import annotations

from typing import Any

from tests.coupling.zoo.architecture import TEXT, Architecture, Port, hugging, image

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 5,
}
TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
TOWERS: dict[str, Any] = {
    "text_config": {**TOWER, "vocab_size": 99, "max_position_embeddings": 32, "eos_token_id": 98},
    "vision_config": {**TOWER, "hidden_size": 48, "image_size": 32, "patch_size": 8},
}
BOTH = (TEXT[0], *image(32), TEXT[1])


def _vision(
    name: str,
    prefix: str,
    task: str = "ForImageClassification",
    outputs: tuple[str, ...] = ("logits",),
    **settings: Any,
) -> Architecture:
    return hugging(name, f"{prefix}{task}", f"{prefix}Config", image(32), outputs, **{**SIZES, **settings})


VISION: tuple[Architecture, ...] = (
    _vision("vit", "ViT"),
    _vision("deit", "DeiT"),
    _vision("deit-distilled", "DeiT", "ForImageClassificationWithTeacher"),
    _vision("beit", "Beit", use_relative_position_bias=True),
    _vision("beit-shared-bias", "Beit", use_shared_relative_position_bias=True, use_mean_pooling=False),
    _vision("data2vec-vision", "Data2VecVision", use_relative_position_bias=True),
    _vision("dinov2", "Dinov2", mlp_ratio=2),
    _vision("dinov2-swiglu", "Dinov2", mlp_ratio=2, use_swiglu_ffn=True),
    _vision("vit-msn", "ViTMSN"),
    _vision(
        "yolos",
        "Yolos",
        "ForObjectDetection",
        ("logits", "pred_boxes"),
        image_size=[32, 32],
        num_detection_tokens=6,
    ),
    _vision(
        "dpt",
        "DPT",
        "ForDepthEstimation",
        ("predicted_depth",),
        num_hidden_layers=4,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[12, 16, 20, 24],
        fusion_hidden_size=16,
        reassemble_factors=[4, 2, 1, 0.5],
    ),
    _vision(
        "vitdet",
        "VitDet",
        "Model",
        ("last_hidden_state",),
        pretrain_image_size=32,
        window_block_indices=[0],
        residual_block_indices=[1],
        window_size=3,
        use_relative_position_embeddings=True,
    ),
    hugging(
        "timesformer",
        "TimesformerForVideoClassification",
        "TimesformerConfig",
        (Port("pixel_values", "numbers", ("batch", 4, 3, 32, 32)),),
        **SIZES,
        num_frames=4,
    ),
    hugging("clip", "CLIPModel", "CLIPConfig", BOTH, ("logits_per_image",), **TOWERS, projection_dim=24),
    hugging(
        "siglip",
        "SiglipModel",
        "SiglipConfig",
        (Port("input_ids", "ids", ("batch", 16), 99), *image(32)),
        ("logits_per_image",),
        text_config={**TOWER, "vocab_size": 99, "max_position_embeddings": 16, "hidden_size": 48},
        vision_config=TOWERS["vision_config"],
    ),
)
