"""/v1/chat/completions: each prompt in the form it was trained in, and what OpenAI's clients are told."""

import json
import threading

import pytest


def message(reply):
    return reply.json["choices"][0]["message"]["content"]


def test_a_chat_prompt_takes_the_conversation(rig):
    turns = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": [{"type": "text", "text": "How "}, {"type": "text", "text": "are you?"}]},
    ]
    reply = rig.chat("reply", turns)
    assert reply.status == 200, reply.data
    (ask,) = rig.engine.asks
    assert json.loads(ask.fields["messages"]) == [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "How are you?"},
    ]
    assert ask.name == "reply"
    assert ask.sampling.greedy
    assert reply.json["object"] == "chat.completion"
    assert reply.json["model"] == "reply@v2"
    assert reply.json["id"].startswith("chatcmpl-")
    assert reply.json["choices"][0]["finish_reason"] == "stop"
    assert message(reply).startswith(" said: [")


def test_a_plain_prompt_takes_one_user_message(rig):
    reply = rig.chat("summary", "A long story.")
    assert message(reply) == " said: A long story."
    assert rig.engine.asks[0].fields == {"text": "A long story."}
    # the space in front, four words and the end
    assert reply.json["usage"] == {"prompt_tokens": 7, "completion_tokens": 6, "total_tokens": 13}


@pytest.mark.parametrize(
    "turns",
    [
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
        [],
    ],
)
def test_a_plain_prompt_takes_nothing_else(rig, turns):
    reply = rig.chat("summary", turns)
    assert (reply.status, reply.error["param"]) == (400, "messages")
    assert "takes one user message" in reply.error["message"]
    assert rig.engine.asks == []


def test_several_fields_are_given_by_name(rig):
    fields = {"context": "Ann sings.", "question": "Who sings?"}
    assert rig.chat("extract", [], fields=fields).status == 200
    assert rig.chat("extract", None, fields=fields).status == 200
    assert rig.chat("extract", "Who sings?", fields={"context": "Ann sings."}).status == 200
    assert [ask.fields for ask in rig.engine.asks] == [fields] * 3


@pytest.mark.parametrize(
    ("fields", "text", "words"),
    [
        (None, "Who?", "asks for `context`, `question`, which one text cannot fill"),
        ({"context": "a"}, None, "asks for the fields `context`, `question`; missing: `question`"),
        ({"contxt": "a", "question": "b"}, None, "has no field `contxt`; it asks for `context`, `question`"),
        ({"context": "a", "question": "b"}, "c", "`fields` hold everything"),
    ],
)
def test_wrong_fields_are_named(rig, fields, text, words):
    reply = rig.chat("extract", text, fields=fields)
    assert reply.status == 400
    assert words in reply.error["message"]


def test_a_conversation_has_no_fields(rig):
    assert "has no fields" in rig.chat("reply", "Hello", fields={"text": "a"}).error["message"]
    assert "has no fields" in rig.chat("tiny-llama", "Hello", fields={"text": "a"}).error["message"]


@pytest.mark.parametrize(
    ("name", "row", "text", "more"),
    [
        ("sentiment", "great film", "good", {"probability": 0.75, "probabilities": {"good": 0.75, "bad": 0.25}}),
        ("topics", "buy now", "spam", {"labels": ["spam"], "probability": 0.6}),
        ("stars", "great film", "3.5", {"number": 3.5, "probability": None}),
        ("names", "Ann sings", "B-PER O", {"tags": ["B-PER", "O"], "words": ["Ann", "sings"], "spans": []}),
    ],
)
def test_what_is_read_is_the_message(rig, name, row, text, more):
    reply = rig.chat(name, row)
    choice = reply.json["choices"][0]
    assert choice["message"]["content"] == text
    assert choice["finish_reason"] == "stop"
    assert {key: choice["answer"][key] for key in more} == more
    assert reply.json["usage"] == {"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}


def test_the_base_model_chats_in_its_own_template(rig):
    reply = rig.chat("tiny-llama", [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}])
    assert reply.status == 200
    (ask,) = rig.engine.asks
    assert ask.sampling.temperature == 1.0
    taken = ask.prompt.template.row(ask.fields)
    length = len(ask.prompt.template.prefix) + len(taken.ids)
    assert length + ask.prompt.reading.depth <= 256
    assert ask.prompt.reading.depth == 64  # the most that this server writes
    assert reply.json["model"] == "tiny-llama"


def test_the_base_model_answers_as_far_as_there_is_room(rig):
    rig.chat("tiny-llama", "x" * 180)
    (ask,) = rig.engine.asks
    length = len(ask.prompt.template.prefix) + len(ask.prompt.template.row(ask.fields).ids)
    assert 0 < ask.prompt.reading.depth == 256 - length < 64


def test_a_conversation_without_room_is_refused(rig):
    for name in ("tiny-llama", "reply"):
        reply = rig.chat(name, "x" * 3000)
        assert (reply.status, reply.error["code"]) == (400, "context_length_exceeded")
        assert "has room for 256 tokens" in reply.error["message"]
    assert rig.chat("tiny-llama", "x" * 200, max_tokens=60).error["code"] == "context_length_exceeded"


def test_without_a_chat_template_there_is_no_chat(serving, prompts):
    from softprompt.testing.tiny import tiny_backbone

    class Nothing:
        def names(self):
            return ()

    with serving(tiny_backbone("llama"), None, Nothing()) as rig:
        reply = rig.chat("tiny-llama", "Hello")
        assert (reply.status, reply.error["code"]) == (400, "no_chat_template")
        assert "use /v1/completions" in reply.error["message"]


def test_sampling_reaches_the_engine(rig):
    rig.chat(
        "summary", "a", temperature=0.7, top_p=0.9, top_k=-1, min_p=0.1, repetition_penalty=1.2, seed=11,
        max_completion_tokens=9, stop=["\n", "END"], logprobs=True, top_logprobs=3, n=3,
    )  # fmt: skip
    asks = sorted(rig.engine.asks, key=lambda ask: ask.sampling.seed)
    assert [ask.sampling.seed for ask in asks] == [11, 12, 13]
    chosen = asks[0].sampling
    assert (chosen.temperature, chosen.top_p, chosen.top_k, chosen.min_p) == (0.7, 0.9, 0, 0.1)
    assert chosen.repetition_penalty == 1.2
    assert (asks[0].max_tokens, asks[0].stop, asks[0].likeliest) == (9, ("\n", "END"), 3)
    assert 590 < asks[0].deadline <= 600  # what is left of it


def test_without_a_seed_each_request_draws_anew(rig):
    for _ in range(2):
        rig.chat("summary", "a", temperature=1)
    first, second = (ask.sampling.seed for ask in rig.engine.asks)
    assert first != second


def test_a_prompt_brings_its_own_defaults(rig, prompts):
    from dataclasses import replace

    told = {"temperature": 0.3, "top_k": 5, "top_p": "high", "else": 1}
    rig.catalog.prompts["own"] = replace(prompts["summary"], decoding=told)
    rig.chat("own", "a")
    rig.chat("own", "a", temperature=0)
    del rig.catalog.prompts["own"]
    first, second = (ask.sampling for ask in rig.engine.asks)
    assert (first.temperature, first.top_k, first.top_p) == (0.3, 5, 1.0)
    assert (second.temperature, second.top_k) == (0, 5)


def test_an_answer_has_no_more_tokens_than_the_server_gives(rig):
    rig.chat("summary", "a", max_tokens=5000)
    rig.chat("summary", "a")
    assert [ask.max_tokens for ask in rig.engine.asks] == [64, 64]


def test_several_answers_count_their_prompt_once(rig):
    reply = rig.chat("summary", "a b", n=3)
    assert [choice["index"] for choice in reply.json["choices"]] == [0, 1, 2]
    assert reply.json["usage"]["prompt_tokens"] == 7
    assert reply.json["usage"]["completion_tokens"] == 3 * 5
    assert "at most 4 answers" in rig.chat("summary", "a", n=5).error["message"]


def test_log_probabilities_are_told_by_token(rig):
    content = rig.chat("summary", "é", logprobs=True, top_logprobs=2).json["choices"][0]["logprobs"]["content"]
    assert [token["token"] for token in content] == [" ", "said: ", "é"]
    assert content[2]["bytes"] == [195, 169]
    assert content[2]["logprob"] == -0.5
    assert content[2]["top_logprobs"][1] == {"token": "other", "logprob": -9999.0, "bytes": [111, 116, 104, 101, 114]}
    assert rig.chat("summary", "a").json["choices"][0]["logprobs"] is None


def test_a_stream_says_the_same(rig):
    reply = rig.chat("summary", "a b c", stream=True, stream_options={"include_usage": True}, logprobs=True)
    assert reply.headers["content-type"].startswith("text/event-stream")
    *chunks, last, done = reply.events
    assert done == "[DONE]"
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 7, "completion_tokens": 6, "total_tokens": 13}
    assert all(chunk["usage"] is None and chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"]["role"] == "assistant"
    assert all("role" not in choice["delta"] for choice in choices[1:])
    assert "".join(choice["delta"]["content"] for choice in choices) == " said: a b c"
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]
    tokens = [token["token"] for choice in choices for token in choice["logprobs"]["content"]]
    assert "".join(tokens) == " said: a b c"
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_a_stream_without_options_tells_no_usage(rig):
    *chunks, done = rig.chat("summary", "a", stream=True).events
    assert done == "[DONE]"
    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)


def test_a_stream_of_several_answers_tells_them_apart(rig):
    *chunks, _ = rig.chat("summary", "a b", n=2, stream=True).events
    for index in (0, 1):
        own = [c for chunk in chunks for c in chunk["choices"] if c["index"] == index]
        assert "".join(choice["delta"]["content"] for choice in own) == " said: a b"
        assert own[-1]["finish_reason"] == "stop"


def test_a_stream_of_an_answer_that_is_read_has_it_at_once(rig):
    (chunk, done) = rig.chat("sentiment", "great", stream=True).events
    assert done == "[DONE]"
    assert chunk["choices"][0]["delta"] == {"role": "assistant", "content": "good"}
    assert chunk["choices"][0]["answer"]["probability"] == 0.75


def test_tokens_that_come_together_go_together(rig, script):
    gate, many = threading.Event(), " ".join(map(str, range(300)))

    def slowly(ask):
        events = list(script(many))
        yield events[0]
        yield gate
        yield from events[1:]

    rig.engine.script = slowly
    threading.Timer(0.2, gate.set).start()
    *chunks, _ = rig.chat("summary", "a", stream=True).events
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == many
    assert 2 <= len(chunks) < 300


def test_an_answer_at_its_length_says_so(rig, script):
    rig.engine.script = lambda ask: script("a b", reason="length", cut=4)
    choice = rig.chat("summary", "a").json["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["answer"] == {"cut": 4}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("functions", [{"name": "f"}]),
        ("response_format", {"type": "json_object"}),
        ("logit_bias", {"50256": -100}),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("frequency_penalty", 0.5),
        ("presence_penalty", -1),
        ("web_search_options", {}),
        ("reasoning_effort", "high"),
    ],
)
def test_what_would_change_the_answer_is_refused(rig, field, value):
    reply = rig.chat("summary", "a", **{field: value})
    assert (reply.status, reply.error["param"], reply.error["code"]) == (400, field, "unsupported_field")
    assert f"`{field}` is not supported" in reply.error["message"]


def test_what_changes_nothing_is_taken(rig):
    nothing = {
        "tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "logit_bias": {},
        "modalities": ["text"], "audio": None, "frequency_penalty": 0, "presence_penalty": 0.0, "user": "me",
        "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "parallel_tool_calls": True, "n": None,
        "temperature": None, "stop": None, "stream": False, "seed": None,
    }  # fmt: skip
    assert rig.chat("summary", "a", **nothing).status == 200


@pytest.mark.parametrize(
    ("turn", "param", "words"),
    [
        ({"role": "tool", "content": "a", "tool_call_id": "x"}, "messages.0.role", "is 'tool'; it is one of system,"),
        ({"content": "a"}, "messages.0.role", "`messages.0.role` is missing"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "messages.0.content", "than text"),
        ({"role": "user", "content": None}, "messages.0.content", "`messages.0` holds something else than text"),
        ({"role": "user", "content": 5}, "messages.0.content", "give its words in `content`"),
        ({"role": "user", "content": "  "}, "messages", "`messages`, message 1 has no words"),
        ({"role": "assistant", "content": "a"}, "messages", "no user turn"),
        ({"role": "system", "content": "a"}, "messages", "no user turn"),
    ],
)
def test_odd_messages_are_refused(rig, turn, param, words):
    reply = rig.chat("reply", [turn])
    assert (reply.status, reply.error["param"]) == (400, param), reply.data
    assert words in reply.error["message"]


def test_a_chat_without_messages_is_refused(rig):
    for messages in ([], None):
        assert "`messages` is missing or empty" in rig.chat("reply", messages).error["message"]


def test_a_conversation_ends_in_a_users_turn(rig):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert "end in an assistant's turn" in rig.chat("reply", turns).error["message"]


def test_requests_that_contradict_themselves_are_refused(rig):
    both = rig.chat("summary", "a", max_tokens=1, max_completion_tokens=2)
    assert "give one of them" in both.error["message"]
    assert "needs `logprobs`" in rig.chat("summary", "a", top_logprobs=2).error["message"]
