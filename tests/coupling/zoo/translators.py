"""Encoder-decoder transformers for text, and those that read speech or images."""

from __future__ import annotations

from typing import Any

from tests.coupling.zoo.architecture import TEXT, Architecture, Port, hugging

PAIR = (*TEXT, Port("decoder_input_ids", "ids", ("batch", "target"), 99))
BART: dict[str, Any] = {
    "vocab_size": 99,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "use_cache": False,
}
T5: dict[str, Any] = {
    "vocab_size": 99,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "use_cache": False,
}
WAVES = (Port("input_values", "numbers", ("batch", "samples")),)
SPEECH: dict[str, Any] = {
    "vocab_size": 20,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": (16, 24, 24),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 2),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
}

TRANSLATORS: tuple[Architecture, ...] = (
    hugging("t5", "T5ForConditionalGeneration", "T5Config", PAIR, **T5),
    hugging("t5-gated", "T5ForConditionalGeneration", "T5Config", PAIR, **T5, feed_forward_proj="gated-gelu"),
    hugging("t5-encoder", "T5EncoderModel", "T5Config", TEXT, ("last_hidden_state",), **T5),
    hugging("bart", "BartForConditionalGeneration", "BartConfig", PAIR, **BART),
    hugging(
        "marian", "MarianMTModel", "MarianConfig", PAIR, **BART, pad_token_id=98, decoder_start_token_id=98
    ),
    hugging("mbart", "MBartForConditionalGeneration", "MBartConfig", PAIR, **BART),
    hugging("pegasus", "PegasusForConditionalGeneration", "PegasusConfig", PAIR, **BART),
    hugging(
        "whisper",
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        (
            Port("input_features", "numbers", ("batch", 16, 40)),
            Port("decoder_input_ids", "ids", ("batch", "target"), 99),
        ),
        **{key: value for key, value in BART.items() if key != "max_position_embeddings"},
        num_mel_bins=16,
        max_source_positions=20,
        max_target_positions=32,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    ),
    hugging("wav2vec2", "Wav2Vec2ForCTC", "Wav2Vec2Config", WAVES, **SPEECH),
    hugging(
        "wav2vec2-stable",
        "Wav2Vec2ForCTC",
        "Wav2Vec2Config",
        WAVES,
        **SPEECH,
        do_stable_layer_norm=True,
        feat_extract_norm="layer",
        conv_bias=True,
    ),
    hugging("hubert", "HubertForCTC", "HubertConfig", WAVES, **SPEECH),
    hugging(
        "spectrogram-transformer",
        "ASTForAudioClassification",
        "ASTConfig",
        (Port("input_values", "numbers", ("batch", 48, 32)),),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        patch_size=8,
        frequency_stride=6,
        time_stride=6,
        max_length=48,
        num_mel_bins=32,
    ),
)
