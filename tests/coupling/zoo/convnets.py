"""Convolutional networks of ``transformers``, and detectors with such a backbone."""

from __future__ import annotations

from typing import Any

from tests.coupling.zoo.architecture import Architecture, hugging, image

STAGES: dict[str, Any] = {
    "hidden_sizes": [16, 24, 32, 48],
    "depths": [1, 2, 1, 1],
    "embedding_size": 16,
    "num_labels": 5,
}


def _net(
    name: str,
    prefix: str,
    task: str = "ForImageClassification",
    outputs: tuple[str, ...] = ("logits",),
    **settings: Any,
) -> Architecture:
    return hugging(name, f"{prefix}{task}", f"{prefix}Config", image(64), outputs, **settings)


BACKBONE: dict[str, Any] = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [16, 24, 32, 48],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage4"],
}
DETR: dict[str, Any] = {
    "backbone_config": BACKBONE,
    "use_timm_backbone": False,
    "backbone": None,
    "use_pretrained_backbone": False,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 48,
    "num_queries": 9,
    "num_labels": 5,
}

CONVNETS: tuple[Architecture, ...] = (
    _net("resnet-bottleneck", "ResNet", **STAGES, layer_type="bottleneck"),
    _net("resnet-basic", "ResNet", **STAGES, layer_type="basic"),
    _net("regnet-x", "RegNet", **STAGES, layer_type="x", groups_width=8),
    _net("regnet-y", "RegNet", **STAGES, layer_type="y", groups_width=8),
    _net("bit", "Bit", **STAGES, num_groups=4),
    _net("mobilenet-v1", "MobileNetV1", image_size=64, depth_multiplier=0.25, num_labels=5),
    _net("mobilenet-v2", "MobileNetV2", image_size=64, depth_multiplier=0.25, num_labels=5),
    _net(
        "efficientnet",
        "EfficientNet",
        image_size=64,
        in_channels=[32, 16, 24, 40],
        out_channels=[16, 24, 40, 80],
        kernel_sizes=[3, 3, 5, 3],
        strides=[1, 2, 2, 1],
        num_block_repeats=[1, 2, 2, 1],
        expand_ratios=[1, 4, 4, 6],
        hidden_dim=320,
        depth_divisor=4,
        width_coefficient=0.25,
        depth_coefficient=1.0,
        num_labels=5,
    ),
    _net(
        "hgnet-v2",
        "HGNetV2",
        stem_channels=[3, 12, 16],
        stage_in_channels=[16, 24, 32],
        stage_mid_channels=[8, 12, 16],
        stage_out_channels=[24, 32, 48],
        stage_num_blocks=[1, 2, 1],
        num_labels=5,
        stage_downsample=[False, True, True],
        stage_downsample_strides=[2, 2, 2],
        depths=[1, 2, 1],
        stage_light_block=[False, False, True],
        stage_kernel_size=[3, 3, 5],
        stage_numb_of_layers=[3, 3, 3],
        hidden_sizes=[24, 32, 48],
        embedding_size=16,
    ),
    _net("pp-lcnet", "PPLCNet", outputs=("last_hidden_state",), scale=0.25, class_expand=64, num_labels=5),
    _net(
        "textnet",
        "TextNet",
        stem_out_channels=16,
        hidden_sizes=[16, 16, 24, 32, 40],
        image_size=64,
        num_labels=5,
    ),
    _net("detr", "Detr", "ForObjectDetection", ("logits", "pred_boxes"), **DETR),
    _net("conditional-detr", "ConditionalDetr", "ForObjectDetection", ("logits", "pred_boxes"), **DETR),
    _net(
        "upernet",
        "UperNet",
        "ForSemanticSegmentation",
        backbone_config={**BACKBONE, "out_features": ["stage1", "stage2", "stage3", "stage4"]},
        hidden_size=16,
        use_auxiliary_head=False,
        num_labels=5,
    ),
)
