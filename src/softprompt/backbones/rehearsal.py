"""A training step without numbers: what it holds, computes and moves, told by the operators that it would run.

The step runs on the meta device, forward and backward, through the model's own code and our own attention; every
operator is seen on its way (`TorchDispatchMode`). What autograd would keep stays alive here as well, so that the bytes
that are alive at once are those of a real step, but for what libraries take beside tensors.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from softprompt.backbones.attention import GROUPED
from softprompt.backbones.blank import Blank
from softprompt.backbones.caches import KeyValues, cache_of, kept_in
from softprompt.backbones.families import FAMILIES
from softprompt.backbones.fusing import fuse, unfused
from softprompt.backbones.operators import Seen, Work
from softprompt.backbones.stand_ins import REHEARSED, Short, adapted

Way = Literal["prompt", "deep", "lora", "full", "scoring"]


@dataclass(frozen=True)
class Step:
    """A training step, or a batch that is scored.

    Attributes:
        way: `prompt` (virtual tokens at the input), `deep` (keys and values), `lora` (all linear layers), `full`, or
            `scoring` (no gradients; behind a prompt's kept keys and values).
        rows: of a step.
        tokens: of the longest row, without the prompt's.
        prefix: S, slots before the first token of a row: virtual tokens and words.
        held: tokens whose graph is held at once.
        labels: C, output rows that answers are read by.
        answer: U, tokens that an encoder-decoder's decoder runs for a row.
        rank: of LoRA.
    """

    way: Way
    rows: int
    tokens: int
    prefix: int
    held: int
    labels: int = 2
    answer: int = 2
    rank: int = 8

    @property
    def passes(self) -> tuple[tuple[int, int], ...]:
        """Rows of a pass, and how many such passes there are.

        >>> Step("prompt", rows=100, tokens=40, prefix=20, held=1200).passes
        ((30, 3), (10, 1))
        """
        most = max(1, min(self.rows, self.held // self.tokens))
        full, rest = divmod(self.rows, most)
        return ((most, full), (rest, 1)) if rest else ((most, full),)


@dataclass(frozen=True, eq=False)
class Rehearsal:
    """What a step would take.

    Attributes:
        graph: bytes alive between forward and backward pass of the largest pass: activations that gradients need.
        peak: bytes alive at once at most.
        prefix: bytes of the prefix's keys and values, of one prompt.
        work: its operators, those that only look at tensors otherwise left out.
    """

    graph: int
    peak: int
    prefix: int
    work: tuple[Work, ...] = field(repr=False)

    @property
    def flops(self) -> int:
        """Arithmetic of matrix products and attention, two for each multiplication and addition."""
        return sum(each.flops * each.calls for each in self.work)

    @property
    def moved(self) -> int:
        """Bytes that all operators read and write."""
        return sum(each.moved * each.calls for each in self.work)

    @property
    def calls(self) -> int:
        """Operators that run."""
        return sum(each.calls for each in self.work)

    def longer(self, other: Rehearsal, layers: int, few: int, more: int) -> Rehearsal:
        """Return what a model of `layers` layers takes, told by this one of `few` and another of `more`."""

        def line(low: int, high: int) -> int:
            return round(low + (high - low) * (layers - few) / (more - few))

        sizes = {name: line(getattr(self, name), getattr(other, name)) for name in ("graph", "peak", "prefix")}
        before = {each.key: each.calls for each in self.work}
        calls = [line(before.get(each.key, 0), each.calls) for each in other.work]
        return Rehearsal(**sizes, work=tuple(replace(e, calls=n) for e, n in zip(other.work, calls, strict=True)))


def rehearse(blank: Blank, step: Step, *, grouped: bool = True) -> Rehearsal:
    """Run one step of a model without numbers.

    Args:
        blank: built with the attention that `attention_for` names.
        step: what to run.
        grouped: as on a CPU: short rows attend together (`backbones/attention.py`), norms go by few rows
            (`backbones/fusing.py`); else as transformers does with fused kernels.

    Returns:
        What it takes; of mixture-of-experts models as if tokens spread evenly.
    """
    short = blank.shortened()
    if short is not None:
        few, more = (_rehearsed(each, step, grouped) for each in short)
        return few.longer(more, blank.config.num_hidden_layers, *(each.config.num_hidden_layers for each in short))
    return _rehearsed(blank, step, grouped)


def _rehearsed(blank: Blank, step: Step, grouped: bool) -> Rehearsal:
    blank = replace(blank, model=unfused(blank.model))
    if grouped:
        fuse(blank.model)
    Short.grouped = grouped and GROUPED in getattr(FAMILIES.get(str(blank.config.model_type)), "attentions", ())
    if hasattr(blank.config, "_experts_implementation"):
        blank.config._experts_implementation = REHEARSED
    seen = Seen([*blank.model.parameters(), *blank.model.buffers()])
    with (
        adapted(blank.model, step.way, step.rank),
        torch.set_grad_enabled(step.way != "scoring"),
        torch.device("meta"),
        seen,
    ):
        if blank.kind == "decoder":
            _decoder(blank, step, seen)
        elif blank.kind == "encoder":
            _encoder(blank, step, seen)
        else:
            _seq2seq(blank, step, seen)
    return Rehearsal(seen.graph, seen.peak, seen.prefix, tuple(seen.work.values()))


def _decoder(blank: Blank, step: Step, seen: Seen) -> None:
    """As in `training/bank.py`: the prefix once, rows in passes behind its keys and values, then back through it."""
    kept = _prefix(blank, step) if step.prefix and step.way not in ("lora", "full") else []
    seen.prefix = sum(tensor.nbytes for pair in kept for tensor in pair)
    learns = step.way in ("prompt", "deep")
    leaves = [(k.detach().requires_grad_(learns), v.detach().requires_grad_(learns)) for k, v in kept]
    alone = step.prefix if step.way in ("lora", "full") else 0
    for rows, times in step.passes:
        with seen.repeated(times):
            past = [(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in leaves]
            hidden = _run(blank, rows, step.tokens + alone, past)
            _read(blank, step, hidden[:, -1], seen)
            del hidden, past
    if step.way == "prompt" and kept:
        ends = [tensor for pair in kept for tensor in pair if tensor.requires_grad]
        torch.autograd.backward(ends, [torch.empty_like(end) for end in ends])


def _prefix(blank: Blank, step: Step) -> KeyValues:
    """The prefix's keys and values; a deep prompt has them, and no words are run behind it."""
    learns = step.way == "prompt"
    rows = torch.empty(1, step.prefix, _width(blank), dtype=torch.float32, requires_grad=learns).to(blank.dtype)
    cache = cache_of(None, blank.dtype)
    with torch.set_grad_enabled(learns):
        _forward(blank, rows, torch.ones(1, step.prefix, dtype=torch.long), torch.arange(step.prefix)[None], cache)
    return kept_in(cache)


def _run(blank: Blank, rows: int, tokens: int, past: KeyValues) -> Tensor:
    slots = past[0][0].shape[2] if past else 0
    mask = torch.ones(rows, slots + tokens, dtype=torch.long)
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, slots:]
    cache = cache_of(past, blank.dtype, keep=False) if past else None
    return _forward(blank, _embedded(blank, rows, tokens), mask, positions, cache)


def _embedded(blank: Blank, rows: int, tokens: int) -> Tensor:
    embedded: Tensor = blank.model.get_input_embeddings()(torch.zeros(rows, tokens, dtype=torch.long))
    return embedded


def _forward(blank: Blank, embedded: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
    output = blank.model.base_model(
        inputs_embeds=embedded, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=False
    )
    hidden: Tensor = output.last_hidden_state
    return hidden


def _encoder(blank: Blank, step: Step, seen: Seen) -> None:
    """The prompt stands in every row."""
    for rows, times in step.passes:
        with seen.repeated(times):
            embedded = _prompted(blank, step, rows)
            mask = _all_seen(blank, rows, embedded.shape[1], embedded.shape[1])
            hidden = blank.model.base_model(inputs_embeds=embedded, attention_mask=mask).last_hidden_state
            _read(blank, step, hidden[:, 0], seen)
            del hidden, embedded


def _all_seen(blank: Blank, rows: int, queries: int, columns: int) -> Tensor:
    """A mask as the layers use it: transformers looks at the numbers of a smaller one, and here are none."""
    return torch.zeros(rows, 1, queries, columns, dtype=blank.dtype)


def _prompted(blank: Blank, step: Step, rows: int) -> Tensor:
    """Rows of an encoder with the prompt's slots in front, which gradients are wanted at."""
    embedded = _embedded(blank, rows, step.tokens + step.prefix)
    if step.way != "prompt" or not step.prefix:
        return embedded
    prompt = torch.empty(step.prefix, _width(blank), requires_grad=True).to(blank.dtype)
    return torch.cat([prompt.expand(rows, -1, -1), embedded[:, step.prefix :]], dim=1)


def _seq2seq(blank: Blank, step: Step, seen: Seen) -> None:
    """The prompt stands in every row of the encoder; the decoder runs the answer."""
    for rows, times in step.passes:
        with seen.repeated(times):
            embedded = _prompted(blank, step, rows)
            wide = embedded.shape[1]
            seen_by = _all_seen(blank, rows, wide, wide)
            states = blank.model.get_encoder()(inputs_embeds=embedded, attention_mask=seen_by).last_hidden_state
            hidden = blank.model.get_decoder()(
                input_ids=torch.zeros(rows, step.answer, dtype=torch.long),
                attention_mask=_all_seen(blank, rows, step.answer, step.answer),
                encoder_hidden_states=states,
                encoder_attention_mask=_all_seen(blank, rows, step.answer, wide),
                use_cache=False,
            ).last_hidden_state
            _read(blank, step, hidden[:, -1], seen)
            del hidden, embedded, states


def _read(blank: Blank, step: Step, states: Tensor, seen: Seen) -> None:
    """Score the labels at one position a row, and go back."""
    rows = torch.empty(step.labels, states.shape[-1])
    scores = torch.log_softmax(states.float() @ rows.T, dim=-1)
    loss = -scores[:, 0].sum()
    seen.between()
    if loss.requires_grad:
        loss.backward()


def _width(blank: Blank) -> int:
    return int(blank.model.get_input_embeddings().weight.shape[1])
