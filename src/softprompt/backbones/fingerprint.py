"""Fingerprints: what a prompt remembers of its backbone, and what may differ between two copies of one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from softprompt.backbones.families import FAMILIES

Difference = Literal["architecture", "tokenizer", "weights", "embedding_scale"]

# Settings that change what the same weights compute. Sizes are not here: the shapes of the parameters say them.
_BEHAVIOUR = (
    "activation", "alibi", "attn_logit_softcapping", "do_layer_norm_before", "final_logit_softcapping",
    "hidden_act", "hidden_activation", "activation_function", "layer_norm_epsilon", "layer_norm_eps", "layer_types",
    "new_decoder_architecture", "num_attention_heads", "num_key_value_heads", "num_kv_heads", "parallel_attn",
    "query_pre_attn_scalar", "rms_norm_eps", "rope_parameters", "scale_attn_by_inverse_layer_idx",
    "scale_attn_weights", "sliding_window", "use_parallel_residual", "apply_residual_connection_post_layernorm",
)  # fmt: skip
# The same of the other kinds. They are kept apart, so that the digest of no decoder changes.
_BEHAVIOUR_OF_OTHERS = (
    "decoder_attention_heads", "decoder_start_token_id", "dense_act_fn", "encoder_attention_heads", "is_gated_act",
    "norm_eps", "classifier_activation", "pad_token_id", "relative_attention_max_distance", "scale_decoder_outputs",
    "relative_attention_num_buckets", "scale_embedding",
)  # fmt: skip

# Spaces, newlines, digits, accents, scripts, emoji, markup, code: where tokenizers of one vocabulary come apart.
_PROBES = (
    "Hello world", " Hello  world\n\n", "1234567890 3.14", "naïve café ÀÉ", "Привет, мир", "你好，世界", "こんにちは",
    "مرحبا", "🙂👩‍💻", "def f(x):\n\treturn x**2", "<b>bold</b> &amp; [INST]", "don't WON'T it's", "\u00a0\u200b\ufb01",
)  # fmt: skip


@dataclass(frozen=True)
class Fingerprint:
    """Four digests by which two backbones are told apart.

    Args:
        architecture: of the family, the parameters' names and shapes, and the settings that change their meaning.
        tokenizer: of the vocabulary, and of how fixed probe strings are tokenised.
        weights: of every parameter, rounded to bf16.
        embedding_scale: who scales embedded tokens.
    """

    architecture: str
    tokenizer: str
    weights: str
    embedding_scale: str

    def to_json(self) -> dict[str, str]:
        """Return the fingerprint as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Fingerprint:
        """Read what `to_json` wrote.

        >>> Fingerprint.from_json({"architecture": "a", "tokenizer": "b", "weights": "c", "embedding_scale": "module"})
        Fingerprint(architecture='a', tokenizer='b', weights='c', embedding_scale='module')

        Raises:
            ValueError: a part is missing or is not text.
        """
        parts = {field.name: data.get(field.name) for field in fields(cls)}
        for name, value in parts.items():
            if not isinstance(value, str):
                raise ValueError(f"a backbone fingerprint needs text under `{name}`, found {value!r}")
        return cls(**{name: str(value) for name, value in parts.items()})

    def differs(self, other: Fingerprint) -> Difference | None:
        """Return the gravest part in which two backbones differ, or None if they are the same.

        >>> here = Fingerprint("a", "b", "c", "module")
        >>> here.differs(Fingerprint("a", "b", "other", "module"))
        'weights'
        """
        order: tuple[Difference, ...] = ("architecture", "tokenizer", "embedding_scale", "weights")
        return next((name for name in order if getattr(self, name) != getattr(other, name)), None)


def canonical_digest(value: Any) -> str:
    """Return the sha256, in hex, of a JSON value written in the one canonical way.

    >>> canonical_digest({"b": 1, "a": 2}) == canonical_digest({"a": 2, "b": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def architecture_digest(model: Any) -> str:
    """Return the digest of a model's family, parameter names and shapes, and the settings that change their meaning."""
    shapes = {name: _shape(parameter) for name, parameter in model.named_parameters()}
    names = _BEHAVIOUR + (() if _is_decoder(model) else _BEHAVIOUR_OF_OTHERS)
    settings = {name: getattr(model.config, name, None) for name in names}
    kept = {name: _rounded(value) for name, value in settings.items() if value is not None}
    return canonical_digest({"family": model.config.model_type, "shapes": shapes, "settings": kept})


def _is_decoder(model: Any) -> bool:
    family = FAMILIES.get(model.config.model_type)
    return family is None or family.kind == "decoder"


def _shape(parameter: Any) -> list[int]:
    """The shape of a parameter; of one packed into 4 bits, the shape that it stands for."""
    return list(getattr(getattr(parameter, "quant_state", None), "shape", parameter.shape))


def _rounded(value: Any) -> Any:
    """Round floats to six digits: a GGUF holds 1e-6 as 9.99999997e-07, and that is the same model."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {str(key): _rounded(entry) for key, entry in value.items() if entry is not None}
    return [_rounded(entry) for entry in value] if isinstance(value, list | tuple) else value


def tokenizer_digest(tokenizer: Any, vocab_size: int) -> str:
    """Return the digest of a tokenizer's vocabulary and of how it tokenises fixed probe strings.

    Tokens beyond the embedding table are left out: a hub copy of Gemma 3 names one (for images) that a GGUF lacks.
    """
    vocabulary = sorted((index, token) for token, index in tokenizer.get_vocab().items() if index < vocab_size)
    probes = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in _PROBES]
    return canonical_digest([vocabulary, probes])


def weights_digest(model: Any) -> str:
    """Return the digest of all parameters, by sorted name, rounded to bf16; tied ones count once.

    BART's output bias counts too, which is a buffer.
    """
    import torch

    digest = hashlib.sha256()
    bias = [(name, buffer) for name, buffer in model.named_buffers() if name == "final_logits_bias"]
    for name, parameter in sorted([*model.named_parameters(), *bias], key=lambda named: named[0]):
        digest.update(canonical_digest([name, list(parameter.shape)]).encode())
        values = parameter.detach().to(device="cpu", dtype=torch.bfloat16).contiguous()
        digest.update(values.view(torch.int16).numpy())
    return digest.hexdigest()
