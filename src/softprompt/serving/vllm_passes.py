"""Passes that vLLM runs: requests go in embedded, and its tokens are told as our own are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count

from torch import Tensor

from softprompt.backbones.backbone import Backbone
from softprompt.errors import BackboneError
from softprompt.modeling.text import TextReading
from softprompt.modeling.writing import Writing
from softprompt.serving.choices import choices_of, read_choices
from softprompt.serving.embedding import embed_tokens
from softprompt.serving.passes import Outcome, Outcomes
from softprompt.serving.ticket import Request
from softprompt.serving.vllm_seam import Fresh, Stepping, Wish
from softprompt.shapes import Float


class VllmPasses:
    """Runs requests in vLLM, in the place of `Passes`: the same turns, tickets, stops and texts around another engine.

    A label is read by requests of one token, one for each place where the labels' words part, which wait for their
    answers here; whatever vLLM writes for others meanwhile is told at the next step.

    Args:
        backbone: gives tokenizer and embeddings.
        engine: takes embedded rows.
        rows: most requests in flight.
        tokens: most tokens of new rows at a time.
    """

    def __init__(self, backbone: Backbone, engine: Stepping, rows: int, tokens: int) -> None:
        self.rows, self.tokens = rows, tokens
        self._backbone, self._engine = backbone, engine
        self._names = (str(number) for number in count())
        self._flying: dict[str, Request] = {}
        self._told: dict[str, list[Fresh]] = {}
        self._asked: dict[str, Mapping[int, float] | None] = {}

    def __len__(self) -> int:
        return len(self._flying)

    @property
    def slots(self) -> int:
        """Tokens in flight; vLLM's cache has no padding."""
        return sum(request.tokens + len(request.writing.tokens) for request in self._flying.values() if request.writing)

    def begin(self, requests: Sequence[Request]) -> Outcomes:
        """Hand requests to vLLM, and wait for those that are read."""
        questions: dict[Request, list[str]] = {}
        told: dict[Request, Outcome] = {}
        for request in requests:
            try:
                if request.writing is None:
                    questions[request] = self._ask(request)
                else:
                    self._write(request, request.writing)
                    told[request] = Outcome(request)
            except Exception as error:  # noqa: BLE001 - what one request meets is no other's
                told[request] = Outcome(request, error=error)
        while any(self._asked[name] is None for names in questions.values() for name in names):
            self._pump()
        told |= {request: self._read(request, names) for request, names in questions.items()}
        return Outcomes([told[request] for request in requests], [])

    def step(self) -> Outcomes:
        """Let vLLM go on until a request in flight has tokens, and tell them to it."""
        while not self._told:
            self._pump()
        fresh, self._told = self._told, {}
        return Outcomes([self._take(name, each) for name, each in fresh.items()], [])

    def leave(self, request: Request) -> None:
        """Take a request out of flight, if it is there."""
        for name in [name for name, each in self._flying.items() if each is request]:
            self._forget(name)

    def clear(self) -> list[Request]:
        """Take everything out of flight."""
        found = list(self._flying.values())
        for name in list(self._flying):
            self._forget(name)
        return found

    def _write(self, request: Request, writing: Writing) -> None:
        reading = request.bound.reading
        assert isinstance(reading, TextReading), "what is written is read out as text"
        name = next(self._names)
        wish = Wish(writing.most, tuple(sorted(reading.ends)), writing.sampling, writing.asked)
        writing.behind(request.row)
        self._engine.add(name, self._rows(request), wish)
        self._flying[name] = request

    def _ask(self, request: Request) -> list[str]:
        """Ask for all tokens at which a row's labels part."""
        names = []
        for choice in choices_of(request.bound):
            name = next(self._names)
            self._engine.add(name, self._rows(request, choice.behind), Wish(1, told=choice.tokens))
            self._asked[name] = None
            names.append(name)
        return names

    def _read(self, request: Request, names: Sequence[str]) -> Outcome:
        found = [self._asked.pop(name) or {} for name in names]
        try:
            return Outcome(request, read_choices(request.bound, found))
        except Exception as error:  # noqa: BLE001 - it is told to the request
            return Outcome(request, error=error)

    def _rows(self, request: Request, behind: tuple[int, ...] = ()) -> Float[Tensor, "T D"]:
        return embed_tokens(self._backbone, request.bound, (*request.bound.template.prefix, *request.row.ids, *behind))

    def _pump(self) -> None:
        """Run one step, and sort what it gave."""
        for fresh in self._engine.step():
            if fresh.name in self._flying and (fresh.tokens or fresh.finished):
                self._told.setdefault(fresh.name, []).append(fresh)
            elif fresh.name in self._asked and fresh.finished:
                self._asked[fresh.name] = fresh.tokens[0][1] if fresh.tokens else {}

    def _take(self, name: str, told: Sequence[Fresh]) -> Outcome:
        """Give a writing its tokens; where a stop ends it, vLLM is told to end it too."""
        request = self._flying[name]
        writing = request.writing
        assert writing is not None
        for token, others in (each for fresh in told for each in fresh.tokens):
            if writing.ended is None:
                ranked = sorted(others.items(), key=lambda each: -each[1])[: writing.asked]
                writing.take(token, others.get(token, float("nan")), tuple(ranked))
        finished = told[-1].finished
        if writing.ended is not None:
            self._forget(name, running=not finished)
        elif finished:
            self._forget(name, running=False)
            return Outcome(
                request,
                error=BackboneError(
                    f"vLLM ended the answer after {len(writing.tokens)} of {writing.most} tokens, without its end; "
                    "give it a larger max_model_len, or ask for fewer tokens"
                ),
            )
        return Outcome(request)

    def _forget(self, name: str, *, running: bool = True) -> None:
        del self._flying[name]
        self._told.pop(name, None)
        if running:
            self._engine.abort(name)
