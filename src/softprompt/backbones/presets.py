"""Shapes of models whose configuration is public knowledge, so that they can be reckoned with where nothing is there.

Each entry is what a `config.json` would say: transformers' model type and the settings that differ from its defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any


def _gpt2(width: int, layers: int, heads: int, positions: int = 1024) -> dict[str, Any]:
    shape = {"n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": positions}
    return {"model_type": "gpt2", "vocab_size": 50_257, **shape}


def _t5(width: int, inner: int, layers: int, heads: int) -> dict[str, Any]:
    """T5 1.1: gated, its output rows its own (Raffel et al. 2020, arXiv 1910.10683; Shazeer 2020, arXiv 2002.05202)."""
    return {
        "model_type": "t5", "vocab_size": 32_128, "d_model": width, "d_ff": inner, "d_kv": 64, "num_layers": layers,
        "num_decoder_layers": layers, "num_heads": heads, "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False, "decoder_start_token_id": 0,
    }  # fmt: skip


def _rotary(
    model_type: str, width: int, inner: int, layers: int, heads: tuple[int, int], vocabulary: int, **more: Any
) -> dict[str, Any]:
    """A decoder with rotary positions; `heads` are query heads and key-value heads."""
    return {
        "model_type": model_type, "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads[0], "num_key_value_heads": heads[1], "vocab_size": vocabulary, **more,
    }  # fmt: skip


def _llama(width: int, inner: int, layers: int, heads: int) -> dict[str, Any]:
    positions = {"max_position_embeddings": 131_072}
    return _rotary("llama", width, inner, layers, (heads, 8), 128_256, tie_word_embeddings=False, **positions)


def _qwen3(width: int, inner: int, layers: int, heads: int, *, tied: bool) -> dict[str, Any]:
    more = {"head_dim": 128, "tie_word_embeddings": tied, "max_position_embeddings": 40_960}
    return _rotary("qwen3", width, inner, layers, (heads, 8), 151_936, **more)


def _qwen3_moe(width: int, inner: int, layers: int, heads: int) -> dict[str, Any]:
    experts = {"moe_intermediate_size": inner, "num_experts": 128, "num_experts_per_tok": 8}
    more = {"head_dim": 128, "tie_word_embeddings": False, "max_position_embeddings": 40_960, **experts}
    return _rotary("qwen3_moe", width, 4 * inner, layers, (heads, 4), 151_936, **more)


def _gemma3(
    width: int, inner: int, layers: int, heads: tuple[int, int], head: int, window: int, vocabulary: int = 262_208
) -> dict[str, Any]:
    """The text part of Gemma 3: every sixth layer sees the whole row (arXiv 2503.19786)."""
    more = {"head_dim": head, "sliding_window": window, "tie_word_embeddings": True}
    return _rotary("gemma3_text", width, inner, layers, heads, vocabulary, **more)


def _bert(model_type: str, width: int, layers: int, heads: int) -> dict[str, Any]:
    roberta = {"vocab_size": 50_265, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1}
    own = roberta if model_type == "roberta" else {"vocab_size": 30_522}
    return {
        "model_type": model_type, "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers,
        "num_attention_heads": heads, **own,
    }  # fmt: skip


PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "bert-base": _bert("bert", 768, 12, 12),
        "bert-large": _bert("bert", 1024, 24, 16),
        "roberta-base": _bert("roberta", 768, 12, 12),
        "roberta-large": _bert("roberta", 1024, 24, 16),
        "t5-small": _t5(512, 1024, 8, 6),
        "t5-base": _t5(768, 2048, 12, 12),
        "t5-large": _t5(1024, 2816, 24, 16),
        "t5-xl": _t5(2048, 5120, 24, 32),
        "t5-xxl": _t5(4096, 10_240, 24, 64),
        "gpt2": _gpt2(768, 12, 12),
        "gpt2-medium": _gpt2(1024, 24, 16),
        "gpt2-large": _gpt2(1280, 36, 20),
        "gpt2-xl": _gpt2(1600, 48, 25),
        # No configuration was released: table 2.1 of Brown et al. 2020, arXiv 2005.14165, on GPT-2's architecture.
        "gpt-3-175b": _gpt2(12_288, 96, 96, 2048),
        "llama-3.1-8b": _llama(4096, 14_336, 32, 32),
        "llama-3.1-70b": _llama(8192, 28_672, 80, 64),
        "llama-3.1-405b": _llama(16_384, 53_248, 126, 128),
        "mistral-7b": _rotary("mistral", 4096, 14_336, 32, (32, 8), 32_000, sliding_window=4096),
        "qwen3-0.6b": _qwen3(1024, 3072, 28, 16, tied=True),
        "qwen3-1.7b": _qwen3(2048, 6144, 28, 16, tied=True),
        "qwen3-4b": _qwen3(2560, 9728, 36, 32, tied=True),
        "qwen3-8b": _qwen3(4096, 12_288, 36, 32, tied=False),
        "qwen3-14b": _qwen3(5120, 17_408, 40, 40, tied=False),
        "qwen3-32b": _qwen3(5120, 25_600, 64, 64, tied=False),
        "qwen3-30b-a3b": _qwen3_moe(2048, 768, 48, 32),
        "qwen3-235b-a22b": _qwen3_moe(4096, 1536, 94, 64),
        "gemma-3-270m": _gemma3(640, 2048, 18, (4, 1), 256, 512, 262_144),
        "gemma-3-1b": _gemma3(1152, 6912, 26, (4, 1), 256, 512, 262_144),
        "gemma-3-4b": _gemma3(2560, 10_240, 34, (8, 4), 256, 1024),
        "gemma-3-12b": _gemma3(3840, 15_360, 48, (16, 8), 256, 1024),
        "gemma-3-27b": _gemma3(5376, 21_504, 62, (32, 16), 128, 1024),
    }
)
"""Configurations by name; `gpt-3` is short for the one of 175 billion parameters."""
ALIASES: Mapping[str, str] = MappingProxyType({"gpt-3": "gpt-3-175b", "t5-v1.1-xxl": "t5-xxl"})
"""Other ways to write some of the names."""
