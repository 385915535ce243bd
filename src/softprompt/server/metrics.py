"""What Prometheus reads at `/metrics`: the engine's work under vLLM's names where it has them, else under our own."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Depends
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from softprompt import __version__
from softprompt.server.busiest import Busiest
from softprompt.server.keys import Caller, caller
from softprompt.serving.observing import CacheUse, Outcome, Step

OTHER = "other"
"""The label of all prompts that are not among the busiest."""
ANSWERED: frozenset[Outcome] = frozenset({"read", "stop", "length"})

_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
_LONG = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_BY_MODEL = ("model_name",)


class Series(NamedTuple):
    """The metrics that every prompt has of its own: of all labels, or of one, at hand for each token."""

    prompt_tokens: Counter
    generation_tokens: Counter
    first_token: Histogram
    gap: Histogram
    whole: Histogram
    queued: Histogram
    refused: Counter

    def of(self, label: str) -> Series:
        """Return those of one label."""
        return Series(
            self.prompt_tokens.labels(label),
            self.generation_tokens.labels(label),
            self.first_token.labels(label),
            self.gap.labels(label),
            self.whole.labels(label),
            self.queued.labels(label),
            self.refused.labels(label),
        )


class Metrics:
    """Counts and times all that an engine tells (`serving.observing.Observer`), for one registry of its own.

    A prompt has series of its own while it is one of the busiest; the others share the label `other`. A series that
    its prompt loses is taken away, so that memory is the same with ten prompts and with ten thousand.

    Args:
        backbone: its name: the label of what all prompts share.
        labels: prompts that have series of their own, at most.
    """

    def __init__(self, backbone: str, labels: int = 50) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which nobody reads
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._busiest = Busiest(labels, self._forget)
        self._by_model = self._families()
        self._outcomes = self._counter("vllm:request_success", "Requests answered.", (*_BY_MODEL, "finished_reason"))
        self._unanswered = self._counter("softprompt:requests_unanswered", "Requests without an answer.", ("reason",))
        self._series: dict[str, Series] = {}
        self._lock = Lock()
        self._use = CacheUse(0, 0, 0, 0)
        self._engine(backbone)
        self._steps()
        self._responses = self._counter("softprompt:http_responses", "HTTP responses.", ("method", "status"))

    def queued(self, name: str, prompt_tokens: int) -> None:
        """Count a request that was taken in."""
        self._busiest.use(name)
        self._of(name).prompt_tokens.inc(prompt_tokens)

    def refused(self, name: str) -> None:
        """Count a request that was not taken in."""
        self._busiest.use(name)
        self._of(name).refused.inc()

    def started(self, name: str, waited: float) -> None:
        """Time how long a request waited."""
        self._of(name).queued.observe(waited)

    def first_token(self, name: str, seconds: float) -> None:
        """Time the first token of an answer."""
        self._of(name).first_token.observe(seconds)

    def token_gap(self, name: str, seconds: float) -> None:
        """Time a further token."""
        self._of(name).gap.observe(seconds)

    def ended(self, name: str, outcome: Outcome, seconds: float, completion_tokens: int) -> None:
        """Count and time a request that ended."""
        series = self._of(name)
        series.generation_tokens.inc(completion_tokens)
        if outcome in ANSWERED:
            series.whole.observe(seconds)
            with self._lock:
                self._outcomes.labels(self._label(name), outcome).inc()
        else:
            self._unanswered.labels(outcome).inc()

    def step(self, step: Step) -> None:
        """Measure a turn of the engine."""
        self._running.set(step.running)
        self._waiting.set(step.waiting)
        self._slots.set(step.slots)
        if not step.rows:  # nothing ran: requests were given up
            return
        self._seconds.observe(step.seconds)
        self._rows.observe(step.rows)
        self._prompts.observe(step.prompts)
        self._tokens.inc(step.tokens)

    def cache(self, use: CacheUse) -> None:
        """Take over the use of kept prompts, which is told in totals."""
        before, self._use = self._use, use
        self._hits.inc(use.hits - before.hits)
        self._queries.inc(use.hits + use.misses - before.hits - before.misses)
        self._bytes.set(use.bytes)
        self._kept.set(use.prompts)

    def response(self, method: str, status: int) -> None:
        """Count an HTTP response."""
        self._responses.labels(method if method in _METHODS else OTHER, status).inc()

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def _label(self, name: str) -> str:
        return name if self._busiest.stands_out(name) else OTHER

    def _of(self, name: str) -> Series:
        known = self._series.get(self._label(name))
        return known or self._made(name)

    def _made(self, name: str) -> Series:
        with self._lock:  # so that none is made of a name that is being forgotten
            label = self._label(name)
            self._series[label] = self._by_model.of(label)
            return self._series[label]

    def _forget(self, name: str) -> None:
        """Take away the series of a prompt that is not one of the busiest any more."""
        with self._lock:
            self._series.pop(name, None)
            for family in (*self._by_model, self._outcomes):
                family.remove_by_labels({"model_name": name})

    def _families(self) -> Series:
        """The metrics that every prompt has series of."""
        return Series(
            self._counter("vllm:prompt_tokens", "Virtual tokens and text in front of answers.", _BY_MODEL),
            self._counter("vllm:generation_tokens", "Tokens written.", _BY_MODEL),
            self._histogram("vllm:time_to_first_token_seconds", "Until the first token.", _LONG, _BY_MODEL),
            self._histogram("vllm:inter_token_latency_seconds", "Between two tokens.", _SHORT, _BY_MODEL),
            self._histogram("vllm:e2e_request_latency_seconds", "Until a request was answered.", _LONG, _BY_MODEL),
            self._histogram("vllm:request_queue_time_seconds", "Until a request's first pass.", _LONG, _BY_MODEL),
            self._counter("softprompt:requests_refused", "Requests refused by a full queue.", _BY_MODEL),
        )

    def _engine(self, backbone: str) -> None:
        """The metrics of what all prompts share."""
        info = Info("softprompt:build", "The version, and the backbone.", registry=self.registry)
        info.info({"version": __version__, "backbone": backbone})
        self._running = self._gauge("vllm:num_requests_running", "Rows in flight.", _BY_MODEL).labels(backbone)
        self._waiting = self._gauge("vllm:num_requests_waiting", "Requests that wait.", _BY_MODEL).labels(backbone)
        hits = self._counter("vllm:prefix_cache_hits", "Rows whose prompt was computed already.", _BY_MODEL)
        queries = self._counter("vllm:prefix_cache_queries", "Rows that needed a prompt.", _BY_MODEL)
        self._hits, self._queries = hits.labels(backbone), queries.labels(backbone)
        self._bytes = self._gauge("softprompt:cache_bytes", "Bytes of prompts' keys and values that are kept.")
        self._kept = self._gauge("softprompt:cache_prompts", "Prompts whose keys and values are kept.")

    def _steps(self) -> None:
        """The metrics of the engine's turns."""
        self._seconds = self._histogram("softprompt:step_seconds", "Of one turn of the engine.", _SHORT)
        self._rows = self._histogram("softprompt:step_rows", "Rows that shared a turn.", _ROWS)
        self._prompts = self._histogram("softprompt:step_prompts", "Distinct prompts in a turn.", _ROWS)
        self._tokens = self._counter("softprompt:step_tokens", "Tokens that were run, padding not counted.")
        self._slots = self._gauge("softprompt:cache_slots", "Slots of the rows in flight, padding counted.")

    def _counter(self, name: str, said: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(name, said, labels, registry=self.registry)

    def _gauge(self, name: str, said: str, labels: Sequence[str] = ()) -> Gauge:
        return Gauge(name, said, labels, registry=self.registry)

    def _histogram(self, name: str, said: str, bounds: Sequence[float], labels: Sequence[str] = ()) -> Histogram:
        return Histogram(name, said, labels, buckets=bounds, registry=self.registry)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


class Counted:
    """Counts the responses of an application.

    Args:
        app: the application.
        metrics: where they are counted.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.response(scope["method"], message["status"])
            await send(message)

        await self._app(scope, receive, counted)


router = APIRouter()


@router.get("/metrics", include_in_schema=False)
def metrics(request: Request, by: Annotated[Caller, Depends(caller)]) -> Response:
    """Return the metrics in Prometheus' text format; where keys are kept, to one that may watch."""
    by.may_watch()
    measured: Metrics = request.app.state.metrics
    return Response(measured.text(), media_type=CONTENT_TYPE_LATEST)
