"""Where the sub-layers of each family project: what adapters stand behind and what (IA)³ scales."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import nn

    from softprompt.backbones.backbone import Backbone


class Sublayers(NamedTuple):
    """Names of modules inside one layer.

    Attributes:
        outputs: the projections back to the hidden size: of attentions, then of the MLP.
        keys_values: what makes keys and values.
        inner: what takes the MLP's inner activations.
    """

    outputs: tuple[str, ...]
    keys_values: tuple[str, ...]
    inner: str

    def pattern(self, names: tuple[str, ...]) -> str:
        """Return a regular expression for the full names of these modules in every layer."""
        return rf".*\.\d+\.(?:{'|'.join(map(re.escape, names))})"


_LLAMA = Sublayers(("self_attn.o_proj", "mlp.down_proj"), ("self_attn.k_proj", "self_attn.v_proj"), "mlp.down_proj")
_NEOX = Sublayers(("attention.dense", "mlp.dense_4h_to_h"), ("attention.query_key_value",), "mlp.dense_4h_to_h")
_BLOOM = Sublayers(
    ("self_attention.dense", "mlp.dense_4h_to_h"), ("self_attention.query_key_value",), "mlp.dense_4h_to_h"
)
_BERT = Sublayers(
    ("attention.output.dense", "output.dense"), ("attention.self.key", "attention.self.value"), "output.dense"
)

SUBLAYERS: Mapping[str, Sublayers] = {
    **dict.fromkeys(("gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3"), _LLAMA),
    "phi3": Sublayers(("self_attn.o_proj", "mlp.down_proj"), ("self_attn.qkv_proj",), "mlp.down_proj"),
    "gpt2": Sublayers(("attn.c_proj", "mlp.c_proj"), ("attn.c_attn",), "mlp.c_proj"),
    "gpt_neox": _NEOX,
    "opt": Sublayers(("self_attn.out_proj", "fc2"), ("self_attn.k_proj", "self_attn.v_proj"), "fc2"),
    "bloom": _BLOOM,
    "falcon": _BLOOM,
    **dict.fromkeys(("bert", "roberta", "xlm-roberta"), _BERT),
}
"""By model type."""


def unknown_layers(backbone: Backbone) -> str | None:
    """Say that the layers of a backbone are not known here; None: they are."""
    if backbone.model_type in SUBLAYERS:
        return None
    return (
        f"where the sub-layers of `{backbone.name}` ({backbone.family.title}) end is not known; known model types: "
        f"{', '.join(sorted(SUBLAYERS))}"
    )


def named(model: Any, pattern: str) -> dict[str, nn.Module]:
    """Return the modules of a model whose full names match a regular expression, by name, in order."""
    return {name: module for name, module in model.named_modules() if re.fullmatch(pattern, name)}
