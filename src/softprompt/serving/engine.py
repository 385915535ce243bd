"""`Engine`: one thread that computes for all; requests of any prompts and kinds share its passes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping

import torch

from softprompt.backbones.backbone import Backbone
from softprompt.backbones.hardware import leave_cores
from softprompt.errors import ConfigError, EngineClosedError
from softprompt.modeling.answers import Answer
from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.modeling.readings import EncodedRow
from softprompt.modeling.text import TextReading
from softprompt.modeling.writing import Writing
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.serving.asking import Ask, Listener
from softprompt.serving.catalog import Catalog
from softprompt.serving.inbox import Inbox
from softprompt.serving.observing import Harmless, Observer, Unobserved
from softprompt.serving.pace import Pace
from softprompt.serving.pairs import answers_of, asks_of
from softprompt.serving.passes import InFlight, Passes
from softprompt.serving.ticket import Request
from softprompt.serving.waiting import Waiting
from softprompt.serving.worker import Worker

_LOG = logging.getLogger("softprompt.serving")
_AHEAD = 64
"""Passes' worth of rows that `run` has read and not yielded: some are answered before those in front of them."""
_QUIET = 0.05
"""Seconds without a request after which the cores are left to others."""


class Engine:
    """Answers requests with any number of prompts over one resident backbone.

    A request is tokenised in the thread that asks, so that what is wrong with it is said there. One thread computes:
    in each of its turns it takes those whose turn it is, runs their rows in one pass, which answers labels, numbers
    and tags, and then gives every row in flight its next token. An answer does not depend on what shares its passes.

    Args:
        model: the frozen backbone, or a model of it.
        rows: most rows of a pass, and most rows in flight.
        step_tokens: most tokens of a pass, padding counted.
        queue: most requests that may wait; an eighth more where names have few, so that no name keeps others out.
        observer: is told of everything that happens.
        catalog: finds the prompts that `run` is given by name.
        pause: seconds for which a pass over new rows may hold up those in flight; two of their steps, if that is more.
        gather: most seconds for which an engine that was idle waits for more requests once one came; where passes are
            long it may wait for a tenth of one, as long as requests keep coming.
        passes: runs the requests; by default the model does.

    Raises:
        ConfigError: a number out of range.
    """

    def __init__(
        self,
        model: Backbone | PromptedModel,
        *,
        rows: int = 64,
        step_tokens: int = 4096,
        queue: int = 1024,
        observer: Observer | None = None,
        catalog: Catalog | None = None,
        pause: float = 0.1,
        gather: float = 0.002,
        passes: InFlight | None = None,
    ) -> None:
        for name, value in (("rows", rows), ("step_tokens", step_tokens), ("queue", queue)):
            if value < 1:
                raise ConfigError(f"{name} is {value}; it is at least 1")
        self.model = PromptedModel(model) if isinstance(model, Backbone) else model
        self._observer: Observer = Unobserved() if observer is None else Harmless(observer)
        self._catalog, self._rows, self._gather = catalog, rows, gather
        self._pace = pace = Pace(pause)
        self._inbox = Inbox(queue, pace.wait_for)
        self._worker = Worker(
            self.model,
            Passes(self.model, rows, step_tokens) if passes is None else passes,
            Waiting(rows, step_tokens, unpadded=self.model.backbone.packs),
            pace=pace,
            observer=self._observer,
            inbox=self._inbox,
        )
        self._broken: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="softprompt-engine", daemon=True)
        leave_cores()
        self._thread.start()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(drain=kind is None)

    @property
    def healthy(self) -> bool:
        """Whether the thread that computes is there."""
        return self._broken is None and self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Requests that are taken in and in no pass yet."""
        return self._inbox.waiting

    @property
    def running(self) -> int:
        """Requests in flight."""
        return self._worker.running

    def submit(self, ask: Ask, listener: Listener | None = None) -> Request:
        """Take a request in and return at once.

        Args:
            ask: what is asked.
            listener: hears every event, in the engine's thread, which waits meanwhile; the last is `Ended` or `Failed`.

        Raises:
            QueueFullError: as many requests wait as may, or as may of this name.
            EngineClosedError: the engine takes no more.
            ConfigError: a value of the request is out of range.
            SoftPromptError: the request cannot be: another backbone's prompt, a missing field, no room.
        """
        try:
            self._inbox.reserve(ask.name)
        except Exception:
            self._observer.refused(ask.name)
            raise
        try:
            request = self._request(ask, listener)
        except BaseException:
            self._inbox.leave([ask.name])
            raise
        self._observer.queued(ask.name, request.tokens)
        self._inbox.put(request)
        return request

    def run(
        self,
        pairs: Iterable[tuple[SoftPrompt | BoundPrompt | str, str | Mapping[str, str]]],
        *,
        allow_other_weights: bool = False,
    ) -> Iterator[Answer]:
        """Yield the answer to each row with its prompt, in order, in constant memory.

        Args:
            pairs: a prompt, or a name where the engine has a catalog, and a row's columns; a text alone will do where
                the template asks for one field.
            allow_other_weights: accept prompts trained on other weights of this architecture.

        Raises:
            SoftPromptError: a row cannot be answered; those before it have been.
        """
        return self.answers(asks_of(pairs, self._catalog, allow_other_weights=allow_other_weights))

    def answers(self, asks: Iterable[Ask]) -> Iterator[Answer]:
        """Yield the answer to each request, in order, in constant memory.

        Args:
            asks: read as they are needed, some passes ahead of the answers.

        Raises:
            SoftPromptError: one cannot be asked or answered; those before it have been.
        """
        most = max(1, 3 * self._inbox.room // 4)  # some places are left to others
        waiting: list[Request] = []

        def submit(ask: Ask) -> Request:
            waiting.append(self.submit(ask))
            return waiting[-1]

        def full() -> bool:
            if len(waiting) >= most:
                waiting[:] = [request for request in waiting if not request.started]
            return len(waiting) >= most

        return answers_of(submit, asks, full=full, ahead=_AHEAD * self._rows)

    def close(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """Take no more requests; finish those taken in (`drain`) or fail them, and end.

        Args:
            drain: finish what was taken in.
            timeout: seconds after which what is left fails all the same.
        """
        self._inbox.close(drain=drain)
        if threading.current_thread() is self._thread:
            return
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._inbox.close(drain=False)
            self._thread.join(timeout)

    def _request(self, ask: Ask, listener: Listener | None) -> Request:
        """Bind and tokenise what is asked."""
        if ask.deadline is not None and ask.deadline <= 0:
            raise ConfigError(f"deadline is {ask.deadline:g}; it is in seconds from now, above 0")
        bound = ask.prompt
        if isinstance(bound, SoftPrompt):
            bound = self.model.bind(bound, allow_other_weights=ask.allow_other_weights)
        return Request(ask, bound, self._row(ask, bound), self._writing(ask, bound), listener, self._inbox.give_up)

    def _row(self, ask: Ask, bound: BoundPrompt) -> EncodedRow:
        row = None if ask.shared is None else ask.shared.row
        if row is None:
            row = self.model.encode(ask.fields, bound)
            if ask.shared is not None:
                ask.shared.row = row
        return row

    def _writing(self, ask: Ask, bound: BoundPrompt) -> Writing | None:
        if not isinstance(bound.reading, TextReading):
            return None
        return Writing(bound, sampling=ask.sampling, max_tokens=ask.max_tokens, stop=ask.stop, likeliest=ask.likeliest)

    def _work(self) -> None:
        """The thread: turn after turn until it is closed; nothing that happens in a pass ends it."""
        try:
            with torch.inference_mode():
                while self._turn():
                    pass
        except BaseException as error:  # noqa: BLE001 - whatever ends the thread, nobody is left waiting
            self._broken = EngineClosedError(f"the engine has ended because of an error of its own: {error!r}")
            _LOG.exception("the engine has ended because of an error of its own; it must be started again")
        self._inbox.close(drain=False)
        self._worker.take_in(self._inbox.collect(idle=False, gather=0, enough=0).asked)
        self._worker.end(self._broken or EngineClosedError("the engine was closed before this request was answered"))

    def _turn(self) -> bool:
        """Take in what came and do a turn's work; return whether there will be another."""
        if self._worker.idle and not self._inbox.comes(_QUIET):
            leave_cores()
        company = self._pace.company(self._gather)
        mail = self._inbox.collect(idle=self._worker.idle, gather=company, enough=self._rows)
        self._worker.take_in(mail.asked)
        if mail.over:
            return False
        self._worker.give_up(mail.given_up)
        self._worker.turn()
        return not (mail.closing and self._worker.idle and not self._inbox.waiting)
