"""The decoder families that are served, and what is special in each.

Whether a family is served right is settled by the conformance suite, not by its name: an entry here is a promise that
the suite runs on it. What cannot be served right is refused by name, before any weight is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from softprompt.errors import UnsupportedBackboneError

Positions = Literal["rope", "learned", "alibi"]

# Rotary frequencies that are the same in every call; `dynamic` and `longrope` depend on the length and get more care.
STATIC_ROPE = ("default", "linear", "llama3", "yarn")
ROPE_TYPES = (*STATIC_ROPE, "dynamic", "longrope")


@dataclass(frozen=True)
class Family:
    """What softprompt has to know about one kind of decoder.

    Args:
        model_type: transformers' name of it, as written in `config.json`.
        title: how people call it.
        positions: where a position comes from: `rope` and `learned` read `position_ids`, `alibi` reads the mask.
        attentions: every implementation of attention that gives this family's own result, the fastest on a CPU first.
        embedding_scale: who scales embedded tokens; `module`: the embedding module does, nothing is multiplied by hand.
    """

    model_type: str
    title: str
    positions: Positions = "rope"
    attentions: tuple[str, ...] = ("grouped", "sdpa", "eager")
    embedding_scale: str = "module"


FAMILIES: Mapping[str, Family] = {
    family.model_type: family
    for family in (
        Family("gemma2", "Gemma 2", attentions=("eager",)),  # the others have no soft cap on attention scores
        Family("gemma3_text", "Gemma 3"),
        Family("llama", "Llama"),
        Family("qwen2", "Qwen 2"),
        Family("qwen3", "Qwen 3"),
        Family("mistral", "Mistral"),
        Family("phi3", "Phi 3"),
        Family("gpt2", "GPT-2", positions="learned"),
        Family("gpt_neox", "GPT-NeoX"),
        Family("opt", "OPT", positions="learned"),
        Family("bloom", "Bloom", positions="alibi", attentions=("eager",)),  # no other in transformers
        Family("falcon", "Falcon", attentions=("sdpa", "eager")),  # ALiBi where the checkpoint says so
    )
}


@dataclass(frozen=True)
class Limits:
    """How far one checkpoint reaches, and what to say about it.

    Args:
        positions: where its positions come from.
        max_positions: longest row in tokens, soft ones included; None where nothing limits it.
        position_switch: longrope's original length: rows on different sides of it never share a batch; else None.
        note: a sentence for the user; empty if there is nothing to say.
    """

    positions: Positions
    max_positions: int | None
    position_switch: int | None = None
    note: str = ""


def family_of(config: Mapping[str, Any], source: str) -> Family:
    """Return the family that a `config.json` belongs to.

    Args:
        config: the parsed file.
        source: what the user asked for, for the message.

    Raises:
        UnsupportedBackboneError: the family is not in the table, or the checkpoint is quantised, an encoder, an
            encoder-decoder or multimodal.
    """
    model_type = str(config.get("model_type") or "none")
    reason = _refusal(model_type, config)
    if reason is None:
        return FAMILIES[model_type]
    known = ", ".join(sorted(FAMILIES))
    raise UnsupportedBackboneError(
        f"`{source}` has model type `{model_type}`, {reason}; supported model types: {known}"
    )


def _refusal(model_type: str, config: Mapping[str, Any]) -> str | None:
    """Say why a checkpoint is not served, or None if it is."""
    if config.get("is_encoder_decoder"):
        return "an encoder-decoder"
    if "text_config" in config or "vision_config" in config or "audio_config" in config:
        text = f"{model_type}_text"
        return "a model of more than text" + (
            f" (its text part alone, `{text}`, is served)" if text in FAMILIES else ""
        )
    if model_type not in FAMILIES:
        return "which softprompt does not serve"
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "unknown")
        return (
            f"with weights quantised by `{method}`, through which gradients are not exact: take the original or a GGUF"
        )
    return None


def limits_of(family: Family, config: Any, source: str) -> Limits:
    """Return how far a checkpoint of `family` reaches.

    Args:
        family: from `family_of`.
        config: the transformers configuration object.
        source: what the user asked for, for the message.

    Raises:
        UnsupportedBackboneError: a rotary scaling that is not known to be served right.
    """
    if family.positions == "alibi" or getattr(config, "alibi", False):
        return Limits("alibi", None)
    longest = int(config.max_position_embeddings)
    if family.positions == "learned":
        return Limits("learned", longest)
    rope = list(_rope_parameters(config))
    kinds = [str(entry.get("rope_type", "default")) for entry in rope]
    for kind in kinds:
        if kind not in ROPE_TYPES:
            raise UnsupportedBackboneError(
                f"`{source}` scales its rotary positions by `{kind}`, which is not known to be served right; "
                f"supported: {', '.join(ROPE_TYPES)}"
            )
    originals = [int(entry.get("original_max_position_embeddings") or longest) for entry in rope]
    if "dynamic" in kinds:
        longest = min(longest, *originals)
        note = f"rows end at {longest} tokens: beyond, `dynamic` rotary scaling depends on the calls made before"
        return Limits("rope", longest, note=note)
    if "longrope" in kinds:
        switch = min(original for original, kind in zip(originals, kinds, strict=True) if kind == "longrope")
        note = f"rows up to {switch} tokens and longer ones use different rotary factors and are batched apart"
        return Limits("rope", longest, switch, note)
    return Limits("rope", longest)


def _rope_parameters(config: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the rotary settings of a configuration: one, or one a kind of layer."""
    settings = getattr(config, "rope_parameters", None) or {}
    nested = [entry for entry in settings.values() if isinstance(entry, Mapping)]
    yield from nested or [settings]
