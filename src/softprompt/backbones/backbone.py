"""`Backbone`: a frozen transformer with its tokenizer, seen as embed, run and read out."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from softprompt.backbones.attention import GROUPED
from softprompt.backbones.bidirectional import Pooling, key_values_of, pool, run_encoder
from softprompt.backbones.caches import DecoderPast, Growing, KeyValues, cache_of, kept_in
from softprompt.backbones.families import Capability, Family, Kind, Limits, capabilities_of, family_of, limits_of
from softprompt.backbones.fingerprint import Fingerprint, architecture_digest, tokenizer_digest, weights_digest
from softprompt.backbones.folder import Parts, read_folder
from softprompt.backbones.fusing import fuse, unfused
from softprompt.backbones.hardware import choose_device, choose_dtype
from softprompt.backbones.heads import Head, head_of
from softprompt.backbones.seq2seq import decode_tokens, encode_rows
from softprompt.backbones.sharding import in_turn, is_sharded, tied
from softprompt.backbones.sources import locate
from softprompt.backbones.special_tokens import SpecialTokens
from softprompt.backbones.unpadded import is_worth_packing, run_packed
from softprompt.errors import UnsupportedBackboneError
from softprompt.shapes import Float, Int

__all__ = ["Backbone", "DecoderPast", "Growing", "KeyValues", "load_backbone"]

_SAMPLED_ROWS = 4_096
_PASS_COST = {"cpu": 64, "cuda": 4_096}


class Backbone:
    """A frozen transformer and its tokenizer: a decoder, an encoder or an encoder-decoder.

    Its seams are `inputs_embeds`, `past_key_values`, `position_ids`, the attention mask and rows of the output matrix;
    nothing inside the transformer is hooked. On a CPU, faster norms and activations of the same numbers take the places
    of transformers' own (`backbones/fusing.py`). It stays in `eval()`: dropout costs points, and training mode drops
    the cache. Decoders and encoders `run`; an encoder-decoder has `encode` and `decode`. What a family's seams cannot
    carry is not in `capabilities`, and is refused by name when it is asked for all the same.

    Args:
        model: a transformers model with a head for words (an encoder may come without); frozen and put into `eval()`.
        tokenizer: its tokenizer.
        name: what the user called it.
        weights: returns the digest of the weights; None: computed from `model` when first needed.

    Raises:
        UnsupportedBackboneError: a family, a rotary scaling or a setting that cannot be served right.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str, weights: Callable[[], str] | None = None) -> None:
        self.name = name
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        config = model.config
        self.model_type = str(config.model_type)
        self.attention = str(config._attn_implementation)
        self.family: Family = family_of(config.to_dict(), name)
        self.kind: Kind = self.family.kind
        self.limits: Limits = limits_of(self.family, config, name)
        self.special = SpecialTokens.of(tokenizer)
        self.head: Head | None = head_of(model)
        self.capabilities: frozenset[Capability] = capabilities_of(
            self.family, words=self.head is not None, mask=self.special.mask is not None
        )
        self._embeddings = model.get_input_embeddings()
        self._weights = weights or (lambda: weights_digest(model))
        self.embedding_size = int(self._embeddings.weight.shape[1])
        self.vocab_size = int(self._embeddings.weight.shape[0])
        self.num_layers = _layers(config)
        self.sharded = is_sharded(model)
        if not self.sharded:  # else it was done before its weights were laid out
            fuse(model)
        if self.sharded and self.limits.position_switch is not None:
            raise UnsupportedBackboneError(
                f"the rows of `{name}` run apart by their length (longrope), so that processes would not make the same "
                "passes; load it without shard"
            )
        self.bos, self.eos, self.pad = self.special.bos, self.special.eos, self.special.pad
        self._decoder_start = self._read_decoder_start()

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
    def hidden_size(self) -> int:
        """Dout, the size of a hidden state: that of an output row where there are some, for OPT may project."""
        output = self.model.get_output_embeddings()
        return int(self.model.config.hidden_size if output is None else output.weight.shape[1])

    @property
    def max_positions(self) -> int | None:
        """The longest row in tokens, soft ones included; None where nothing limits it."""
        return self.limits.max_positions

    @property
    def packs(self) -> bool:
        """Whether rows run without their padding: `grouped`, a CPU's attention, lays them out."""
        plain = self.position_switch is None and not self.sharded
        return plain and self.attention == GROUPED and self.device.type == "cpu"

    @property
    def pass_cost(self) -> int:
        """Tokens that take about as long as a pass takes beside its tokens; 0 where padding takes nothing.

        Where it takes something, more of it than this is worth a pass of its own (`layout.least_work`).
        """
        return 0 if self.packs else _PASS_COST[self.device.type]

    @property
    def position_switch(self) -> int | None:
        """Longrope's original length, else None.

        A batch with any position at or beyond it uses the long rotary factors for *all* its rows, and keys made with
        the short ones do not fit it: batch rows by side; on the long side make the shared prefix with one dummy
        token more, at this position, and drop the dummy's keys and values.
        """
        return self.limits.position_switch

    @property
    def answer_start(self) -> tuple[int, ...]:
        """What an encoder-decoder's decoder is given before an answer's first token: its start token, BART's also <s>.

        Empty for the other kinds, whose answers stand in the row itself.
        """
        return () if self._decoder_start is None else (self._decoder_start, *self.special.before)

    def as_in_transformers(self) -> Any:
        """Return the model with transformers' own modules around the same parameters, as others would run it."""
        return unfused(self.model)

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
        past: KeyValues | Growing | None = None,
        keep: bool = False,
    ) -> tuple[Float[Tensor, "B T Dout"], KeyValues | None]:
        """Run a decoder or an encoder without its head; gradients flow to `embeddings` and `past`.

        Rows must be contiguous: between the first and the last real slot of a row, `past` included, no padding
        (sliding windows count columns). Positions are those of the mask: `(mask.cumsum(1) - 1).clamp(0)[:, S:]`, from
        0 for every family.

        Args:
            embeddings: embedded tokens or virtual tokens; cast to the compute dtype.
            mask: 1 where a slot is real, [B, S+T]: over `past` and `embeddings`.
            positions: of each of the T slots, from 0.
            past: keys and values of the S slots before, every layer with all S columns; views expanded over B are
                fine, and none is written to. For an encoder: a deep prompt. Those that are `Growing` are written
                behind, so that going on by a token copies nothing else.
            keep: return the keys and values of all S+T slots; decoders only, as an encoder's depend on the whole row.

        Returns:
            The last hidden states (after the final norm), and the keys and values if `keep`, else None.

        Raises:
            UnsupportedBackboneError: `past` or `keep` is more than the family carries, or it is an encoder-decoder.
        """
        self._check_run(past is not None, keep)
        embeddings = embeddings.to(self.dtype)
        if self.kind == "encoder":
            assert not isinstance(past, Growing), "an encoder's rows do not go on"
            return run_encoder(self.model, self.limits, embeddings, mask, positions, past), None
        if self.packs and not isinstance(past, Growing) and is_worth_packing(mask, embeddings.shape[1]):
            return run_packed(self.model, embeddings, mask, positions, past, keep=keep)
        cache = cache_of(past, self.dtype, keep=keep) if past or keep else None
        output = self.model.base_model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=False,  # it is ours: nobody is to make or to return another
        )
        hidden = output.last_hidden_state
        if not keep:
            return hidden, None
        return hidden, tied(hidden, kept_in(cache)) if self.sharded else kept_in(cache)

    def key_values(
        self, embeddings: Float[Tensor, "B T D"], *, mask: Int[Tensor, "B T"], positions: Int[Tensor, "B T"]
    ) -> KeyValues:
        """Return the keys and values of rows of embeddings in every layer, where a deep prompt may start.

        Args:
            embeddings: as for `run`.
            mask: 1 where a slot is real.
            positions: of each slot, from 0.

        Raises:
            UnsupportedBackboneError: the family carries no deep prompts, or is an encoder-decoder (decode with `keep`).
        """
        if self.kind == "encoder":
            self._need("deep-prompts", "keys and values", "its layers take none from outside")
            return key_values_of(self.model, self.limits, embeddings.to(self.dtype), mask, positions)
        _, kept = self.run(embeddings, mask=mask, positions=positions, keep=True)
        assert kept is not None
        return kept

    def encode(self, embeddings: Float[Tensor, "B T D"], *, mask: Int[Tensor, "B T"]) -> Float[Tensor, "B T Dout"]:
        """Return an encoder-decoder's states of rows, once for all the answers that will be decoded against them.

        Args:
            embeddings: rows that begin in the first column and are padded on the right (BART and T5 count columns).
            mask: 1 where a slot is real.

        Raises:
            UnsupportedBackboneError: it is no encoder-decoder.
        """
        self._be_seq2seq("encode")
        return encode_rows(self.model, embeddings.to(self.dtype), mask)

    def decode(
        self,
        ids: Int[Tensor, "B U"],
        states: Float[Tensor, "B T Dout"],
        *,
        mask: Int[Tensor, "B T"],
        past: DecoderPast | None = None,
        past_mask: Int[Tensor, "B S"] | None = None,
        keep: bool = False,
    ) -> tuple[Float[Tensor, "B U Dout"], DecoderPast | None]:
        """Run the decoder over target tokens, which begin with `answer_start` and are padded on the right.

        Args:
            ids: target tokens, or those behind `past`.
            states: of the encoder; views expanded over candidate answers are fine.
            mask: 1 where a state is real.
            past: what to go on from: a deep prompt, or what an earlier call kept; none is written to, unless
                `past.own` is `Growing`.
            past_mask: 1 where a slot of `past.own` is real, contiguous on the right; None: all of them.
            keep: return what to go on from. Targets of different lengths must be compacted before.

        Returns:
            The decoder's last hidden states, and the past if `keep`, else None.

        Raises:
            UnsupportedBackboneError: it is no encoder-decoder.
        """
        self._be_seq2seq("decode")
        states, past = states.to(self.dtype), past or DecoderPast()
        return decode_tokens(self.model, ids, states, mask, past, past_mask, keep=keep)

    def pool(
        self, hidden: Float[Tensor, "B T Dout"], *, mask: Int[Tensor, "B T"], how: Pooling = "mean"
    ) -> Float[Tensor, "B Dout"]:
        """Return one vector a right-padded row, in fp32: the `mean` of its real slots, or its `first` one.

        Raises:
            UnknownNameError: another way.
        """
        return pool(hidden, mask, how)

    def output_rows(self, ids: Int[Tensor, " C"]) -> Float[Tensor, "C Drow"] | None:
        """Return the output rows of some tokens, in fp32 on the CPU, or None where the checkpoint has no such head."""
        return None if self.head is None else self.head.rows(ids.to(self.device)).detach().cpu()

    def logits(self, hidden: Float[Tensor, "M Dout"], ids: Int[Tensor, " C"] | None = None) -> Float[Tensor, "M C"]:
        """Return the logits of hidden states for some output rows only, in fp32.

        Args:
            hidden: hidden states from `run` or `decode`.
            ids: the output rows wanted; None: all V of them.

        Returns:
            logits: the head's transformation, scale, bias and final soft cap included.

        Raises:
            UnsupportedBackboneError: the checkpoint has no head for words.
        """
        if self.head is None:
            raise UnsupportedBackboneError(
                f"`{self.name}` has no head that scores words, so it can be read out by learned rows only"
            )
        return self.head.logits(hidden, ids)

    def _check_run(self, past: bool, keep: bool) -> None:
        if self.kind == "encoder-decoder":
            raise UnsupportedBackboneError(f"`{self.name}` is an encoder-decoder: rows are encoded, answers decoded")
        if past:
            self._need("deep-prompts", "keys and values from outside", "its layers would ignore them without a word")
        if keep:
            self._need("shared-prefix", "a prefix run on its own", "its tokens see the whole row")

    def _need(self, capability: Capability, asked: str, why: str) -> None:
        if capability not in self.capabilities:
            raise UnsupportedBackboneError(
                f"`{self.name}` ({self.family.title}, {self.kind}) cannot take {asked}: {why}; "
                f"it can do: {', '.join(sorted(self.capabilities)) or 'input prompts only'}"
            )

    def _be_seq2seq(self, asked: str) -> None:
        if self.kind != "encoder-decoder":
            raise UnsupportedBackboneError(
                f"`{self.name}` ({self.family.title}) is no encoder-decoder and cannot {asked}: its rows are run"
            )

    def _read_decoder_start(self) -> int | None:
        if self.kind != "encoder-decoder":
            return None
        start: int | None = self.model.config.decoder_start_token_id
        if start is None:
            raise UnsupportedBackboneError(
                f"the config.json of `{self.name}` names no decoder_start_token_id, so its answers have no beginning; "
                "take a checkpoint made for generation"
            )
        return start

    def __repr__(self) -> str:
        return f"Backbone({self.name!r}, {self.model_type}, {str(self.dtype).removeprefix('torch.')}, {self.device})"


def _layers(config: Any) -> int:
    """How many layers a deep prompt would have: an encoder-decoder's are the decoder's."""
    names = ("num_decoder_layers", "decoder_layers") if config.is_encoder_decoder else ()
    return int(next((getattr(config, name) for name in names if hasattr(config, name)), config.num_hidden_layers))


def load_backbone(
    source: str | Path,
    *,
    device: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    attention: str | None = None,
    shard: bool = False,
) -> Backbone:
    """Load a frozen backbone by a packaged name, a hub id, a folder or a `.gguf` file.

    Args:
        source: `gemma-3-270m`, `minilm-l6`, `owner/name`, a folder that `save_pretrained` wrote, or a `.gguf` file,
            which is dequantised once into the cache.
        device: `cpu`, `cuda` or `cuda:N`; None: the GPU if there is one.
        dtype: `bf16`, `fp32` or, on a GPU, `fp16`; None: bf16 where the hardware computes in it.
        revision: a branch, tag or commit of a hub id.
        attention: `grouped`, `sdpa` or `eager`; None: the fastest for the family and the device.
        shard: lay the layers' weights in shards over the processes that were started together, for a backbone that
            does not fit on one device.

    Raises:
        BackboneError: the source cannot be found, read or downloaded.
        ConfigError: an argument that cannot be.
        MissingExtraError: it needs a package that is not installed.
        StorageError: the cache of converted backbones cannot be written.
        UnknownNameError: a name that is nothing known; the message offers the nearest.
        UnsupportedBackboneError: a family or a rotary scaling that cannot be served right.
    """
    chosen = choose_device(device)
    choose_dtype(dtype, chosen)  # what cannot be is refused before anything is downloaded
    folder, name = locate(source, revision), str(source)

    def read(mesh: DeviceMesh | None) -> Parts:
        return read_folder(folder, name, device=chosen, dtype=dtype, attention=attention, mesh=mesh)

    parts = in_turn(chosen, read) if shard else read(None)
    return Backbone(parts.model, parts.tokenizer, name=name, weights=parts.weights)
