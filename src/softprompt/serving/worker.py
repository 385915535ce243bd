"""The work of an engine, turn by turn, in one thread: who is run, and what is told of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from time import monotonic

from softprompt.backbones.hardware import check_lost
from softprompt.errors import BackboneError, DeadlineError, RequestCancelledError
from softprompt.modeling.answers import Answer, text_answer
from softprompt.modeling.prompted_model import PromptedModel, answer_of
from softprompt.modeling.writing import Writing
from softprompt.serving.asking import Ended, Failed, Usage
from softprompt.serving.deadlines import Deadlines
from softprompt.serving.inbox import Inbox
from softprompt.serving.observing import CacheUse, Observer, Step
from softprompt.serving.pace import Pace
from softprompt.serving.passes import InFlight, Outcome
from softprompt.serving.ticket import Request, outcome_of
from softprompt.serving.tokens import TokenTexts
from softprompt.serving.waiting import Waiting

_TOGETHER = 8
"""Places that become free in a full flight are filled when an eighth of it is free, or after so many steps."""


class Worker:
    """Brings requests from the line into passes, and tells them what came of it.

    Args:
        model: whose prompts, rows and cache they are.
        passes: runs the requests.
        waiting: the line in front of it.
        pace: learns what passes and steps take, and bounds passes that hold up rows in flight.
        observer: is told of everything.
        inbox: where requests come from, and whose places they leave when they begin.
    """

    def __init__(
        self,
        model: PromptedModel,
        passes: InFlight,
        waiting: Waiting,
        *,
        pace: Pace,
        observer: Observer,
        inbox: Inbox,
    ) -> None:
        self._model, self._pace, self._observer, self._inbox = model, pace, observer, inbox
        self._passes, self._waiting = passes, waiting
        self._deadlines = Deadlines()
        self._texts = TokenTexts(model.backbone.tokenizer)
        self._held = 0
        self._dropped = False
        self._open: dict[Request, None] = {}  # in the order in which they came

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._waiting and not len(self._passes)

    @property
    def running(self) -> int:
        """Requests in flight."""
        return len(self._passes)

    def take_in(self, requests: Iterable[Request]) -> None:
        """Let requests wait for their turn."""
        for request in requests:
            if self.idle:
                self._pace.begins(monotonic())
            self._open[request] = None
            self._waiting.add(request)
            self._deadlines.add(request)

    def give_up(self, requests: Iterable[Request]) -> None:
        """Let go of requests whose askers gave them up."""
        for request in requests:
            self._drop(request, RequestCancelledError(f"the request for `{request.ask.name}` was given up"))

    def end(self, error: Exception) -> None:
        """Let all requests fail, those too that were in a pass which was never finished."""
        self._waiting.clear()
        self._passes.clear()
        left = list(self._open)
        for request in left:
            self._fail(request, error)
        if left:
            self._report(monotonic(), [], [], 0)

    def turn(self) -> None:
        """Run a pass of new rows, and a step of all in flight."""
        began = monotonic()
        for request in self._deadlines.passed(began):
            self._drop(request, _too_late(request))
        new, tokens = self._begin()
        going = self._step()
        dropped, self._dropped = self._dropped, False
        if new or going or dropped:  # where the last are dropped, nothing runs that would tell how many are left
            self._report(began, new, going, tokens + len(going))

    def _begin(self) -> tuple[list[Request], int]:
        """Run the rows whose turn it is, so few that those in flight keep their pace; return them and their tokens."""
        most = self._passes.tokens
        if len(self._passes):
            most = self._pace.allowance(most)
        new = self._waiting.take(self._places(), most)
        if not new:
            return new, 0
        clock, widths = monotonic(), [request.width for request in new]
        self._start([request for request in new if not request.started], clock)
        outcomes = self._passes.begin(new)
        self._pace.passed(len(new) * max(widths), monotonic() - clock)
        self._waiting.put_back(outcomes.late)
        for outcome in outcomes.told:
            self._told(outcome, self._read)
        return new, sum(widths)

    def _places(self) -> int:
        """Rows that may join those in flight; where many fly, several at once or after some steps.

        A pass over one row takes nearly as long as one over several, and each is a step that those in flight wait for.
        """
        places = self._passes.rows - len(self._passes)
        few = 0 < places < self._passes.rows // _TOGETHER and self._waiting.only_written
        self._held = self._held + 1 if few and self._held < _TOGETHER else 0
        return 0 if self._held else places

    def _start(self, requests: Sequence[Request], now: float) -> None:
        self._inbox.leave(request.ask.name for request in requests)
        for request in requests:
            request.started, request.read = True, request.tokens
            self._observer.started(request.ask.name, now - request.came)

    def _step(self) -> list[Request]:
        """Give every row in flight its next token."""
        if not len(self._passes):
            return []
        clock = monotonic()
        outcomes = self._passes.step()
        self._pace.stepped(monotonic() - clock)
        self._waiting.put_back(outcomes.late)
        for outcome in outcomes.told:
            self._told(outcome, self._written)
        return [outcome.request for outcome in outcomes.told]

    def _told(self, outcome: Outcome, tell: Callable[[Outcome], None]) -> None:
        """Tell a request what came of it; where that fails, it alone fails."""
        request = outcome.request
        try:
            if outcome.error is not None:
                raise outcome.error
            tell(outcome)
        except Exception as error:  # noqa: BLE001 - whatever one request meets is no other's
            check_lost(error, self._model.backbone.device)  # a GPU tells of a pass when its numbers are read
            if not self._waiting.discard(request):  # where it is to begin again
                self._passes.leave(request)
            self._fail(request, error)

    def _read(self, outcome: Outcome) -> None:
        """Answer a request that was read off; one that is in flight hears nothing yet."""
        request, found = outcome.request, outcome.log_probabilities
        if found is None:
            return
        if bool(found.isnan().any()):
            raise _no_number(self._model, request)
        answer = answer_of(request.ask.prompt, request.ask.fields, found, request.row.cut)
        self._end(request, Ended(answer, "read", Usage(request.tokens, 0)))

    def _written(self, outcome: Outcome) -> None:
        """Tell a request in flight its tokens, and its answer if that was the last."""
        request, writing = outcome.request, outcome.request.writing
        assert writing is not None, "what is in flight is written"
        if math.isnan(writing.log_probabilities[-1]):
            raise _no_number(self._model, request)
        self._observe_token(request, writing)
        piece = self._texts.piece(writing) if request.heard else None
        if piece is not None:
            request.tell(piece)
        if writing.ended is not None:
            answer: Answer = text_answer(writing.written(), request.row.cut)
            self._end(request, Ended(answer, writing.ended, Usage(request.tokens, len(writing.tokens))))

    def _observe_token(self, request: Request, writing: Writing) -> None:
        if request.told == len(writing.tokens):
            return
        request.told, now = len(writing.tokens), monotonic()
        if request.token_at is None:
            self._observer.first_token(request.ask.name, now - request.came)
        else:
            self._observer.token_gap(request.ask.name, now - request.token_at)
        request.token_at = now

    def _drop(self, request: Request, error: Exception) -> None:
        """Let a request fail, wherever it is; nothing happens where it has ended."""
        if not request.ended:
            if not self._waiting.discard(request):
                self._passes.leave(request)
            self._fail(request, error)
            self._dropped = True

    def _fail(self, request: Request, error: Exception) -> None:
        if not request.started:
            request.started = True
            self._inbox.leave([request.ask.name])
        self._end(request, Failed(error))

    def _end(self, request: Request, event: Ended | Failed) -> None:
        """Tell the last event of a request."""
        self._open.pop(request, None)
        now = monotonic()
        written = len(request.writing.tokens) if request.writing is not None else 0
        self._pace.ended(1, now)
        self._observer.ended(request.ask.name, outcome_of(event), now - request.came, written)
        request.end(event)

    def _report(self, began: float, new: Sequence[Request], going: Sequence[Request], tokens: int) -> None:
        """Tell the observer what this turn ran."""
        begun = sum(request.writing is not None for request in new)
        step = Step(
            seconds=monotonic() - began,
            read=len(new) - begun,
            begun=begun,
            written=len(going),
            prompts=len({request.bound for request in [*new, *going]}),
            tokens=tokens,
            slots=self._passes.slots,
            running=len(self._passes),
            waiting=self._inbox.waiting,
        )
        self._observer.step(step)
        if new:
            cache = self._model.cache
            self._observer.cache(CacheUse(cache.hits, cache.misses, cache.bytes, len(cache)))


def _too_late(request: Request) -> DeadlineError:
    done = f"had {len(request.writing.tokens)} tokens written" if request.writing is not None else "was in a pass"
    state = done if request.started else "was still waiting for its turn"
    return DeadlineError(
        f"the request for `{request.ask.name}` was not answered within its {request.ask.deadline:g} s, and {state}; "
        "give it more time, or ask for fewer tokens"
    )


def _no_number(model: PromptedModel, request: Request) -> BackboneError:
    return BackboneError(
        f"`{request.ask.name}` gives no probabilities on this row but NaN, in {model.backbone.dtype}; train the prompt "
        "again, or load the backbone in another dtype"
    )
