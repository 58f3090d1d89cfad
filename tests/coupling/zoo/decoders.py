"""Causal language models: learned, rotary and linear positions, shared key heads, experts, state spaces."""

from __future__ import annotations

from typing import Any

from tests.coupling.zoo.architecture import IDS, TEXT, Architecture, hugging

SIZES: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "use_cache": False,
}
GROUPED: dict[str, Any] = {"num_key_value_heads": 2}
"""Two query heads share a key head."""


def _decoder(name: str, prefix: str, task: str = "ForCausalLM", **settings: Any) -> Architecture:
    return hugging(name, f"{prefix}{task}", f"{prefix}Config", TEXT, **{**SIZES, **settings})


def _own(name: str, prefix: str, task: str = "ForCausalLM", **settings: Any) -> Architecture:
    """With its own words for the sizes."""
    sizes: dict[str, Any] = {"vocab_size": 99, "use_cache": False, **settings}
    return hugging(name, f"{prefix}{task}", f"{prefix}Config", TEXT, **sizes)


DECODERS: tuple[Architecture, ...] = (
    _own("gpt2", "GPT2", "LMHeadModel", n_embd=32, n_layer=2, n_head=4, n_positions=64),
    _own("gptj", "GPTJ", n_embd=32, n_layer=2, n_head=4, n_positions=64, rotary_dim=4),
    _own(
        "gpt-neo",
        "GPTNeo",
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        intermediate_size=64,
        window_size=8,
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=64,
    ),
    _decoder("gpt-neox", "GPTNeoX"),
    _own(
        "gpt-bigcode",
        "GPTBigCode",
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        n_inner=64,
        multi_query=True,
    ),
    _own(
        "opt",
        "OPT",
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=64,
        word_embed_proj_dim=16,
        max_position_embeddings=64,
    ),
    _own("bloom", "Bloom", hidden_size=32, n_layer=2, n_head=4),
    _own("mpt", "Mpt", d_model=32, n_layers=2, n_heads=4, expansion_ratio=2, max_seq_len=64),
    _decoder("llama", "Llama", **GROUPED),
    _decoder("mistral", "Mistral", **GROUPED, sliding_window=8),
    _decoder("qwen2", "Qwen2", **GROUPED),
    _decoder("qwen3", "Qwen3", **GROUPED, head_dim=8),
    _own(
        "falcon",
        "Falcon",
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        multi_query=True,
    ),
    _own(
        "falcon-grouped",
        "Falcon",
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_kv_heads=2,
        new_decoder_architecture=True,
    ),
    _decoder("gemma", "Gemma", num_key_value_heads=1, head_dim=16),
    _decoder("gemma2", "Gemma2", **GROUPED, head_dim=16, query_pre_attn_scalar=16, sliding_window=8),
    _decoder("phi", "Phi", **GROUPED),
    _decoder("phi3", "Phi3", **GROUPED, pad_token_id=0),
    _decoder("stablelm", "StableLm", **GROUPED),
    _decoder("olmo2", "Olmo2", **GROUPED),
    _decoder("cohere", "Cohere", **GROUPED),
    _decoder("mixtral", "Mixtral", **GROUPED, num_local_experts=4, num_experts_per_tok=2),
    _decoder(
        "qwen2-moe",
        "Qwen2Moe",
        **GROUPED,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=48,
    ),
    hugging(
        "mamba",
        "MambaForCausalLM",
        "MambaConfig",
        IDS,
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        state_size=8,
        use_cache=False,
        time_step_rank=4,
    ),
)
