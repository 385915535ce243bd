"""`Backbone`: a frozen transformer with its tokenizer, seen as embed, run and read out."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from softprompt.backbones.families import Family, Limits, family_of, limits_of
from softprompt.backbones.fingerprint import Fingerprint, architecture_digest, tokenizer_digest, weights_digest
from softprompt.backbones.folder import read_folder
from softprompt.backbones.hardware import choose_device, choose_dtype
from softprompt.backbones.sources import locate
from softprompt.shapes import Float, Int

KeyValues = list[tuple[Tensor, Tensor]]
"""One (keys, values) per layer, each [B, H, S, K]; heads and head size may differ by layer."""

# Output rows are turned to fp32 this many at a time: a vocabulary of 262,144 rows costs no second copy of itself.
_ROWS_AT_ONCE = 16_384
_SAMPLED_ROWS = 4_096


class Backbone:
    """A frozen causal transformer and its tokenizer.

    Its seams are `inputs_embeds`, `past_key_values`, `position_ids` and rows of the output matrix; nothing inside the
    transformer is hooked or patched. It stays in `eval()`: dropout costs points, and training mode drops the cache.

    Args:
        model: a transformers causal language model; frozen and put into `eval()` here.
        tokenizer: its tokenizer.
        name: what the user called it.
        weights: returns the digest of the weights; None: computed from `model` when first needed.

    Raises:
        UnsupportedBackboneError: a family or a rotary scaling that cannot be served right.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str, weights: Callable[[], str] | None = None) -> None:
        self.name = name
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        config = model.config
        self.model_type = str(config.model_type)
        self.attention = str(config._attn_implementation)
        self.family: Family = family_of(config.to_dict(), name)
        self.limits: Limits = limits_of(self.family, config, name)
        self._embeddings = model.get_input_embeddings()
        self._rows = model.get_output_embeddings()
        self._softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self._weights = weights or (lambda: weights_digest(model))
        self.embedding_size = int(self._embeddings.weight.shape[1])
        self.vocab_size = int(self._embeddings.weight.shape[0])
        self.num_layers = int(config.num_hidden_layers)
        self.bos: int | None = tokenizer.bos_token_id
        self.eos: int | None = tokenizer.eos_token_id
        # Padding is masked wherever it stands, so any id will do where the tokenizer has none.
        self.pad = int(next(i for i in (tokenizer.pad_token_id, self.eos, 0) if i is not None))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return torch.device(self._embeddings.weight.device)

    @property
    def dtype(self) -> torch.dtype:
        """The compute dtype: that of the frozen weights."""
        dtype: torch.dtype = self._embeddings.weight.dtype
        return dtype

    @property
    def max_positions(self) -> int | None:
        """The longest row in tokens, soft ones included; None where nothing limits it."""
        return self.limits.max_positions

    @property
    def position_switch(self) -> int | None:
        """Longrope's original length, else None.

        A batch with any position at or beyond it uses the long rotary factors for *all* its rows, and keys made with
        the short ones do not fit it: batch rows by side; on the long side make the shared prefix with one dummy
        token more, at this position, and drop the dummy's keys and values.
        """
        return self.limits.position_switch

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """What a prompt remembers of the backbone it was trained on."""
        return Fingerprint(
            architecture=architecture_digest(self.model),
            tokenizer=tokenizer_digest(self.tokenizer, self.vocab_size),
            weights=self._weights(),
            embedding_scale=self.family.embedding_scale,
        )

    @cached_property
    def embedding_rms(self) -> float:
        """Root mean square of embedded tokens (the module's output) over up to 4,096 rows of the real vocabulary."""
        real = sorted({i for i in self.tokenizer.get_vocab().values() if i < self.vocab_size})
        step = -(-len(real) // _SAMPLED_ROWS)
        ids = torch.tensor(real[::step], device=self.device)
        return float(self.embed(ids).float().pow(2).mean().sqrt())

    def embed(self, ids: Int[Tensor, "*N"]) -> Float[Tensor, "*N D"]:
        """Return what the embedding module makes of token ids, in the compute dtype.

        Args:
            ids: token ids below `vocab_size`, any shape.

        Returns:
            The embedded tokens, one more axis of size D.
        """
        embedded: Tensor = self._embeddings(ids.to(self.device))
        return embedded

    def run(
        self,
        embeddings: Float[Tensor, "B T D"],
        *,
        mask: Int[Tensor, "B _"],
        positions: Int[Tensor, "B T"],
        past: KeyValues | None = None,
        keep: bool = False,
    ) -> tuple[Float[Tensor, "B T Dout"], KeyValues | None]:
        """Run the transformer without its head; gradients flow to `embeddings` and `past`.

        Rows must be contiguous: between the first and the last real slot of a row, `past` included, no padding
        (sliding windows count columns). Positions are those of the mask: `(mask.cumsum(1) - 1).clamp(0)[:, S:]`.

        Args:
            embeddings: embedded tokens or virtual tokens; cast to the compute dtype.
            mask: 1 where a slot is real, [B, S+T]: over `past` and `embeddings`.
            positions: of each of the T slots, from 0.
            past: keys and values of the S slots before, every layer with all S columns; views expanded over B are
                fine, and none is written to.
            keep: return the keys and values of all S+T slots.

        Returns:
            The last hidden states (after the final norm), and the keys and values if `keep`, else None.
        """
        cache = _cache_of(past, self.dtype) if past or keep else None
        output = self.model.base_model(
            inputs_embeds=embeddings.to(self.dtype),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        kept = [(layer.keys, layer.values) for layer in cache.layers] if keep and cache is not None else None
        return output.last_hidden_state, kept

    def logits(self, hidden: Float[Tensor, "M Dout"], ids: Int[Tensor, " C"] | None = None) -> Float[Tensor, "M C"]:
        """Return the logits of hidden states for some output rows only, in fp32.

        Args:
            hidden: hidden states from `run`.
            ids: the output rows wanted; None: all V of them.

        Returns:
            logits, bias and final soft cap of the family included.
        """
        weight, bias = self._rows.weight, getattr(self._rows, "bias", None)
        if ids is not None:
            weight, bias = weight[ids], None if bias is None else bias[ids]
        hidden = hidden.float()
        out = torch.cat([hidden @ rows.float().T for rows in weight.split(_ROWS_AT_ONCE)], dim=-1)
        if bias is not None:
            out = out + bias.float()
        return out if self._softcap is None else self._softcap * torch.tanh(out / self._softcap)

    def __repr__(self) -> str:
        return f"Backbone({self.name!r}, {self.model_type}, {str(self.dtype).removeprefix('torch.')}, {self.device})"


def _cache_of(past: KeyValues | None, dtype: torch.dtype) -> Any:
    """Build a `DynamicCache` that starts at `past`.

    It is made without the model's configuration: with it, layers with a sliding window keep W-1 columns only, and a
    prefix padded on the left is then silently wrong. The tensors are put in as they are, which saves the copy that
    `update` would make of a view expanded over the batch.
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer

    cache = DynamicCache()
    for keys, values in past or ():
        layer = DynamicLayer()
        keys, values = keys.to(dtype), values.to(dtype)
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


def load_backbone(
    source: str | Path,
    *,
    device: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    attention: str | None = None,
) -> Backbone:
    """Load a frozen backbone by a packaged name, a hub id, a folder or a `.gguf` file.

    Args:
        source: `gemma-3-270m`, `owner/name`, a folder that `save_pretrained` wrote, or a `.gguf` file, which is
            dequantised once into the cache.
        device: `cpu`, `cuda` or `cuda:N`; None: the GPU if there is one.
        dtype: `bf16` or `fp32`; None: bf16 where the hardware computes in it.
        revision: a branch, tag or commit of a hub id.
        attention: `grouped`, `sdpa` or `eager`; None: the fastest for the family and the device.

    Raises:
        BackboneError: the source cannot be found, read or downloaded.
        ConfigError: an argument that cannot be.
        MissingExtraError: it needs a package that is not installed.
        StorageError: the cache of converted backbones cannot be written.
        UnknownNameError: a name that is nothing known; the message offers the nearest.
        UnsupportedBackboneError: a family or a rotary scaling that cannot be served right.
    """
    chosen = choose_device(device)
    compute = choose_dtype(dtype, chosen)
    parts = read_folder(locate(source, revision), str(source), device=chosen, dtype=compute, attention=attention)
    return Backbone(parts.model, parts.tokenizer, name=str(source), weights=parts.weights)
