"""Tiny random backbones of every family, built on the spot: no file, no network, a few milliseconds each."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from softprompt.registry import unknown_name

if TYPE_CHECKING:
    import torch

    from softprompt.backbones.backbone import Backbone

VOCABULARY = 300
WINDOW = 8

_TEXT = """A gripping film with a warm heart: good, great, wonderful, positive.
A dull film without a plot: bad, awful, negative.
Text: the actors are great and the music is good. Label: positive.
Review: the story is bad and the ending worse. Sentiment: negative.
WINNER! Reply now to claim your free prize: spam. See you at home for dinner tonight: ham.
Yes or no? True, false, neutral."""

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

TINY_FAMILIES = tuple(name for name in _RECIPES if name not in ("phi3_longrope", "llama_dynamic"))
"""Names for `tiny_backbone` that the one batch layout serves without further care."""
SPECIAL_FAMILIES = ("phi3_longrope", "llama_dynamic")
"""Names for `tiny_backbone` whose rotary positions depend on the length of the batch."""


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
        family: one of `TINY_FAMILIES` or `SPECIAL_FAMILIES`.
        seed: of the weights.
        dtype: of the weights; None: fp32.
        window: columns of the sliding window, where the family has one; None: 8.
        attention: an attention implementation; None: the family's.
        config_overrides: settings of the family's transformers configuration.

    Returns:
        A frozen backbone on the CPU.

    Raises:
        UnknownNameError: no recipe has that name.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from softprompt.backbones.attention import choose_attention
    from softprompt.backbones.backbone import Backbone
    from softprompt.backbones.families import FAMILIES

    if family not in _RECIPES:
        raise unknown_name("tiny backbone", family, _RECIPES)
    model_type, settings = _RECIPES[family]
    settings = {**_SPECIAL_IDS, "vocab_size": VOCABULARY, "tie_word_embeddings": False, **settings}
    if window is not None and "sliding_window" in settings:
        settings["sliding_window"] = window
    config = AutoConfig.for_model(model_type, **{**settings, **config_overrides})
    implementation = choose_attention(FAMILIES[model_type], attention, "cpu")
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation)
    _fill(model, seed)
    return Backbone(model.to(dtype or torch.float32), tiny_tokenizer(), name=f"tiny-{family}")


_SPECIAL_IDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}


def _fill(model: Any, seed: int) -> None:
    """Fill every parameter from one seeded stream, norms near what they start as."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.15 * noise if parameter.dim() > 1 else parameter + 0.05 * noise)


def tiny_tokenizer() -> Any:
    """Return a byte-level BPE tokenizer of 300 tokens, trained on a few lines: any text can be said in it."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=_trained(),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


@cache
def _trained() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT.splitlines(), trainer)
    return tokenizer
