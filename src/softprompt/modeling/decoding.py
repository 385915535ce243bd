"""Writing text behind rows, one token a step for all of them; a row leaves when its answer has ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from softprompt.backbones.backbone import Backbone
from softprompt.errors import ConfigError
from softprompt.modeling.forward import Pass, compacted, step
from softprompt.modeling.text import TextReading
from softprompt.shapes import Float, Int


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Args:
        temperature: 0 takes the likeliest token; above, logits are divided by it.
        top_p: keep the likeliest tokens whose probabilities reach this sum, in (0, 1].
        top_k: keep this many likeliest tokens; 0: all.
        seed: of the draws; each row draws from its own stream, so that its text does not depend on its batch.

    Raises:
        ConfigError: a value out of range.

    >>> Sampling(temperature=0.7, top_p=0.9).greedy
    False
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 100:
            raise ConfigError(f"temperature is {self.temperature}; it is 0 (the likeliest token) to 100")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}; it is above 0 and at most 1")
        if self.top_k < 0:
            raise ConfigError(f"top_k is {self.top_k}; it is 0 (all tokens) or more")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0

    def choose(self, logits: Float[Tensor, "M V"], streams: Sequence[torch.Generator]) -> Int[Tensor, " M"]:
        """Choose the next token of each row."""
        if self.greedy:
            return logits.argmax(-1)
        scaled = _nucleus(_top(logits / self.temperature, self.top_k), self.top_p)
        shares = torch.softmax(scaled, dim=-1).cpu()
        drawn = [torch.multinomial(row, 1, generator=stream) for row, stream in zip(shares, streams, strict=True)]
        return torch.cat(drawn).to(logits.device)


@dataclass(frozen=True)
class Written:
    """A text that was written behind a row.

    Attributes:
        text: the answer, its lead and its end taken off.
        tokens: the tokens that were written, the end included.
        finished: whether it ended by itself: by the end-of-sequence token or a stop.
        log_probability: of its tokens, added up, in nats.
    """

    text: str
    tokens: tuple[int, ...]
    finished: bool
    log_probability: float


class Writer:
    """Writes behind the rows of one pass.

    After the pass the cache is compacted once, so that each new token stands right behind its row's last; rows whose
    answer has ended leave the batch.

    Args:
        backbone: the frozen transformer.
        sampling: how tokens are chosen.
        far: the rows lie beyond the backbone's `position_switch`.
    """

    def __init__(self, backbone: Backbone, sampling: Sampling, *, far: bool = False) -> None:
        self._backbone, self._sampling, self._far = backbone, sampling, far

    def write(
        self, done: Pass, last: Float[Tensor, "M D"], readings: Sequence[TextReading], numbers: Sequence[int]
    ) -> list[Written]:
        """Write an answer behind each row of a pass.

        Args:
            done: the pass, its keys and values kept.
            last: the state at the end of each row.
            readings: what each row's answer begins with and where it ends.
            numbers: each row's number, which makes its stream of draws its own.
        """
        going = compacted(done._replace(hidden=last[:, None]))
        rows = len(numbers)
        tokens: list[list[int]] = [[] for _ in range(rows)]
        sums, finished = [0.0] * rows, [False] * rows
        streams = [torch.Generator().manual_seed(self._sampling.seed * 1_000_003 + number) for number in numbers]
        alive, states = list(range(rows)), last
        while alive:
            logits = self._backbone.logits(states)
            chosen = self._sampling.choose(logits, [streams[row] for row in alive])
            terms = torch.log_softmax(logits, dim=-1).gather(1, chosen[:, None])[:, 0]
            for row, token, term in zip(alive, chosen.tolist(), terms.tolist(), strict=True):
                tokens[row].append(token)
                sums[row] += term
                finished[row] = self._ended(tokens[row], readings[row])
            staying = [
                place
                for place, row in enumerate(alive)
                if not finished[row] and len(tokens[row]) < readings[row].readout.max_new_tokens
            ]
            alive = [alive[place] for place in staying]
            if alive:
                going = self._go_on(going, chosen, staying)
                states = going.hidden[:, 0]
        return [
            Written(self._text(own, reading), tuple(own), end, total)
            for own, reading, end, total in zip(tokens, readings, finished, sums, strict=True)
        ]

    def _go_on(self, going: Pass, chosen: Int[Tensor, " M"], staying: Sequence[int]) -> Pass:
        """Run the chosen tokens of the rows that stay."""
        index = torch.tensor(staying, device=chosen.device)
        if len(staying) < len(chosen):
            going, chosen = going.rows(index), chosen[index]
        return step(self._backbone, going, chosen, far=self._far)

    def _ended(self, tokens: Sequence[int], reading: TextReading) -> bool:
        if tokens[-1] in reading.ends:
            return True
        if not reading.readout.stop:
            return False
        text = self._decode(tokens)
        return any(stop in text for stop in reading.readout.stop)

    def _text(self, tokens: Sequence[int], reading: TextReading) -> str:
        """The answer without its lead, its end and what stands behind a stop."""
        text = self._decode(tokens[:-1] if tokens and tokens[-1] in reading.ends else tokens)
        for stop in reading.readout.stop:
            text = text.partition(stop)[0]
        return text.removeprefix(reading.lead)

    def _decode(self, tokens: Sequence[int]) -> str:
        decoded: str = self._backbone.tokenizer.decode(list(tokens), skip_special_tokens=False)
        return decoded


def _top(logits: Float[Tensor, "M V"], count: int) -> Float[Tensor, "M V"]:
    """Rule out all but the `count` likeliest tokens; 0 keeps all."""
    if not 0 < count < logits.shape[-1]:
        return logits
    least = logits.topk(count, dim=-1).values[:, -1:]
    return logits.masked_fill(logits < least, float("-inf"))


def _nucleus(logits: Float[Tensor, "M V"], share: float) -> Float[Tensor, "M V"]:
    """Rule out the tokens behind the likeliest whose probabilities reach `share` (Holtzman et al., 1904.09751)."""
    if share >= 1:
        return logits
    ordered, where = logits.sort(dim=-1, descending=True)
    before = torch.softmax(ordered, dim=-1).cumsum(-1) - torch.softmax(ordered, dim=-1)
    ruled_out = torch.zeros_like(logits, dtype=torch.bool).scatter(1, where, before >= share)
    return logits.masked_fill(ruled_out, float("-inf"))
