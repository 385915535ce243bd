"""Requests that cannot be answered are refused in OpenAI's shape, whatever is wrong, and the server goes on."""

import json
import random

import pytest

from softprompt.serving.engine import Engine

CASES = 150
"""Malformed requests of each kind."""
SHAPE = {"message", "type", "param", "code"}
SIGNS = [
    "\x00",
    "\ue000",
    "\ue0001\ue001",
    "\u202e",
    "\ufeff",
    "é",
    "日本語",
    "🤷🏽‍♀️",
    "{soft}",
    "{bos}",
    "<s>",
    "</s>",
    '"',
    "\\",
    "\r\n",
    " ",
]

TEXTS = {
    "chat": {"model": "summary", "messages": [{"role": "user", "content": "a film"}]},
    "completions": {"model": "summary", "prompt": "a film"},
    "classify": {"model": "sentiment", "input": "a film"},
}
PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions", "classify": "/v1/classify"}
WRONG = {
    "model": [None, 5, [], {}, "", "x" * 300, True],
    "temperature": ["1", -1, 101, [], {}, "hot", float("nan"), float("inf")],
    "top_p": [0, -0.1, 1.1, "a", []],
    "top_k": [-2, 1.5, "a", [1]],
    "min_p": [-1, 2, "a"],
    "repetition_penalty": [0, -1, 1000, "a"],
    "n": [0, -1, 1.5, "1", [], 10**30],
    "max_tokens": [0, -5, "a", 1.5, [1]],
    "seed": ["a", 1.5, 2**64, -(2**70), []],
    "stop": [5, [5], "", [""], ["a"] * 17, {}, [None]],
    "stream": ["yes", 1, []],
    "stream_options": [5, {"x": 1}, {"include_usage": "yes"}],
    "fields": [5, [], {}, {"a": 5}, {"a": None}, {"nobody": "a"}],
}
OWN = {
    "chat": {
        "messages": [5, "a", {}, [5], [None], ["a"], [[]], [{}], [{"role": "user"}], [{"role": 5, "content": "a"}], []],
        "logprobs": ["yes", 3, []],
        "top_logprobs": [21, -1, "a", 2],
        "tools": [5, [{}], "a"],
        "max_completion_tokens": [0, "a", {}],
    },
    "completions": {
        "prompt": [5, {}, [5], [[1, 2]], [None], [], True, None],
        "logprobs": [21, -1, "a", True],
        "echo": [True, 5, "a"],
        "best_of": [7, "a", []],
        "suffix": [5, "a"],
    },
}
CLASSIFY = {
    "model": [None, 5, [], "", "summary", "reply", "tiny-llama"],
    "input": [None, 5, {}, [], [5], [[]], {"text": 5}, {"txt": "a"}, [{"text": "a"}, {}], ["a"] * 9, True],
    "models": ["topics", ["topics"], 5],
    "requests": [[], [{"model": "topics", "input": "a"}], 5, [5]],
}


def wrong_value(rng, kind):
    values = CLASSIFY if kind == "classify" else {**WRONG, **OWN[kind]}
    field = rng.choice(sorted(values))
    return {**TEXTS[kind], field: rng.choice(values[field])}


def odd(rng, length=8):
    return "".join(
        rng.choice([*SIGNS, chr(rng.randrange(32, 0xD7FF)), "a", "b"]) for _ in range(rng.randrange(1, length))
    )


def nested(rng):
    deep = rng.choice(["[", '{"a":']) * rng.choice([150, 1000, 30_000])
    return b'{"model": "summary", "%s": %s' % (rng.choice([b"messages", b"prompt", b"input", b"user"]), deep.encode())


def broken(rng, kind):
    whole = json.dumps(TEXTS[kind]).encode()
    cut = rng.randrange(len(whole))
    return rng.choice(
        [
            whole[:cut],
            whole + b"}",
            whole[:cut] + b"\xff\xfe" + whole[cut:],
            whole.replace(b"a film", b"\\ud83d film"),
            rng.randbytes(rng.randrange(200)),
            nested(rng),
            json.dumps(rng.choice([None, 5, "a", [], [TEXTS[kind]], True])).encode(),
            whole.replace(b'"model"', b"'model'"),
        ]
    )


def other_names(rng, kind):
    name = rng.choice(
        ["sentimnet", "gpt-4", "../../etc/passwd", "a@b@c", "summary@v77", "sha256:00", odd(rng), odd(rng)]
    )
    return {**TEXTS[kind], "model": name}


def other_fields(rng, kind):
    return {**TEXTS[kind], f"{odd(rng)}?": rng.choice([1, None, "a", [], {}])}


def other_type(rng):
    signs = "".join(chr(rng.randrange(33, 127)) for _ in range(12))
    return rng.choice(["text/plain", "application/xml", "multipart/form-data; boundary=x", "json", signs])


@pytest.mark.parametrize("make", [wrong_value, broken, other_names, other_fields])
def test_malformed_requests_are_refused(rig, make):
    rng = random.Random(make.__name__)
    for number in range(CASES):
        kind = rng.choice(sorted(PATHS))
        body = make(rng, kind)
        reply = rig.post(PATHS[kind], body)
        refused(reply, body)
        if number % 50 == 0:
            assert rig.complete("summary", "a").status == 200
    assert rig.complete("summary", "a").json["choices"][0]["text"] == " said: a"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH"])
def test_other_ways_and_types_are_refused(rig, method):
    rng = random.Random(method)
    for _ in range(20):
        kind, path = rng.choice(sorted(PATHS)), f"/{odd(rng).encode().hex()}"
        body = json.dumps(TEXTS[kind]).encode()
        refused(rig.send(method, path, body), path)
        refused(rig.post(PATHS[kind], body, Content_Type=other_type(rng)), kind)
        if method != "POST":
            refused(rig.send(method, PATHS[kind], body), method)


def test_odd_texts_are_answered(serving, chatty, rig):
    """With the real engine: nothing that can be said in Unicode is a fault."""
    rng = random.Random(0)
    with Engine(chatty, rows=8) as engine, serving(chatty, engine, rig.catalog) as real:
        for _ in range(24):
            text = odd(rng, 20)
            asked = [
                real.chat("reply", text, max_tokens=2),
                real.chat("summary", text, max_tokens=2, stop=[odd(rng)]),
                real.complete("tiny-llama", text, max_tokens=2, logprobs=3),
                real.classify(model="sentiment", input=[text, {"text": odd(rng)}]),
                real.chat("names", text),
            ]
            for reply in asked:
                assert reply.status in (200, 400), reply.data
                if reply.status == 400:
                    refused(reply, text)


def refused(reply, what):
    assert 400 <= reply.status < 500, (reply.status, what)
    assert reply.headers["content-type"] == "application/json", what
    assert set(reply.error) == SHAPE, what
    assert isinstance(reply.error["message"], str)
    assert 0 < len(reply.error["message"]) < 2000
    assert reply.headers["x-request-id"]
