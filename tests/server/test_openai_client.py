"""The real client of OpenAI against the real engine over a tiny backbone: what it reads is what one row alone gives."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import openai
import pytest

from softprompt.modeling.prompted_model import PromptedModel
from softprompt.modeling.sampling import Sampling
from softprompt.serving.catalog import Catalog
from softprompt.serving.engine import Engine
from softprompt.store.store import PromptStore
from softprompt.tasks.chat import ChatTemplate
from softprompt.tasks.free_text import Text
from softprompt.tasks.template import Template
from softprompt.testing.tiny import tiny_backbone

TEXTS = ["good", "a gripping film", "the story is bad and the ending worse", "See you at home", "!"]


@pytest.fixture(scope="module")
def served(serving, chatty, prompts, tmp_path_factory):
    store = PromptStore(tmp_path_factory.mktemp("store"))
    for name, prompt in prompts.items():
        store.put(prompt, name)
    with (
        Engine(chatty, rows=8) as engine,
        Catalog(store, chatty) as catalog,
        serving(chatty, engine, catalog) as rig,
    ):
        rig.store = store
        yield rig


@pytest.fixture(scope="module")
def client(served):
    with served.client() as found:
        yield found


@pytest.fixture(scope="module")
def alone(chatty):
    return PromptedModel(chatty)


def streamed(client, **asked):
    """The text of a streamed chat, and the reason of its end."""
    text, reason = "", None
    for chunk in client.chat.completions.create(stream=True, **asked):
        text += chunk.choices[0].delta.content
        reason = chunk.choices[0].finish_reason
    return text, reason


def conversation(text):
    return {"messages": json.dumps([{"role": "user", "content": text}])}


def test_streams_are_what_each_row_alone_gives(client, alone, prompts):
    """Two kinds of prompts, many callers at once: rows share passes and answers do not notice."""
    asked = [(name, f"{text} {i}") for i, text in enumerate(TEXTS * 2) for name in ("reply", "summary")]
    with ThreadPoolExecutor(16) as pool:
        calls = [
            pool.submit(streamed, client, model=name, messages=[{"role": "user", "content": text}])
            for name, text in asked
        ]
        found = [call.result() for call in calls]
    for (name, text), (said, reason) in zip(asked, found, strict=True):
        row = conversation(text) if name == "reply" else {"text": text}
        (written,) = alone.write([row], prompts[name])
        assert said == written.text
        assert reason == ("stop" if written.finished else "length")


def test_draws_are_those_of_the_seed(client, alone, prompts):
    reply = client.completions.create(
        model="summary", prompt=TEXTS[:2], n=2, seed=41, temperature=0.9, top_p=0.8, max_tokens=12,
        extra_body={"top_k": 40, "repetition_penalty": 1.1},
    )  # fmt: skip
    short = replace(prompts["summary"], readout=Text(12))
    for i, choice in enumerate(reply.choices):
        chosen = Sampling(temperature=0.9, top_p=0.8, top_k=40, repetition_penalty=1.1, seed=41 + i)
        (written,) = alone.write([{"text": TEXTS[i // 2]}], short, chosen)
        assert choice.text == written.text
    assert len({choice.text for choice in reply.choices}) == 4


def test_the_base_model_goes_on_and_chats(client, alone):
    bound = alone.bare(Template("{bos}{text}"), Text(16, lead=""))
    (written,) = alone.write([{"text": "a gripping"}], bound)
    reply = client.completions.create(model="tiny-llama", prompt="a gripping", temperature=0)
    assert reply.choices[0].text == written.text
    assert reply.usage.completion_tokens == len(written.tokens)
    bound = alone.bare(ChatTemplate(own_system=True), Text(9, lead=""))
    (written,) = alone.write([conversation("Hello")], bound)
    asked = [{"role": "user", "content": "Hello"}]
    chat = client.chat.completions.create(model="tiny-llama", messages=asked, temperature=0, max_completion_tokens=9)
    assert chat.choices[0].message.content == written.text


def test_every_kind_of_base_model_is_asked_in_its_form(serving):
    class Nothing:
        def names(self):
            return ()

    backbone = tiny_backbone("t5")
    bound = PromptedModel(backbone).bare(Template("{text}{sep}"), Text(7, lead=""))
    (written,) = PromptedModel(backbone).write([{"text": "a film"}], bound)
    with Engine(backbone) as engine, serving(backbone, engine, Nothing()) as rig:
        reply = rig.complete("tiny-t5", "a film", max_tokens=7, temperature=0)
        assert reply.json["choices"][0]["text"] == written.text
    with serving(tiny_backbone("bert"), None, Nothing()) as rig:
        reply = rig.complete("tiny-bert", "a film")
        assert (reply.status, reply.error["code"]) == (400, "unsupported")
        assert "writes no text" in reply.error["message"]


def test_log_probabilities_add_up(client, alone, prompts):
    reply = client.chat.completions.create(
        model="reply", messages=[{"role": "user", "content": "Hello"}], logprobs=True, top_logprobs=5
    )
    (written,) = alone.write([conversation("Hello")], prompts["reply"])
    content = reply.choices[0].logprobs.content
    assert len(content) == len(written.tokens) == reply.usage.completion_tokens
    assert sum(token.logprob for token in content) == pytest.approx(written.log_probability, abs=1e-4)
    for token in content:  # the likeliest is what was written, for nothing was drawn
        assert len(token.top_logprobs) == 5
        assert token.top_logprobs[0].logprob == token.logprob


def test_usage_counts_virtual_tokens_and_text(client, chatty, prompts):
    from softprompt.modeling.bound import BoundPrompt

    *chunks, last = client.completions.create(
        model="summary", prompt=TEXTS[1], stream=True, stream_options={"include_usage": True}
    )
    bound = BoundPrompt.of(chatty, prompts["summary"])
    row = bound.template.row({"text": TEXTS[1]})
    assert last.usage.prompt_tokens == len(bound.template.prefix) + len(row.ids)
    assert last.choices == []
    assert all(chunk.usage is None for chunk in chunks)


def test_choices_are_read_with_their_probabilities(client, alone, prompts):
    (answer,) = alone.score([{"text": TEXTS[1]}], prompts["sentiment"])
    reply = client.chat.completions.create(model="sentiment", messages=[{"role": "user", "content": TEXTS[1]}])
    assert reply.choices[0].message.content == answer.label
    assert reply.choices[0].answer["probability"] == pytest.approx(answer.probability, abs=1e-6)


def test_many_rows_and_prompts_are_classified_in_one_request(client, alone, prompts):
    names = ["sentiment", "topics", "stars"]
    found = client.post("/classify", body={"models": names, "input": TEXTS}, cast_to=object)["data"]
    ours = alone.score([{"text": text} for text in TEXTS for _ in names], [prompts[n] for _ in TEXTS for n in names])
    for told, answer in zip(found, ours, strict=True):
        assert told["label"] == answer.label
        assert told["probabilities"] == pytest.approx(dict(answer.probabilities), abs=1e-6)


def test_models_are_listed(client, prompts):
    assert {model.id for model in client.models.list()} == {"tiny-llama", *prompts}
    assert client.models.retrieve("sentiment@v1").parent == "tiny-llama"


def test_errors_are_the_clients_own(client):
    turns = [{"role": "user", "content": "Hello"}]
    with pytest.raises(openai.NotFoundError, match="did you mean `sentiment`") as caught:
        client.chat.completions.create(model="sentimant", messages=turns)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert caught.value.request_id
    with pytest.raises(openai.BadRequestError, match="`tools` is not supported"):
        client.chat.completions.create(model="reply", messages=turns, tools=[{"type": "function"}])
    with pytest.raises(openai.BadRequestError, match="asks for `context`, `question`"):
        client.chat.completions.create(model="extract", messages=turns)
    with pytest.raises(openai.BadRequestError, match=r"was trained with `Be brief\.`; use it"):
        client.chat.completions.create(model="reply", messages=[{"role": "system", "content": "Sing."}, *turns])


def test_a_new_version_is_served_without_a_restart(client, served, alone, prompts):
    second = replace(prompts["sentiment"], temperature=7.0)
    served.store.put(second, "sentiment")
    (answer,) = alone.score([{"text": TEXTS[1]}], second)
    until = time.monotonic() + 5
    while time.monotonic() < until:
        reply = client.chat.completions.create(model="sentiment", messages=[{"role": "user", "content": TEXTS[1]}])
        if reply.model == "sentiment@v2":
            break
    assert reply.choices[0].answer["probability"] == pytest.approx(answer.probability, abs=1e-6)


def test_a_client_that_leaves_frees_its_rows(client, served):
    stream = client.completions.create(model="tiny-llama", prompt="a", max_tokens=200, stream=True, temperature=0)
    next(iter(stream))
    stream.close()
    engine = served.app.state.context.engine
    until = time.monotonic() + 5
    while engine.running and time.monotonic() < until:
        time.sleep(0.01)
    assert engine.running == 0


def test_a_late_answer_is_504(serving, chatty, served):
    engine = served.app.state.context.engine
    with serving(chatty, engine, served.app.state.context.catalog, deadline=1e-4) as hurried:
        reply = hurried.complete("summary", "a")
    assert (reply.status, reply.error["code"]) == (504, "deadline_exceeded")


def test_a_closed_engine_is_503(serving, chatty, served):
    with Engine(chatty) as engine:
        engine.close()
    with serving(chatty, engine, served.app.state.context.catalog) as rig:
        reply = rig.complete("summary", "a")
    assert (reply.status, reply.error["code"], reply.headers["retry-after"]) == (503, "engine_closed", "1")
