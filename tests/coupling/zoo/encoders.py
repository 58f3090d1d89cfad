"""Text encoders: the BERT family and what grew out of it."""

from __future__ import annotations

from typing import Any

from tests.coupling.zoo.architecture import TEXT, Architecture, hugging

SIZES: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "num_labels": 3,
}
DEBERTA: dict[str, Any] = {
    "relative_attention": True,
    "max_relative_positions": 16,
    "position_biased_input": False,
}


def _encoder(
    name: str, prefix: str, task: str = "ForSequenceClassification", **settings: Any
) -> Architecture:
    return hugging(name, f"{prefix}{task}", f"{prefix}Config", TEXT, **{**SIZES, **settings})


ENCODERS: tuple[Architecture, ...] = (
    _encoder("bert", "Bert"),
    _encoder("bert-mlm", "Bert", "ForMaskedLM"),
    hugging(
        "distilbert",
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        TEXT,
        vocab_size=99,
        dim=32,
        n_layers=2,
        n_heads=4,
        hidden_dim=64,
        num_labels=3,
    ),
    _encoder("albert", "Albert", embedding_size=16, num_hidden_groups=1),
    _encoder("roberta", "Roberta"),
    _encoder("xlm-roberta", "XLMRoberta", "ForTokenClassification"),
    _encoder("electra", "Electra", embedding_size=16),
    _encoder("deberta", "Deberta", **DEBERTA, pos_att_type=["c2p", "p2c"]),
    _encoder("deberta-v2", "DebertaV2", **DEBERTA, pos_att_type=["c2p", "p2c"]),
    _encoder(
        "mobilebert",
        "MobileBert",
        hidden_size=64,
        embedding_size=32,
        intra_bottleneck_size=32,
        num_feedforward_networks=2,
    ),
    _encoder("squeezebert", "SqueezeBert", embedding_size=32),
    _encoder("mpnet", "MPNet"),
    _encoder("modernbert", "ModernBert", num_hidden_layers=3, local_attention=8, pad_token_id=0),
    _encoder("convbert", "ConvBert", embedding_size=16, head_ratio=2, conv_kernel_size=3),
    _encoder("roformer", "RoFormer", embedding_size=16),
    _encoder("rembert", "RemBert", input_embedding_size=16, output_embedding_size=24),
    _encoder("layoutlm", "LayoutLM"),
    hugging(
        "funnel",
        "FunnelForSequenceClassification",
        "FunnelConfig",
        TEXT,
        vocab_size=99,
        block_sizes=[1, 1],
        num_decoder_layers=1,
        d_model=32,
        n_head=4,
        d_head=8,
        d_inner=64,
        num_labels=3,
    ),
)
