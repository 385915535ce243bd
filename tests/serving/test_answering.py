"""The contract of engines: our own, and vLLM's behind the same seam, which here is a tiny model that steps like it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from softprompt.backbones.backbone import Backbone
from softprompt.errors import (
    BackboneError,
    ConfigError,
    DeadlineError,
    EngineClosedError,
    IncompatiblePromptError,
    MissingExtraError,
    QueueFullError,
    RequestCancelledError,
    TemplateError,
    UnsupportedBackboneError,
)
from softprompt.modeling.sampling import Sampling
from softprompt.serving.asking import Answering, Ask, Ended, Failed, Piece, Ticket
from softprompt.serving.engine import Engine
from softprompt.serving.observing import Unobserved
from softprompt.serving.vllm_engine import VllmEngine
from softprompt.serving.vllm_seam import Fresh, InProcess, Stepping, Wish
from softprompt.tasks.readout import LabelWords
from softprompt.testing.conformance import prompt, rows
from softprompt.testing.tiny import tiny_backbone

FILM = {"text": "a gripping film"}
CARRIED = ("labels", "trie", "suffix", "text", "long text")
"""Prompts of `kinds` that vLLM carries."""


# --- vLLM, made of a tiny model -------------------------------------------------------------------------------------


class RequestOutputKind(Enum):
    CUMULATIVE, DELTA, FINAL_ONLY = range(3)


@dataclass
class SamplingParams:
    """Those of vLLM's that are used; another name would be an error there too."""

    max_tokens: int | None = 16
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    detokenize: bool = True
    logprobs: int | None = None
    logprob_token_ids: list[int] | None = None
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE


@dataclass
class EngineArgs:
    model: str
    enable_prompt_embeds: bool = False
    max_logprobs: int = 20
    disable_log_stats: bool = False
    max_model_len: int | None = None
    dtype: str = "auto"


@dataclass
class Running:
    rows: torch.Tensor
    params: SamplingParams
    tokens: list[int] = field(default_factory=list)


class LLMEngine:
    """Steps as vLLM does: every request gets a token, and says what it got, finished or not."""

    backbone: Backbone

    def __init__(self, args: EngineArgs) -> None:
        assert args.enable_prompt_embeds
        self.args, self.running = args, dict[str, Running]()
        self.gate = threading.Event()
        self.gate.set()
        self.aborted: list[str] = []
        self.broken = False

    @classmethod
    def from_engine_args(cls, args: EngineArgs) -> LLMEngine:
        return cls(args)

    def add_request(self, request_id: str, prompt: dict[str, torch.Tensor], params: SamplingParams) -> None:
        assert set(prompt) == {"prompt_embeds"}
        embeds = prompt["prompt_embeds"]
        assert (embeds.dim(), embeds.shape[1]) == (2, self.backbone.embedding_size)
        if self.args.max_model_len is not None and len(embeds) >= self.args.max_model_len:
            raise ValueError(f"The decoder prompt (length {len(embeds)}) is longer than the maximum model length")
        assert params.logprob_token_ids is None or params.logprobs is None
        assert request_id not in self.running
        self.running[request_id] = Running(embeds, params)

    def abort_request(self, request_ids: list[str]) -> None:
        for name in request_ids:
            self.running.pop(name, None)
            self.aborted.append(name)

    @torch.inference_mode()
    def step(self) -> list[Any]:
        assert self.gate.wait(30), "nobody opened the gate"
        if self.broken:
            raise RuntimeError("EngineCore died")
        return [self._advance(name, each) for name, each in list(self.running.items())]

    def _advance(self, name: str, each: Running) -> Any:
        params = each.params
        assert params.output_kind is RequestOutputKind.DELTA
        assert not params.detokenize
        logits = self.backbone.model(inputs_embeds=each.rows[None], use_cache=False).logits[0, -1].float()
        told = torch.log_softmax(logits, dim=-1)
        if params.temperature == 0:
            token = int(logits.argmax())
        else:
            stream = torch.Generator().manual_seed(params.seed * 1000 + len(each.tokens))
            token = int(torch.multinomial(torch.softmax(logits / params.temperature, -1), 1, generator=stream))
        each.tokens.append(token)
        each.rows = torch.cat([each.rows, self.backbone.embed(torch.tensor([token]))])
        most = self.args.max_model_len or 10**9
        reason = "stop" if token in (params.stop_token_ids or ()) else None
        if reason is None and (len(each.tokens) >= params.max_tokens or len(each.rows) >= most):
            reason = "length"
        if reason is not None:
            del self.running[name]
        shown = params.logprob_token_ids or told.topk(params.logprobs or 0).indices.tolist()
        place = {other: SimpleNamespace(logprob=float(told[other])) for other in [token, *shown]}
        found = SimpleNamespace(token_ids=[token], logprobs=[place], finish_reason=reason)
        return SimpleNamespace(request_id=name, outputs=[found], finished=reason is not None)


@pytest.fixture
def vllm(backbone, monkeypatch) -> type[LLMEngine]:
    """A package `vllm` in the place of the real one."""
    module, params = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    engine = type("LLMEngine", (LLMEngine,), {"backbone": backbone})
    for name, value in (("EngineArgs", EngineArgs), ("LLMEngine", engine), ("SamplingParams", SamplingParams)):
        setattr(module, name, value)
    params.RequestOutputKind = RequestOutputKind
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", params)
    return engine


Make = Callable[..., Any]


@pytest.fixture(params=["ours", "vllm"])
def make(request, backbone, vllm) -> Iterator[Make]:
    """Makes engines of one kind, which are closed at the end."""
    made: list[Any] = []

    def engine(**options: Any) -> Any:
        kind = Engine if request.param == "ours" else VllmEngine
        made.append(kind(backbone, **options))
        return made[-1]

    yield engine
    for each in made:
        each.close(drain=False, timeout=30)


class Heard:
    """A listener that remembers, and at its first event may hold the engine up."""

    def __init__(self, gate: threading.Event | None = None) -> None:
        self.events: list[Any] = []
        self.came = threading.Event()
        self._gate = gate

    def __call__(self, event: Any) -> None:
        self.events.append(event)
        self.came.set()
        if self._gate is not None:
            assert self._gate.wait(30)


# --- what holds for every engine ------------------------------------------------------------------------------------


def test_it_is_an_engine_and_gives_tickets(make, kinds) -> None:
    engine = make()
    assert isinstance(engine, Answering)
    assert isinstance(engine.submit(Ask(kinds["labels"], FILM)), Ticket)


def test_answers_are_those_that_requests_get_alone(make, kinds, bare, alone, same_answer) -> None:
    engine = make(rows=8)
    asks = [Ask({**kinds, "bare": bare}[name], row, name) for row in rows(4) for name in [*CARRIED, "bare"]]
    for ask, ticket in [(ask, engine.submit(ask)) for ask in asks]:
        found, expected = ticket.result(60), alone(ask)
        same_answer(found.answer, expected.answer)
        if expected.writing is None:
            assert found.reason == "read"
            assert found.usage.completion_tokens == 0
        else:
            assert found.reason == expected.writing.ended
            assert found.usage == (expected.writing.prompt_tokens, len(expected.writing.tokens))


def test_pieces_come_in_order_and_add_up_to_the_answer(make, kinds, alone) -> None:
    ask, heard = Ask(kinds["text"], FILM, likeliest=3), Heard()
    ended = make().submit(ask, heard).result(60)
    *pieces, last = heard.events
    assert last is ended
    assert all(isinstance(piece, Piece) for piece in pieces)
    assert "".join(piece.text for piece in pieces).strip() == ended.answer.label
    writing = alone(ask).writing
    tokens = [token for piece in pieces for token in piece.tokens]
    assert [token.id for token in tokens] == writing.tokens
    assert [token.log_probability for token in tokens] == pytest.approx(writing.log_probabilities, abs=1e-4)
    for token, expected in zip(tokens, writing.likeliest, strict=True):
        assert [each[0] for each in token.likeliest] == [each[0] for each in expected]
        assert [each[2] for each in token.likeliest] == pytest.approx([each[1] for each in expected], abs=1e-4)


def test_a_label_is_one_event(make, kinds) -> None:
    heard = Heard()
    ended = make().submit(Ask(kinds["trie"], FILM), heard).result(60)
    assert heard.events == [ended]


def test_stops_and_bounds_are_those_of_the_request(make, kinds, alone) -> None:
    engine = make()
    whole = alone(Ask(kinds["long text"], FILM))
    assert engine.submit(Ask(kinds["long text"], FILM, max_tokens=3)).result(60).usage.completion_tokens == 3
    stop = whole.answer.label[4:6]
    ask = Ask(kinds["long text"], FILM, stop=(stop,))
    found, expected = engine.submit(ask).result(60), alone(ask)
    assert (found.answer.label, found.reason) == (expected.answer.label, "stop")
    assert stop not in found.answer.label


def test_draws_with_one_seed_are_the_same_text(make, kinds) -> None:
    engine = make()
    ask = Ask(kinds["long text"], FILM, sampling=Sampling(temperature=1.5, seed=3))
    assert engine.submit(ask).result(60).answer == engine.submit(ask).result(60).answer
    other = replace(ask, sampling=Sampling(temperature=1.5, seed=4))
    assert engine.submit(other).result(60).answer != engine.submit(ask).result(60).answer


def test_a_cancelled_request_fails_and_the_others_go_on(make, kinds, alone) -> None:
    gate = threading.Event()
    engine, held, heard = make(), Heard(gate), Heard()
    first = engine.submit(Ask(kinds["long text"], FILM), held)
    assert held.came.wait(30)
    second = engine.submit(Ask(kinds["long text"], FILM), heard)
    second.cancel()
    first.cancel()
    third = engine.submit(Ask(kinds["text"], FILM))
    gate.set()
    for ticket in (first, second):
        with pytest.raises(RequestCancelledError, match="was given up"):
            ticket.result(60)
    assert isinstance(held.events[-1], Failed)
    assert [type(event) for event in heard.events] == [Failed]
    assert third.result(60).answer == alone(Ask(kinds["text"], FILM)).answer


def test_a_late_request_fails_by_its_deadline(make, kinds) -> None:
    gate = threading.Event()
    engine, held = make(), Heard(gate)
    first = engine.submit(Ask(kinds["long text"], FILM), held)
    assert held.came.wait(30)
    late = engine.submit(Ask(kinds["text"], FILM, name="late", deadline=0.01))
    threading.Event().wait(0.05)
    gate.set()
    with pytest.raises(DeadlineError, match=r"`late` was not answered within its 0.01 s"):
        late.result(60)
    assert isinstance(first.result(60), Ended)


def test_a_full_queue_refuses(make, kinds) -> None:
    gate = threading.Event()
    engine, held = make(queue=2), Heard(gate)
    first = engine.submit(Ask(kinds["long text"], FILM), held)
    assert held.came.wait(30)
    waiting = [engine.submit(Ask(kinds["text"], FILM)) for _ in range(2)]
    with pytest.raises(QueueFullError, match="2 requests are waiting, as many as may") as refused:
        engine.submit(Ask(kinds["text"], FILM))
    assert refused.value.retry_after > 0
    gate.set()
    assert all(isinstance(ticket.result(60), Ended) for ticket in [first, *waiting])


def test_closing_finishes_what_was_taken_in(make, kinds) -> None:
    engine = make()
    tickets = [engine.submit(Ask(kinds[name], row)) for row in rows(3) for name in CARRIED]
    engine.close(drain=True, timeout=60)
    assert all(isinstance(ticket.result(0), Ended) for ticket in tickets)
    with pytest.raises(EngineClosedError, match="the engine takes no more requests"):
        engine.submit(Ask(kinds["text"], FILM))


def test_closing_at_once_lets_no_one_wait(make, kinds) -> None:
    gate = threading.Event()
    engine, held = make(), Heard(gate)
    tickets = [engine.submit(Ask(kinds["long text"], FILM), held)]
    assert held.came.wait(30)
    tickets += [engine.submit(Ask(kinds["labels"], FILM)) for _ in range(3)]
    threading.Timer(0.05, gate.set).start()
    engine.close(drain=False, timeout=60)
    for ticket in tickets:
        with pytest.raises(EngineClosedError, match="the engine was closed before this request was answered"):
            ticket.result(0)


def test_what_cannot_be_asked_is_said_at_once(make, kinds) -> None:
    engine = make()
    with pytest.raises(TemplateError, match="the template asks for the field `text`"):
        engine.submit(Ask(kinds["text"], {"body": "x"}))
    with pytest.raises(IncompatiblePromptError, match="another architecture"):
        engine.submit(Ask(prompt(tiny_backbone("llama"), 3), FILM))
    with pytest.raises(ConfigError, match="max_tokens is 0"):
        engine.submit(Ask(kinds["text"], FILM, max_tokens=0))
    assert engine.submit(Ask(kinds["text"], FILM)).result(60).answer.label is not None


def test_an_observer_hears_both_alike(make, kinds) -> None:
    calls: list[str] = []

    class Counting(Unobserved):
        def ended(self, name: str, outcome: Any, seconds: float, completion_tokens: int) -> None:
            calls.append(f"{name} {outcome} {completion_tokens > 0}")

        def first_token(self, name: str, seconds: float) -> None:
            calls.append(f"{name} first")

    engine = make(observer=Counting())
    for name in ("labels", "text"):
        engine.submit(Ask(kinds[name], FILM, name)).result(60)
    assert calls[:2] == ["labels read False", "text first"]
    assert calls[2].startswith("text ")
    assert calls[2].endswith(" True")


# --- what is vLLM's own ---------------------------------------------------------------------------------------------


@pytest.fixture
def engine(backbone, vllm) -> Iterator[VllmEngine]:
    with VllmEngine(backbone) as engine:
        yield engine


def inner(engine: VllmEngine) -> LLMEngine:
    return engine._worker._passes._engine._engine  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("deep", r"cannot go to vLLM: it has keys and values in every layer \(`layers.0.key`\)"),
        ("deep text", "keys and values in every layer"),
        ("yes-no", "its answers are read as `yes-no`, and vLLM gives text and the probabilities of tokens"),
        ("number", "its answers are read as `scalar`"),
    ],
)
def test_prompts_that_vllm_does_not_carry_are_refused_by_name(engine, kinds, name: str, message: str) -> None:
    with pytest.raises(IncompatiblePromptError, match=message):
        engine.submit(Ask(kinds[name], FILM))


def test_a_penalty_that_vllm_would_count_otherwise_is_refused(engine, kinds) -> None:
    with pytest.raises(ConfigError, match=r"repetition_penalty is 1.2, which counts the row's tokens"):
        engine.submit(Ask(kinds["text"], FILM, sampling=Sampling(repetition_penalty=1.2)))


def test_learned_rows_are_refused_and_the_prompt_alone_is_not(engine, kinds, backbone) -> None:
    rowed = kinds["labels"]
    tensors = {**rowed.tensors, "readout.weight": torch.ones(len(rowed.readout.labels), backbone.hidden_size)}
    tensors["readout.bias"] = torch.zeros(len(rowed.readout.labels))
    rowed = replace(rowed, tensors=tensors)
    with pytest.raises(IncompatiblePromptError, match=r"it has learned output rows \(`readout.bias`\)"):
        engine.submit(Ask(rowed, FILM))
    assert engine.submit(Ask(rowed.alone(), FILM)).result(60).answer.label in rowed.readout.labels


def test_more_choices_than_vllm_tells_are_refused(engine, backbone) -> None:
    names = [chr(0x4E00 + n) for n in range(200)]
    tokens = {backbone.tokenizer.encode(" " + name, add_special_tokens=False)[0] for name in names}
    vocabulary = [backbone.tokenizer.decode([token]) for token in range(3, backbone.vocab_size)]
    words = [word for word in vocabulary if backbone.tokenizer.encode(word, add_special_tokens=False) and word.strip()]
    firsts = {backbone.tokenizer.encode(word, add_special_tokens=False)[0]: word for word in words}
    assert len(firsts) > 128 > len(tokens)
    readout = LabelWords(tuple(f"l{n}" for n in range(len(firsts))), tuple(firsts.values()))
    many = replace(prompt(backbone, 3), readout=readout, requires=())
    with pytest.raises(ConfigError, match="labels part at one token, and vLLM tells the probabilities of 128 at once"):
        engine.submit(Ask(many, FILM))


def test_an_answer_that_a_stop_ends_is_aborted_in_vllm(engine, kinds, alone) -> None:
    stop = alone(Ask(kinds["long text"], FILM)).answer.label[4:6]
    engine.submit(Ask(kinds["long text"], FILM, stop=(stop,))).result(60)
    assert len(inner(engine).aborted) == 1
    assert not inner(engine).running
    engine.submit(Ask(kinds["long text"], FILM, max_tokens=2)).result(60)
    assert len(inner(engine).aborted) == 1  # what vLLM ended by itself is not


def test_vllm_is_asked_for_tokens_alone(engine, kinds, backbone) -> None:
    seen: list[SamplingParams] = []
    add = inner(engine).add_request
    inner(engine).add_request = lambda name, prompt, params: (seen.append(params), add(name, prompt, params))  # type: ignore[method-assign]
    sampling = Sampling(temperature=0.5, top_p=0.9, top_k=7, min_p=0.1, seed=9)
    engine.submit(Ask(kinds["text"], FILM, sampling=sampling, likeliest=2, max_tokens=5)).result(60)
    engine.submit(Ask(kinds["labels"], FILM)).result(60)
    written, read = seen
    assert (written.max_tokens, written.stop_token_ids, written.ignore_eos) == (5, [backbone.eos], True)
    assert (written.temperature, written.top_p, written.top_k, written.min_p) == (0.5, 0.9, 7, 0.1)
    assert (written.seed, written.logprobs) == (9, 2)
    assert (read.max_tokens, read.temperature, read.logprobs) == (1, 0.0, None)
    assert len(read.logprob_token_ids) == len(kinds["labels"].readout.labels)


def test_a_request_that_vllm_refuses_fails_alone(backbone, vllm, kinds) -> None:
    with VllmEngine(backbone, options={"max_model_len": 48}) as engine:
        long = engine.submit(Ask(kinds["text"], {"text": "a gripping film " * 10}))
        fine = engine.submit(Ask(kinds["labels"], FILM))
        with pytest.raises(BackboneError, match="vLLM refused the request: The decoder prompt"):
            long.result(60)
        assert fine.result(60).reason == "read"
        with pytest.raises(BackboneError, match=r"vLLM ended the answer after \d+ of 40 tokens, without its end; give"):
            engine.submit(Ask(kinds["long text"], FILM)).result(60)
        with pytest.raises(BackboneError, match="vLLM refused the request"):
            engine.submit(Ask(kinds["labels"], {"text": "a gripping film " * 10})).result(60)


def test_an_engine_that_dies_leaves_no_one_waiting(engine, kinds, caplog) -> None:
    inner(engine).broken = True
    with pytest.raises(EngineClosedError, match=r"the engine has ended because of an error of its own: RuntimeError"):
        engine.submit(Ask(kinds["text"], FILM)).result(60)
    assert not engine.healthy


def test_an_engine_that_tells_too_little_is_refused(backbone, kinds) -> None:
    class Silent:
        def __init__(self) -> None:
            self.names: list[str] = []

        def add(self, name: str, rows: torch.Tensor, wish: Wish) -> None:
            self.names.append(name)

        def abort(self, name: str) -> None:
            self.names.remove(name)

        def step(self) -> Sequence[Fresh]:
            names, self.names = self.names, []
            return [Fresh(name, ((3, {3: -1.0}),), True) for name in names]

    silent = Silent()
    assert isinstance(silent, Stepping)
    with (
        VllmEngine(backbone, engine=silent) as engine,
        pytest.raises(IncompatiblePromptError, match="the engine did not tell the log-probability of"),
    ):
        engine.submit(Ask(kinds["labels"], FILM)).result(60)


def test_without_vllm_the_extra_is_named(backbone, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(
        MissingExtraError, match=r'needs vLLM, which is not installed: pip install "softprompt\[vllm\]"'
    ):
        VllmEngine(backbone)
    with pytest.raises(UnsupportedBackboneError, match="vLLM takes embedded rows of decoders"):
        VllmEngine(tiny_backbone("bert"))


def test_options_go_to_vllm(vllm, backbone) -> None:
    engine = InProcess("org/name", max_model_len=64)
    assert engine._engine.args == EngineArgs("org/name", True, 128, True, 64)
    assert isinstance(engine, Stepping)
    with VllmEngine(backbone) as served:
        assert inner(served).args == EngineArgs("tiny-gemma3", True, 128, True, dtype="float32")
