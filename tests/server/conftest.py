"""A server on a free port over an engine that answers by script, and ways to speak to it."""

import http.client
import json
import re
import socket
import threading
import time
from contextlib import contextmanager

import pytest
import torch
import uvicorn

from softprompt.errors import IncompatiblePromptError, RequestCancelledError
from softprompt.modeling.answers import Answer, LabelSet, NumberAnswer, TagsAnswer, TextAnswer
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.registry import unknown_name
from softprompt.server.app import create_app
from softprompt.server.context import Context
from softprompt.server.keys import Door
from softprompt.server.settings import Settings
from softprompt.serving.asking import Ended, Failed, Piece, Token, Usage
from softprompt.serving.catalog import Served
from softprompt.tasks.chat import ChatTemplate
from softprompt.tasks.free_text import Text
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.readout_kinds import Scalar, YesNo
from softprompt.tasks.tags import TokenTags
from softprompt.tasks.template import Template
from softprompt.testing.tiny import tiny_backbone

CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
ANSWERS = {
    "label-words": lambda: Answer("good", 0.75, {"good": 0.75, "bad": 0.25}, cut=3),
    "yes-no": lambda: LabelSet("spam", 0.6, {"spam": 0.8, "rude": 0.25}, labels=("spam",)),
    "scalar": lambda: NumberAnswer("3.5", None, {}, number=3.5),
    "token-tags": lambda: TagsAnswer("B-PER O", None, {}, tags=("B-PER", "O"), words=("Ann", "sings"), spans=()),
}


def written(text, reason="stop", prompt_tokens=7, cut=0):
    """The events of a text, a word a piece, each word one token, and an end-of-sequence token."""
    words = re.findall(r"\S+\s*|\s+", text)
    for i, word in enumerate(words):
        likeliest = ((i, word, -0.5), (99, "other", float("-inf")))
        yield Piece(word, (Token(i, word, -0.5, likeliest),))
    answer = TextAnswer(text.strip(), None, {}, cut=cut, finished=reason == "stop")
    yield Ended(answer, reason, Usage(prompt_tokens, len(words) + 1))


def usual(ask):
    """Text prompts say what they were asked; the others answer by the kind of their readout."""
    readout = getattr(ask.prompt, "readout", None) or ask.prompt.reading.readout
    if isinstance(readout, Text):
        yield from written(f" said: {' | '.join(ask.fields.values())}")
    else:
        yield Ended(ANSWERS[readout.kind](), "read", Usage(5, 0))


class Ticket:
    def __init__(self, engine, ask, listener):
        self.ask, self.ended = ask, threading.Event()
        self.cancelled = threading.Event()
        self._engine, self._listener = engine, listener
        threading.Thread(target=self._tell, daemon=True).start()

    @property
    def read(self):
        return self._engine.read

    def cancel(self):
        self.cancelled.set()

    def _tell(self):
        try:
            for event in self._engine.script(self.ask):
                if self.cancelled.is_set():
                    event = Failed(RequestCancelledError("given up"))
                if isinstance(event, threading.Event):
                    while not event.wait(0.005) and not self.cancelled.is_set():
                        pass
                    continue
                self._listener(event)
                if not isinstance(event, Piece):
                    return
        finally:
            self.ended.set()


class ScriptedEngine:
    """Answers every request as `script` says; `refusal` is raised instead of taking one in."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.script, self.refusal, self.asks, self.tickets = usual, None, [], []
        self.read = 0  # what tickets say that was read of a row

    def submit(self, ask, listener=None):
        if self.refusal is not None and len(self.asks) >= self.refusal[0]:
            raise self.refusal[1]
        self.asks.append(ask)
        self.tickets.append(Ticket(self, ask, listener))
        return self.tickets[-1]

    def close(self, *, drain=True, timeout=None):
        pass


class Shelf:
    """A catalog of a few prompts."""

    def __init__(self, prompts, foreign=()):
        self.prompts, self.foreign, self.faults = prompts, foreign, {}

    def names(self):
        return tuple(sorted({*self.prompts, *self.foreign, *self.faults}))

    def find(self, reference):
        name, _, version = reference.partition("@")
        if name in self.faults:
            raise self.faults[name]
        if name in self.foreign:
            raise IncompatiblePromptError(f"the prompt was trained on `another`, not on this: `{name}`")
        if name not in self.prompts or version not in ("", "v2", "prod"):
            raise unknown_name("prompt", reference, self.prompts)
        return Served(reference, name, 2, self.prompts[name].digest, self.prompts[name])


def prompts_of(backbone):
    """A prompt of each kind of answer, and of each form of a row."""
    values = torch.randn(4, backbone.embedding_size, generator=torch.Generator().manual_seed(0))
    rows = {"input": values * backbone.embedding_rms}

    def prompt(pattern, readout):
        template = pattern if isinstance(pattern, Template) else Template(pattern)
        return SoftPrompt(rows, template, readout, backbone.fingerprint)

    one, two = "{bos}{soft}Text: {text}\nLabel:", "{bos}{soft}{context}\nQuestion: {question}\nAnswer:"
    return {
        "sentiment": prompt(one, LabelWords.from_labels(["good", "bad"])),
        "topics": prompt(one, YesNo.from_labels(["spam", "rude"])),
        "stars": prompt(one, Scalar(1.0, 5.0, (" one", " five"))),
        "names": prompt("{bos}{soft}{tokens} | {tokens}", TokenTags.from_tags(["B-PER", "O"])),
        "summary": prompt("{bos}{soft}{text}\nSummary:", Text(32)),
        "extract": prompt(two, Text(16)),
        "judge": prompt(two, LabelWords.from_labels(["yes", "no"])),
        "reply": prompt(ChatTemplate(system="Be brief."), Text(24)),
    }


class Reply:
    """What came back: status, headers, bytes."""

    def __init__(self, status, headers, data):
        self.status, self.headers, self.data = status, headers, data

    @property
    def json(self):
        return json.loads(self.data)

    @property
    def error(self):
        return self.json["error"]

    @property
    def events(self):
        """The payloads of a stream; the last one is `[DONE]`, if it is there."""
        found = [event.removeprefix("data: ") for event in self.data.decode().split("\n\n") if event]
        return [event if event == "[DONE]" else json.loads(event) for event in found]


class Rig:
    """A server that listens, and what it stands on."""

    def __init__(self, url, engine, catalog, app):
        self.url, self.engine, self.catalog, self.app = url, engine, catalog, app
        self.host, self.port = "127.0.0.1", int(url.rpartition(":")[2])
        self.connection, self.used = http.client.HTTPConnection(self.host, self.port, timeout=30), 0.0

    def send(self, method, path, body=None, **headers):
        """Send bytes, or JSON, with any headers."""
        data = json.dumps(body).encode() if isinstance(body, dict | list) else body
        shown = {"Content-Type": "application/json"} if body is not None else {}
        if time.monotonic() - self.used > 2:  # the server closes connections that are idle
            self.connection.close()
        self.connection.request(method, path, data, {**shown, **{k.replace("_", "-"): v for k, v in headers.items()}})
        reply = self.connection.getresponse()
        found, self.used = Reply(reply.status, reply.headers, reply.read()), time.monotonic()
        return found

    def post(self, path, body, **headers):
        return self.send("POST", path, body, **headers)

    def get(self, path, **headers):
        return self.send("GET", path, **headers)

    def chat(self, model, messages=None, **more):
        asked = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        body = {"model": model, **more} if asked is None else {"model": model, "messages": asked, **more}
        return self.post("/v1/chat/completions", body)

    def complete(self, model, prompt=None, **more):
        return self.post("/v1/completions", {"model": model, "prompt": prompt, **more})

    def classify(self, **body):
        return self.post("/v1/classify", body)

    def client(self, **options):
        import openai

        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, **options)


@contextmanager
def listening(app):
    """Run an application on a free port of this machine, and give its address."""
    config = uvicorn.Config(app, log_config=None, access_log=False, ws="none", lifespan="off")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
        thread.start()
        until = time.monotonic() + 20
        while not server.started and time.monotonic() < until:
            time.sleep(0.005)
        try:
            yield f"http://127.0.0.1:{taken.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


@contextmanager
def rigged(backbone, engine, catalog, door=None, **settings):
    context = Context(engine, catalog, backbone, Settings(request_log=False, **settings))
    app = create_app(context, door=door or Door(), telemetry={"tracing": False, "metrics": False, "logs": False})
    with listening(app) as url:
        rig = Rig(url, engine, catalog, app)
        yield rig
        rig.connection.close()


@pytest.fixture(scope="session")
def chatty():
    """A tiny backbone with a chat template."""
    found = tiny_backbone("llama")
    found.tokenizer.chat_template = CHAT
    return found


@pytest.fixture(scope="session")
def prompts(chatty):
    return prompts_of(chatty)


@pytest.fixture(scope="session")
def serving():
    """Make servers: `with serving(backbone, engine, catalog, **settings) as rig`."""
    return rigged


@pytest.fixture(scope="session")
def _session_rig(chatty, prompts):
    settings = {"max_rows": 8, "max_choices": 4, "max_tokens": 64, "max_body": 100_000}
    with rigged(chatty, ScriptedEngine(), Shelf(dict(prompts), ("foreign",)), **settings) as found:
        yield found


@pytest.fixture
def rig(_session_rig):
    """A server over a scripted engine, as new."""
    _session_rig.engine.reset()
    _session_rig.catalog.faults.clear()
    return _session_rig


@pytest.fixture(scope="session")
def script():
    """What scripts are made of."""
    return written
