"""How the next token is chosen: greedily, or drawn from what filters leave, each row by its own settings."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from softprompt.errors import ConfigError
from softprompt.shapes import Float, Int

_AT_ONCE = 4
"""Rows drawn at a time: each takes several passes over a vocabulary of logits."""
_LIKELIEST = 1024
"""Tokens among which a nucleus is looked for before all are sorted."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    The penalty comes first, then temperature, and of the probabilities p that result a token stays that each filter
    keeps: `top_k`; `top_p`, of what `top_k` leaves (nucleus, 1904.09751); and `min_p` (2407.01082). Tokens that are as
    likely as the last one kept are kept too, so that no order among equals decides.

    Args:
        temperature: 0 takes the likeliest token; above, up to 100, logits are divided by it.
        top_p: keep the likeliest tokens whose probabilities reach this sum, in (0, 1].
        top_k: keep this many likeliest tokens; 0: all.
        min_p: keep tokens with p at least this share of the likeliest one's, in [0, 1]; 0: all.
        repetition_penalty: logits of tokens that the row or its answer has already are divided by it, above 0 and at
            most 100 (1909.05858, section 4.1); negative logits are multiplied, where the paper's division would favour
            them. Virtual tokens are no tokens of the row.
        seed: of the draws; each row draws from its own stream, so that its text does not depend on its batch.

    Raises:
        ConfigError: a value out of range.

    >>> Sampling(temperature=0.7, top_p=0.9).greedy
    False
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 100:
            raise ConfigError(f"temperature is {self.temperature}; it is 0 (the likeliest token) to 100")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}; it is above 0 and at most 1")
        if self.top_k < 0:
            raise ConfigError(f"top_k is {self.top_k}; it is 0 (all tokens) or more")
        if not 0 <= self.min_p <= 1:
            raise ConfigError(f"min_p is {self.min_p}; it is 0 (all tokens) to 1")
        if not 0 < self.repetition_penalty <= 100:
            raise ConfigError(
                f"repetition_penalty is {self.repetition_penalty}; it is above 0 and at most 100, and 1 changes nothing"
            )

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0

    def stream(self, number: int) -> torch.Generator:
        """Return the random numbers of row `number`, which are no other row's."""
        return torch.Generator().manual_seed((self.seed * 1_000_003 + number) % 2**63)


def choose(
    logits: Float[Tensor, "M V"],
    settings: Sequence[Sampling],
    seen: Sequence[Collection[int]],
    streams: Sequence[torch.Generator],
) -> Int[Tensor, " M"]:
    """Choose the next token of each row.

    Args:
        logits: of the whole vocabulary.
        settings: of each row.
        seen: the tokens that each row has already, without duplicates; read where there is a penalty.
        streams: the random numbers of each row, one for every token of the vocabulary at each draw.
    """
    logits = _penalised(logits, settings, seen)
    chosen = logits.max(dim=-1).indices  # three times as fast as argmax, and the same
    drawn = [row for row, own in enumerate(settings) if not own.greedy]
    for start in range(0, len(drawn), _AT_ONCE):
        rows = drawn[start : start + _AT_ONCE]
        at = torch.tensor(rows, device=logits.device)
        chosen[at] = _draw(logits[at], [settings[row] for row in rows], [streams[row] for row in rows])
    return chosen


def _penalised(
    logits: Float[Tensor, "M V"], settings: Sequence[Sampling], seen: Sequence[Collection[int]]
) -> Float[Tensor, "M V"]:
    """Lower the logits of tokens that a row has already, where it has a penalty."""
    penalties = [
        (row, token, own.repetition_penalty)
        for row, own in enumerate(settings)
        if own.repetition_penalty != 1
        for token in seen[row]
    ]
    if not penalties:
        return logits
    rows, tokens, each = zip(*penalties, strict=True)
    at = (torch.tensor(rows, device=logits.device), torch.tensor(tokens, device=logits.device))
    found, penalty = logits[at], logits.new_tensor(each)
    return logits.index_put(at, torch.where(found > 0, found / penalty, found * penalty))


def _draw(
    logits: Float[Tensor, "M V"], settings: Sequence[Sampling], streams: Sequence[torch.Generator]
) -> Int[Tensor, " M"]:
    """Draw a token of each row from what its filters leave.

    The winner of a race, argmax p / -log u with u uniform for each token, is a draw from p. Rounding, which differs
    from batch to batch, tells only where two tokens finish within it; a search in summed probabilities would meet it at
    every border between two tokens.
    """
    temperature = _column(logits, [own.temperature for own in settings]).clamp(min=1e-6)
    scaled = (logits - logits.amax(-1, keepdim=True)).div_(temperature)  # the likeliest is 0: nothing overflows
    uniform = torch.empty(logits.shape)
    for row, stream in zip(uniform, streams, strict=True):
        torch.rand(logits.shape[1], generator=stream, out=row)
    shares = _filtered(scaled, settings).exp()
    return shares.div_(uniform.to(logits.device).log_().neg_()).max(dim=-1).indices


def _filtered(scaled: Float[Tensor, "M V"], settings: Sequence[Sampling]) -> Float[Tensor, "M V"]:
    """Rule out the tokens that any of a row's filters does not keep; the likeliest one has the scaled logit 0."""
    counts = [own.top_k if own.top_k < scaled.shape[1] else 0 for own in settings]
    if any(counts):
        scaled = scaled.masked_fill(scaled < _least_of_top(scaled, counts), -math.inf)
    least = _column(scaled, [math.log(own.min_p) if own.min_p else -math.inf for own in settings])
    rows = [row for row, own in enumerate(settings) if own.top_p < 1]
    if rows:
        at = torch.tensor(rows, device=scaled.device)
        share = _column(scaled, [settings[row].top_p for row in rows])
        share = share.clamp(min=torch.finfo(share.dtype).tiny)  # a share that rounds to nothing still has a token
        nucleus = _least_of_nucleus(scaled[at], share)
        least[at] = least[at].maximum(nucleus)
    return scaled if bool(least.isneginf().all()) else scaled.masked_fill(scaled < least, -math.inf)


def _least_of_top(scaled: Float[Tensor, "M V"], counts: Sequence[int]) -> Float[Tensor, "M 1"]:
    """The scaled logit of the last of `counts` likeliest tokens; a count of 0 keeps all."""
    top = scaled.topk(max(counts), dim=-1).values
    last = torch.tensor([[max(count - 1, 0)] for count in counts], device=scaled.device)
    return top.gather(1, last).masked_fill(torch.tensor(counts, device=scaled.device)[:, None] == 0, -math.inf)


def _least_of_nucleus(scaled: Float[Tensor, "M V"], share: Float[Tensor, "M 1"]) -> Float[Tensor, "M 1"]:
    """The scaled logit of the last of the likeliest tokens whose probabilities reach `share`."""
    total, size = torch.logsumexp(scaled, dim=-1, keepdim=True), scaled.shape[1]
    count = min(_LIKELIEST, size)
    while True:
        top = scaled.topk(count, dim=-1).values
        shares = (top - total).exp()
        summed = shares.cumsum(-1)
        if count == size or bool((summed[:, -1:] >= share).all()):
            return top.masked_fill(summed - shares >= share, math.inf).amin(-1, keepdim=True)
        count = min(16 * count, size)


def _column(like: Tensor, values: Sequence[float]) -> Float[Tensor, "M 1"]:
    return like.new_tensor(values)[:, None]
