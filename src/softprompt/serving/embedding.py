"""Rows as other engines take them: embedded whole, virtual tokens where they stand; and what cannot go there."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from softprompt.backbones.backbone import Backbone
from softprompt.errors import IncompatiblePromptError, UnsupportedBackboneError
from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.readings import EncodedRow
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.shapes import Float
from softprompt.tasks.free_text import Text
from softprompt.tasks.readout import LabelWords

Engine = Literal["vllm", "sglang"]
"""Engines that take embedded rows."""

TITLES = {"vllm": "vLLM", "sglang": "SGLang"}
_SCALED_AGAIN = ("gemma", "gemma2")
_INSTEAD = "train one that it can carry: softprompt train ... --exportable"


def embed_row(backbone: Backbone, bound: BoundPrompt, row: EncodedRow) -> Float[Tensor, "T D"]:
    """Return the prefix of a prompt and one row behind it, embedded, in the compute dtype.

    Args:
        backbone: whose embedding module is used, the scale of its family included.
        bound: the prompt.
        row: the row's own tokens, `PromptedModel.encode(fields, bound)`.
    """
    return embed_tokens(backbone, bound, (*bound.template.prefix, *row.ids))


def embed_tokens(backbone: Backbone, bound: BoundPrompt, tokens: tuple[int, ...]) -> Float[Tensor, "T D"]:
    """Return tokens embedded; the marker -1-k is virtual token k of the prompt."""
    ids = torch.tensor(tokens, device=backbone.device)
    with torch.inference_mode():
        embedded = backbone.embed(ids.clamp(min=0))
        soft = bound.virtual_tokens
        if soft is None or not len(soft):
            return embedded
        rows = soft.to(embedded.device, embedded.dtype)[(-1 - ids).clamp(min=0)]
        return torch.where((ids < 0)[:, None], rows, embedded)


def require_embeddable(prompt: SoftPrompt | BoundPrompt, engine: Engine) -> None:
    """Refuse a prompt that is more than rows among a row's tokens, read by the model's own words.

    Raises:
        IncompatiblePromptError: keys and values, learned rows, rows of an encoder, or answers that are neither label
            words nor text.
    """
    title = TITLES[engine]
    for site in sorted(prompt.tensors):
        if site != "input":
            raise IncompatiblePromptError(
                f"the prompt cannot go to {title}: it has {_WHAT[site.partition('.')[0]]} (`{site}`), and {title} "
                f"takes rows at the input of a decoder only; {_INSTEAD}"
            )
    if not isinstance(prompt.readout, LabelWords | Text):
        raise IncompatiblePromptError(
            f"the prompt cannot go to {title}: its answers are read as `{prompt.readout.kind}`, and {title} gives "
            "text and the probabilities of tokens; use it with softprompt itself"
        )


def require_engine(backbone: Backbone, engine: Engine) -> None:
    """Refuse a backbone whose embedded rows an engine would not run as we do.

    Raises:
        UnsupportedBackboneError: no decoder; rows that are projected before the first layer; rotary factors that
            depend on the row's length; or an engine that scales given rows once more.
    """
    title, name = TITLES[engine], f"`{backbone.name}` ({backbone.family.title}, {backbone.kind})"
    if backbone.kind != "decoder":
        raise UnsupportedBackboneError(f"{title} takes embedded rows of decoders, and {name} is none; use softprompt")
    hidden = int(backbone.model.config.hidden_size)
    if backbone.embedding_size != hidden:
        raise UnsupportedBackboneError(
            f"{title} takes rows of the hidden size {hidden}, and the embeddings of {name} have "
            f"{backbone.embedding_size} numbers; use softprompt"
        )
    if backbone.position_switch is not None:
        raise UnsupportedBackboneError(
            f"{title} turns the keys of {name} by factors of its longest row (longrope), not of each row's own length; "
            "use softprompt"
        )
    if engine == "sglang" and backbone.model_type in _SCALED_AGAIN:
        raise UnsupportedBackboneError(
            f"{title} multiplies embedded rows of {name} by the root of the hidden size once more; use vLLM, or "
            "softprompt"
        )


_WHAT = {
    "layers": "keys and values in every layer",
    "readout": "learned output rows",
    "encoder": "rows for an encoder",
}
