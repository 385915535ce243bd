"""Tiny random backbones of every family, built on the spot: no file, no network, a few milliseconds each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from softprompt.registry import unknown_name
from softprompt.testing.tiny_tokenizers import VOCABULARY, tiny_tokenizer

if TYPE_CHECKING:
    import torch

    from softprompt.backbones.backbone import Backbone

__all__ = [
    "SPECIAL_FAMILIES", "TINY_ENCODERS", "TINY_FAMILIES", "TINY_SEQ2SEQ", "VOCABULARY", "WINDOW", "tiny_backbone",
    "tiny_tokenizer",
]  # fmt: skip

WINDOW = 8

_ROTARY = {
    "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
_MIXED_WINDOWS = {"layer_types": ["sliding_attention", "full_attention"]}
_GEMMA = {**_ROTARY, **_MIXED_WINDOWS, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": WINDOW}
_QWEN = {**_ROTARY, **_MIXED_WINDOWS, "use_sliding_window": True, "sliding_window": WINDOW}
_FALCON = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 256}
_OPT = {
    "hidden_size": 48, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 256,
    "word_embed_proj_dim": 48,
}  # fmt: skip

_BERT = {
    "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 256,
}  # fmt: skip
_T5 = {
    "d_model": 48, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16, "decoder_start_token_id": 2,
}  # fmt: skip

# name: (model type, settings that differ from transformers' defaults)
_RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma2": ("gemma2", {**_GEMMA, "final_logit_softcapping": 3.0}),
    "gemma3": ("gemma3_text", _GEMMA),
    "llama": ("llama", _ROTARY),
    "qwen2": ("qwen2", {**_QWEN, "max_window_layers": 0}),
    "qwen3": ("qwen3", {**_QWEN, "head_dim": 16, "max_window_layers": 0}),
    "mistral": ("mistral", {**_ROTARY, "sliding_window": WINDOW}),
    "phi3": ("phi3", {**_ROTARY, "sliding_window": WINDOW}),
    "gpt2": ("gpt2", {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 256}),
    "gpt_neox": ("gpt_neox", {
        "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 256,
    }),
    "opt": ("opt", _OPT),
    "opt_projected": ("opt", {**_OPT, "word_embed_proj_dim": 32, "do_layer_norm_before": False}),
    "bloom": ("bloom", {"hidden_size": 48, "n_layer": 2, "n_head": 4}),
    "falcon": ("falcon", _FALCON),
    "falcon_alibi": ("falcon", {**_FALCON, "alibi": True}),
    "falcon_new": ("falcon", {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "llama3_rope": ("llama", {**_ROTARY, "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }}),
    "phi3_longrope": ("phi3", {**_ROTARY, "original_max_position_embeddings": 32, "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 32,
        "short_factor": [1.0] * 6, "long_factor": [4.0] * 6,
    }}),
    "llama_dynamic": ("llama", {**_ROTARY, "max_position_embeddings": 64, "rope_parameters": {
        "rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0,
    }}),
}  # fmt: skip
_ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", _BERT),
    "minilm": ("bert", _BERT),
    "roberta": ("roberta", _BERT),
    "xlm_roberta": ("xlm-roberta", _BERT),
    "distilbert": ("distilbert", {
        "dim": 48, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 256,
    }),
    "modernbert": ("modernbert", {
        **_BERT, **_MIXED_WINDOWS, "local_attention": WINDOW, "cls_token_id": 0, "sep_token_id": 1,
    }),
}  # fmt: skip
_SEQ2SEQ: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("t5", _T5),
    "t5_gated": ("t5", {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": ("mt5", {**_T5, "feed_forward_proj": "gated-gelu"}),
    "bart": ("bart", {
        "d_model": 48, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "encoder_layers": 2, "decoder_layers": 3,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 256,
        "decoder_start_token_id": 1, "forced_eos_token_id": None,
    }),
}  # fmt: skip

TINY_FAMILIES = tuple(name for name in _RECIPES if name not in ("phi3_longrope", "llama_dynamic"))
"""Names for `tiny_backbone` of decoders that the one batch layout serves without further care."""
SPECIAL_FAMILIES = ("phi3_longrope", "llama_dynamic")
"""Names for `tiny_backbone` of decoders whose rotary positions depend on the length of the batch."""
TINY_ENCODERS = tuple(_ENCODERS)
"""Names for `tiny_backbone` of encoders; `minilm` alone has no head for words."""
TINY_SEQ2SEQ = tuple(_SEQ2SEQ)
"""Names for `tiny_backbone` of encoder-decoders."""


def tiny_backbone(
    family: str = "llama",
    *,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    window: int | None = None,
    attention: str | None = None,
    **config_overrides: Any,
) -> Backbone:
    """Build a random backbone of two layers, of 32 to 64 hidden units and 300 tokens, with a real tokenizer.

    The weights have a standard deviation of 0.15, so that attention matters and a mistake in it shows.

    Args:
        family: one of `TINY_FAMILIES`, `SPECIAL_FAMILIES`, `TINY_ENCODERS` or `TINY_SEQ2SEQ`.
        seed: of the weights.
        dtype: of the weights; None: fp32.
        window: columns of the sliding window, where a decoder has one; None: 8.
        attention: an attention implementation; None: the family's.
        config_overrides: settings of the family's transformers configuration.

    Returns:
        A frozen backbone on the CPU.

    Raises:
        UnknownNameError: no recipe has that name.
    """
    import torch

    from softprompt.backbones.attention import choose_attention
    from softprompt.backbones.backbone import Backbone
    from softprompt.backbones.families import FAMILIES

    recipes = {**_RECIPES, **_ENCODERS, **_SEQ2SEQ}
    if family not in recipes:
        raise unknown_name("tiny backbone", family, recipes)
    model_type, settings = recipes[family]
    settings = {**_SPECIAL_IDS, "vocab_size": VOCABULARY, **settings}
    if family in _RECIPES:
        settings.setdefault("tie_word_embeddings", False)
    if window is not None and "sliding_window" in settings:
        settings["sliding_window"] = window
    implementation = choose_attention(FAMILIES[model_type], attention, "cpu")
    model = _model(family, model_type, {**settings, **config_overrides}, implementation)
    _fill(model, seed)
    return Backbone(model.to(dtype or torch.float32), tiny_tokenizer(_style(family)), name=f"tiny-{family}")


def _model(family: str, model_type: str, settings: dict[str, Any], attention: str) -> Any:
    """Build the model with the head that its kind has; T5's later versions have output rows of their own."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    from softprompt.backbones.folder import without_pooler

    kind: Any = AutoModelForCausalLM
    if family in _SEQ2SEQ:
        kind = AutoModelForSeq2SeqLM
    elif family in _ENCODERS:
        kind = AutoModel if family == "minilm" else AutoModelForMaskedLM
    config = AutoConfig.for_model(model_type, **settings)
    model = without_pooler(kind.from_config(config, attn_implementation=attention))
    if family in ("t5_gated", "mt5"):
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    return model


def _style(family: str) -> str:
    if family in _RECIPES:
        return "decoder"
    if family in _SEQ2SEQ:
        return "roberta" if family == "bart" else "t5"
    return {"modernbert": "modernbert", "roberta": "roberta", "xlm_roberta": "roberta"}.get(family, "bert")


_SPECIAL_IDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}


def _fill(model: Any, seed: int) -> None:
    """Fill every parameter from one seeded stream, norms near what they start as."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.15 * noise if parameter.dim() > 1 else parameter + 0.05 * noise)
