"""A model without its weights: built on torch's meta device from a configuration, in which tensors have shapes only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from softprompt.backbones.families import FAMILIES, Kind
from softprompt.backbones.folder import read_config, without_pooler
from softprompt.backbones.hub import config_folder, is_hub_id
from softprompt.backbones.packaged import PACKAGED
from softprompt.backbones.presets import ALIASES, PRESETS
from softprompt.backbones.quantised import quantisation_of
from softprompt.backbones.quiet import quiet_transformers
from softprompt.errors import BackboneError, UnknownNameError, UnsupportedBackboneError
from softprompt.registry import unknown_name


@dataclass(frozen=True, eq=False)
class Blank:
    """A model of shapes without numbers.

    Attributes:
        name: what the user asked for.
        model: a transformers model on the meta device, in `eval()`, frozen.
        kind: `decoder`, `encoder` or `encoder-decoder`.
        notes: what was left out of the configuration, a sentence each.
    """

    name: str
    model: Any
    kind: Kind
    notes: tuple[str, ...] = ()

    @property
    def config(self) -> Any:
        """Its transformers configuration."""
        return self.model.config

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        dtype: torch.dtype = self.model.get_input_embeddings().weight.dtype
        return dtype

    def shortened(self) -> tuple[Blank, Blank] | None:
        """Return the model with a few of its layers, and with half as many again; None where layers are not alike.

        What a step takes grows by the same with each layer that is alike, so two short models tell of a long one. A
        window changes no shape here, for masks are as wide as rows.
        """
        shapes = _layer_shapes(self.model)
        kinds = list(dict.fromkeys(getattr(self.config, "layer_types", None) or ["full_attention"]))
        alike = len(set(shapes.values())) == 1 and set(kinds) <= {"full_attention", "sliding_attention"}
        if not alike or self.kind == "encoder-decoder" or len(shapes) <= 3 * len(kinds):
            return None
        return self._of_layers(2 * len(kinds), kinds), self._of_layers(3 * len(kinds), kinds)

    def _of_layers(self, count: int, kinds: list[str]) -> Blank:
        config = deepcopy(self.config)
        config.num_hidden_layers = count
        if getattr(config, "layer_types", None):
            config.layer_types = [kinds[i % len(kinds)] for i in range(count)]
        with torch.device("meta"), quiet_transformers():
            attention = str(config._attn_implementation)
            model = type(self.model)._from_config(config, dtype=self.dtype, attn_implementation=attention)
        return replace(self, model=without_pooler(model).eval().requires_grad_(False))


def _layer_shapes(model: Any) -> dict[str, tuple[tuple[int, ...], ...]]:
    """The shapes of every layer's parameters, by its number."""
    found: dict[str, list[tuple[int, ...]]] = {}
    for path, parameter in model.named_parameters():
        numbers = [part for part in path.split(".") if part.isdigit()]
        if numbers:
            found.setdefault(numbers[0], []).append(tuple(parameter.shape))
    return {number: tuple(shapes) for number, shapes in found.items()}


def blank_model(
    source: str | Path | Mapping[str, Any],
    *,
    dtype: torch.dtype = torch.bfloat16,
    attention: str = "eager",
    revision: str | None = None,
) -> Blank:
    """Build a model of any size without its weights; nothing but a configuration is read.

    >>> sum(weight.numel() for weight in blank_model("gpt2").model.parameters())
    124439808

    Args:
        source: a preset's name, a folder, a `config.json` file, a hub id (its configuration alone is downloaded), or
            the parsed settings themselves.
        dtype: of the weights.
        attention: an attention implementation that transformers knows.
        revision: of a hub id.

    Raises:
        BackboneError: the configuration cannot be found, read or downloaded.
        UnknownNameError: a name that is none of these; the message offers the nearest preset.
        UnsupportedBackboneError: transformers has no model of that type, or cannot build one of these settings.
    """
    name = str(source.get("model_type")) if isinstance(source, Mapping) else str(source)
    found = source if isinstance(source, Mapping) else config_settings(source, revision)
    settings, notes = _of_text(found)
    with quiet_transformers():
        return _built(name, settings, notes, dtype, attention)


def config_settings(source: str | Path, revision: str | None = None) -> Mapping[str, Any]:
    """Return the settings that a name, a folder, a file or a hub id stands for.

    Raises:
        BackboneError: they cannot be found, read or downloaded.
        UnknownNameError: a name that is none of these; the message offers the nearest preset.
    """
    text, path = str(source), Path(source).expanduser()
    if path.is_dir():
        return read_config(path, text)
    if path.is_file():
        return _file(path, text)
    known = text.lower()
    if ALIASES.get(known, known) in PRESETS:
        return PRESETS[ALIASES.get(known, known)]
    if text in PACKAGED:
        from softprompt.backbones.sources import locate

        return read_config(locate(text), text)
    if is_hub_id(text):
        return read_config(config_folder(text, revision), text)
    unknown = unknown_name("model", text, [*PRESETS, *ALIASES, *PACKAGED])
    raise UnknownNameError(f"{unknown}. A hub id is written `owner/name`; a folder or a config.json by its path")


def _file(path: Path, text: str) -> Mapping[str, Any]:
    if path.suffix.lower() != ".json":
        raise BackboneError(f"`{text}` is no config.json; give one, the folder it is in, a hub id or a preset's name")
    try:
        settings = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BackboneError(f"`{text}` cannot be read as a configuration ({error}); take a fresh copy") from error
    if not isinstance(settings, dict):
        raise BackboneError(f"`{text}` holds no settings; take a fresh copy")
    return settings


def _of_text(settings: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The settings of the part that reads text, as unquantised weights."""
    notes: list[str] = []
    text = settings.get("text_config")
    if isinstance(text, Mapping):
        notes.append("The part that reads text is counted alone: no images, no sound.")
        settings = {"model_type": f"{settings.get('model_type')}_text", **text}
    if quantisation_of(settings) is not None:
        notes.append(f"The checkpoint is quantised by `{quantisation_of(settings)}`; it is counted as if it were not.")
    left_out = ("quantization_config", "auto_map", "dtype", "torch_dtype")
    kept = {name: value for name, value in settings.items() if name not in left_out}
    rope = kept.get("rope_parameters")
    if isinstance(rope, Mapping) and rope.get("rope_type") == "dynamic":  # it looks at numbers; shapes are the same
        kept["rope_parameters"] = {**rope, "rope_type": "default"}
    return kept, tuple(notes)


def _built(name: str, settings: dict[str, Any], notes: tuple[str, ...], dtype: torch.dtype, attention: str) -> Blank:
    from transformers import AutoConfig

    model_type = str(settings.pop("model_type", "none"))
    try:
        config = AutoConfig.for_model(model_type, **settings)
    except (ValueError, KeyError, TypeError) as error:
        raise UnsupportedBackboneError(
            f"`{name}` has model type `{model_type}`, and transformers cannot make its configuration "
            f"({_first_line(error)}); models that bring their own code are not reckoned with"
        ) from error
    kind, maker = _kind_of(model_type, config)
    try:
        with torch.device("meta"):
            model = maker.from_config(config, dtype=dtype, attn_implementation=attention)
    except (ValueError, RuntimeError, TypeError, AttributeError, ImportError, KeyError) as error:
        raise UnsupportedBackboneError(
            f"`{name}` (model type `{model_type}`) cannot be built without weights ({_first_line(error)}); give the "
            "config.json of a text model that transformers has"
        ) from error
    if model_type == "mt5" or getattr(config, "scale_decoder_outputs", True) is False:  # as T5 1.1: rows of its own
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    return Blank(name, without_pooler(model).eval().requires_grad_(False), kind, notes)


def _kind_of(model_type: str, config: Any) -> tuple[Kind, Any]:
    """What kind of model a configuration is of, and transformers' class for it, with a head for words."""
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    named = [str(name) for name in getattr(config, "architectures", None) or ()]
    masked = any(name.endswith("ForMaskedLM") for name in named)
    kind: Kind = "encoder-decoder" if config.is_encoder_decoder else "encoder" if masked else "decoder"
    if model_type in FAMILIES:
        kind = FAMILIES[model_type].kind
    if kind == "encoder":
        return kind, AutoModelForMaskedLM if masked or not named else AutoModel
    return kind, AutoModelForCausalLM if kind == "decoder" else AutoModelForSeq2SeqLM


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
