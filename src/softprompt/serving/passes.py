"""Passes and steps over requests that survive what goes wrong in them: only the request that is to blame fails.

What they do not survive is the loss of the device: it is raised, and ends the engine.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from softprompt.backbones.hardware import check_lost, is_out_of_memory
from softprompt.errors import BackboneError
from softprompt.modeling.flight import Flight
from softprompt.modeling.layout import by_length
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.modeling.readings import EncodedRow
from softprompt.modeling.writing import Writing
from softprompt.serving.ticket import Request

_LOG = logging.getLogger("softprompt.serving")
_CALM = 256
"""Passes and steps for which memory must suffice before twice as much is tried again."""


class Outcome(NamedTuple):
    """What came of a request: log-probabilities to be read, an error, or neither where it is being written."""

    request: Request
    log_probabilities: Tensor | None = None
    error: Exception | None = None


class Outcomes(NamedTuple):
    """What came of a pass or a step.

    Attributes:
        told: of every request that it ran.
        late: requests that were in flight and for which there is no memory now; they are to begin again, behind what
            they have written, when there is.
    """

    told: list[Outcome]
    late: list[Request]


class InFlight(Protocol):
    """What an engine's turns ask of whoever runs requests: `Passes`, or another engine in its place."""

    rows: int
    tokens: int

    def __len__(self) -> int:
        """How many requests are in flight."""
        ...

    @property
    def slots(self) -> int:
        """Slots of the cache of those in flight, padding counted."""
        ...

    def begin(self, requests: Sequence[Request]) -> Outcomes:
        """Run new requests; what is written joins those in flight."""
        ...

    def step(self) -> Outcomes:
        """Give each request in flight its next token; those whose answers have ended leave."""
        ...

    def leave(self, request: Request) -> None:
        """Take a request out of flight, if it is there."""
        ...

    def clear(self) -> list[Request]:
        """Take everything out of flight."""
        ...


class Passes:
    """Runs requests, and keeps those in flight that are being written.

    Args:
        model: computes.
        rows: most requests in flight.
        tokens: most tokens of a pass.

    Attributes:
        rows: as given; fewer for a while where memory has not sufficed.
        tokens: as given; fewer for a while where memory has not sufficed.
    """

    def __init__(self, model: PromptedModel, rows: int, tokens: int) -> None:
        self.rows, self.tokens = rows, tokens
        self._given, self._calm = (rows, tokens), 0
        self._model = model
        self._flight = Flight(model.backbone)
        self._flying: dict[Writing, Request] = {}

    def __len__(self) -> int:
        return len(self._flying)

    @property
    def slots(self) -> int:
        """Slots of the cache of those in flight, padding counted."""
        return self._flight.tokens

    def begin(self, requests: Sequence[Request]) -> Outcomes:
        """Run requests in one pass, and in smaller ones as far as that one fails; what is written joins the flight."""
        return self._sized(lambda: self._begin(requests))

    def _begin(self, requests: Sequence[Request]) -> Outcomes:
        found, error = self._try(requests, self._flight)
        if error is None:
            self._flying |= {each.writing: each for each in requests if each.writing is not None}
            return Outcomes([Outcome(each, logp) for each, logp in zip(requests, found, strict=True)], [])
        if is_out_of_memory(error):
            late = self._make_room(requests)
            if late:  # now the whole room is theirs
                again = self._begin(requests)
                return Outcomes(again.told, [*late, *again.late])
        if len(requests) == 1:
            return Outcomes([Outcome(requests[0], error=self._said(requests[0], error))], [])
        half = len(requests) // 2
        first, second = self._begin(requests[:half]), self._begin(requests[half:])
        moved = set(second.late)  # by the second half, out of the flight that they had just joined
        return Outcomes(
            [each for each in first.told if each.request not in moved] + second.told, [*first.late, *second.late]
        )

    def step(self) -> Outcomes:
        """Give each request in flight its next token; those whose answers have ended leave."""
        return self._sized(self._stepped)

    def _stepped(self) -> Outcomes:
        try:
            got = [self._flying[writing] for writing in self._flight.step()]
        except Exception as failed:  # noqa: BLE001 - whatever one row does, the others go on
            error = self._outlived(failed)
        else:
            for each in got:
                if each.writing is not None and each.writing.ended is not None:
                    del self._flying[each.writing]
            return Outcomes([Outcome(each) for each in got], [])
        _LOG.warning("a step of %d rows in flight failed, and is done again: %r", len(self), error)
        return self._step_alone(error)

    def leave(self, request: Request) -> None:
        """Take a request out of flight, if it is there."""
        if request.writing is not None and self._flying.pop(request.writing, None) is not None:
            self._flight.leave(request.writing)

    def clear(self) -> list[Request]:
        """Take everything out of flight."""
        found = list(self._flying.values())
        self._flight, self._flying = Flight(self._model.backbone), {}
        return found

    def _try(self, requests: Sequence[Request], flight: Flight) -> tuple[Sequence[Tensor | None], Exception | None]:
        """Run requests in one pass; of one that fails nothing is in flight."""
        bounds, writings = [each.bound for each in requests], [each.writing for each in requests]
        try:
            return self._model.begin([self._row(each) for each in requests], bounds, writings, flight), None
        except Exception as failed:  # noqa: BLE001 - whatever one row does, the others go on
            error = self._outlived(failed)
        for writing in writings:
            if writing is not None:  # it may have joined before the pass failed
                flight.leave(writing)
        return [], error

    def _outlived(self, failed: Exception) -> Exception:
        """Return the error of a pass without its frames, which hold tensors; where the device is lost, raise it.

        Raises:
            BackboneError: no pass will ever succeed, so that no row is to blame.
        """
        check_lost(failed, self._model.backbone.device)
        return failed.with_traceback(None)

    def _row(self, request: Request) -> EncodedRow:
        """The row of a request, and what is written behind it where it begins again."""
        written = [] if request.writing is None else request.writing.tokens
        if not written:
            return request.row
        if self._model.backbone.kind != "decoder":
            raise BackboneError(
                f"`{self._model.backbone.name}` ({self._model.backbone.kind}) cannot go on with an answer that was "
                "broken off; ask again"
            )
        return request.row._replace(ids=(*request.row.ids, *written))

    def _step_alone(self, error: Exception) -> Outcomes:
        """Let each request whose step failed take it alone, so that only the guilty fail, and all others fly on.

        Where memory does not suffice for all, the younger half waits.
        """
        requests, late = self.clear(), list[Request]()
        if is_out_of_memory(error):
            self._shrink_rows(len(requests))
            requests, late = requests[: self.rows], requests[self.rows :]
        told = [self._alone(each) for each in requests] + [Outcome(each) for each in late if not _goes_on(each)]
        going = [each.request for each in told if each.error is None and _goes_on(each.request)]
        back = self._begin_again(going)
        blamed = {each.request: each for each in back.told if each.error is not None}
        late = [*back.late, *(each for each in late if _goes_on(each))]
        return Outcomes([blamed.get(each.request, each) for each in told], late)

    def _begin_again(self, requests: Sequence[Request]) -> Outcomes:
        """Let requests that were in flight join it again, in passes no larger than those of new ones."""
        told, late = list[Outcome](), list[Request]()
        for part in by_length([each.width for each in requests], self.rows, self.tokens):
            found = self._begin([requests[place] for place in part])
            told += found.told
            late += found.late
        return Outcomes(told, late)

    def _alone(self, request: Request) -> Outcome:
        if not _goes_on(request):  # its last token came before the step failed
            return Outcome(request)
        flight = Flight(self._model.backbone)
        _, error = self._try([request], flight)
        if error is None:
            try:
                flight.step()
            except Exception as failed:  # noqa: BLE001 - it is told to the request
                error = self._outlived(failed)
        return Outcome(request, error=None if error is None else self._said(request, error))

    def _sized(self, run: Callable[[], Outcomes]) -> Outcomes:
        """Run something, after which passes are as large as memory lets them be.

        They stay as they were where a request was to blame that fits nowhere, and grow after some hundred without want.
        """
        before = self.rows, self.tokens
        outcomes = run()
        if (self.rows, self.tokens) != before:
            self._calm = 0
            if any(_fits_nowhere(outcome) for outcome in outcomes.told):
                self.rows, self.tokens = before
                _LOG.warning(
                    "%d rows in flight and passes of %d tokens may be again, for it was a request that fits nowhere "
                    "that found no memory",
                    *before,
                )
        elif before != self._given:
            self._calm += 1
            if self._calm >= _CALM:
                self._grow()
        return outcomes

    def _grow(self) -> None:
        rows, tokens = self._given
        self.rows, self.tokens, self._calm = min(2 * self.rows, rows), min(2 * self.tokens, tokens), 0
        _LOG.info(
            "memory has sufficed for %d passes and steps; there are at most %d rows in flight and %d tokens a pass now",
            _CALM,
            self.rows,
            self.tokens,
        )

    def _make_room(self, requests: Sequence[Request]) -> list[Request]:
        """Free memory for a pass that did not fit: the flight's, or by smaller passes where there is no flight."""
        late = self.clear()
        if late:
            self._shrink_rows(len(late))
            return late
        ran = len(requests) * max(each.width for each in requests)
        self.tokens = max(1, min(self.tokens, ran // 2))
        _LOG.warning("a pass of %d tokens did not fit in memory; passes have at most %d now", ran, self.tokens)
        _free(self._model)
        return late

    def _shrink_rows(self, flying: int) -> None:
        self.rows = max(1, min(self.rows, flying // 2))
        _LOG.warning("%d rows in flight did not fit in memory; there are at most %d now", flying, self.rows)
        _free(self._model)

    def _said(self, request: Request, error: Exception) -> Exception:
        """The error of a request that fails by itself: memory's is said in words."""
        if not is_out_of_memory(error):
            return error
        said = BackboneError(
            f"{request.width} tokens do not fit in memory, even in a pass of their own; send a shorter text"
        )
        said.__cause__ = error
        return said


def _goes_on(request: Request) -> bool:
    return request.writing is not None and request.writing.ended is None


def _fits_nowhere(outcome: Outcome) -> bool:
    cause = None if outcome.error is None else outcome.error.__cause__
    return cause is not None and is_out_of_memory(cause)


def _free(model: PromptedModel) -> None:
    gc.collect()
    if model.backbone.device.type == "cuda":
        torch.cuda.empty_cache()
