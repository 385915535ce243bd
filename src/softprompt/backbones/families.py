"""The families that are served, decoders, encoders and encoder-decoders, and what is special in each.

Whether a family is served right is settled by the conformance suite, not by its name: an entry here is a promise that
the suite runs on it. What cannot be served right is refused by name, before any weight is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from softprompt.backbones.quantised import quantisation_refusal
from softprompt.errors import UnsupportedBackboneError

Kind = Literal["decoder", "encoder", "encoder-decoder"]
KINDS: tuple[Kind, ...] = ("decoder", "encoder", "encoder-decoder")
Positions = Literal["rope", "learned", "alibi", "relative"]
Capability = Literal["shared-prefix", "deep-prompts", "mask-readout", "generation"]

# Rotary frequencies that are the same in every call; `dynamic` and `longrope` depend on the length and get more care.
STATIC_ROPE = ("default", "linear", "llama3", "yarn")
ROPE_TYPES = (*STATIC_ROPE, "dynamic", "longrope")


@dataclass(frozen=True)
class Family:
    """What softprompt has to know about one kind of transformer.

    Args:
        model_type: transformers' name of it, as written in `config.json`.
        title: how people call it.
        positions: where a position comes from: `rope` and `learned` read `position_ids`, `alibi` reads the mask,
            `relative` counts columns.
        attentions: every implementation of attention that gives this family's own result, the fastest on a CPU first.
        embedding_scale: who scales embedded tokens; `module`: the embedding module does, nothing is multiplied by hand.
        kind: `decoder`, `encoder` or `encoder-decoder`.
        deep_prompts: its layers take keys and values from outside (of an encoder-decoder: the decoder's). Where this is
            False, transformers takes the argument and ignores it without a word.
        fp16: its activations stay within the range of fp16.
        padded: its positions begin behind the padding token's id.
    """

    model_type: str
    title: str
    positions: Positions = "rope"
    attentions: tuple[str, ...] = ("grouped", "sdpa", "eager")
    embedding_scale: str = "module"
    kind: Kind = "decoder"
    deep_prompts: bool = True
    fp16: bool = True
    padded: bool = False


def _encoder(model_type: str, title: str, **settings: Any) -> Family:
    return Family(model_type, title, **{"positions": "learned", **settings}, kind="encoder", attentions=_PLAIN)


def _seq2seq(model_type: str, title: str, **settings: Any) -> Family:
    return Family(model_type, title, **settings, kind="encoder-decoder", attentions=_PLAIN)


# `grouped` knows neither T5's bias of positions nor, with no mask at all, that everything sees everything.
_PLAIN = ("sdpa", "eager")


FAMILIES: Mapping[str, Family] = {
    family.model_type: family
    for family in (
        Family("gemma2", "Gemma 2", attentions=("eager",), fp16=False),  # the others have no soft cap on scores
        Family("gemma3_text", "Gemma 3", fp16=False),
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
        _encoder("bert", "BERT"),
        _encoder("roberta", "RoBERTa", padded=True),
        _encoder("xlm-roberta", "XLM-RoBERTa", padded=True),
        _encoder("distilbert", "DistilBERT", deep_prompts=False),
        _encoder("modernbert", "ModernBERT", positions="rope", deep_prompts=False),
        _seq2seq("t5", "T5", positions="relative", fp16=False),
        _seq2seq("mt5", "mT5", positions="relative", fp16=False),
        _seq2seq("bart", "BART", positions="learned"),
    )
}

_UNFIT: Mapping[str, str] = {
    "deberta": "whose disentangled attention takes no keys and values from outside; BERT and RoBERTa do",
    "deberta-v2": "whose disentangled attention takes no keys and values from outside; BERT and RoBERTa do",
    "umt5": "whose output transformers scales even where the checkpoint was made without; take mT5",
}


@dataclass(frozen=True)
class Limits:
    """How far one checkpoint reaches, and what to say about it.

    Args:
        positions: where its positions come from.
        max_positions: longest row in tokens, soft ones included; None where nothing limits it.
        position_switch: longrope's original length: rows on different sides of it never share a batch; else None.
        note: a sentence for the user; empty if there is nothing to say.
        first_position: what the first slot of a row is numbered.
    """

    positions: Positions
    max_positions: int | None
    position_switch: int | None = None
    note: str = ""
    first_position: int = 0


def family_of(config: Mapping[str, Any], source: str) -> Family:
    """Return the family that a `config.json` belongs to.

    Args:
        config: the parsed file.
        source: what the user asked for, for the message.

    Raises:
        UnsupportedBackboneError: the family is not in the table, or the checkpoint is multimodal, or an encoder set
            up as something else, or quantised in a way that gradients do not pass.
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
    if "text_config" in config or "vision_config" in config or "audio_config" in config:
        text = f"{model_type}_text"
        return "a model of more than text" + (
            f" (its text part alone, `{text}`, is served)" if text in FAMILIES else ""
        )
    if model_type in _UNFIT:
        return _UNFIT[model_type]
    if model_type not in FAMILIES:
        return ("an encoder-decoder " if config.get("is_encoder_decoder") else "") + "which softprompt does not serve"
    if FAMILIES[model_type].kind == "encoder" and config.get("is_decoder"):
        return "set up as a decoder (`is_decoder`), which is not what its family is served as"
    positions = config.get("position_embedding_type") or "absolute"
    if FAMILIES[model_type].kind == "encoder" and positions != "absolute":
        return f"with positions of type `{positions}`, which transformers no longer computes"
    return quantisation_refusal(config)


def capabilities_of(family: Family, *, words: bool, mask: bool) -> frozenset[Capability]:
    """Return what a checkpoint can be asked to do.

    >>> sorted(capabilities_of(FAMILIES["distilbert"], words=True, mask=True))
    ['mask-readout']

    Args:
        family: from `family_of`.
        words: it has an output row for every token.
        mask: its tokenizer has a mask token.
    """
    able: dict[Capability, bool] = {
        "shared-prefix": family.kind == "decoder",
        "deep-prompts": family.deep_prompts,
        "mask-readout": family.kind == "encoder" and words and mask,
        "generation": family.kind != "encoder" and words,
    }
    return frozenset(name for name, is_able in able.items() if is_able)


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
    if family.positions == "relative":
        return Limits("relative", None)
    longest = int(config.max_position_embeddings)
    if family.positions == "learned":
        first = int(config.pad_token_id) + 1 if family.padded else 0
        return Limits("learned", longest - first, first_position=first)
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
