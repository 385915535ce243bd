"""/v1/classify: many rows, many prompts, one request."""

import pytest

from softprompt.server.rows import _not_one
from softprompt.server.schema import ClassifyForm


def test_one_row(rig):
    reply = rig.classify(model="sentiment", input="great film")
    assert reply.status == 200, reply.data
    assert reply.json["object"] == "list"
    assert reply.json["model"] == "sentiment@v2"
    assert reply.json["data"] == [
        {
            "index": 0, "model": "sentiment@v2", "kind": "label-words", "label": "good", "probability": 0.75,
            "probabilities": {"good": 0.75, "bad": 0.25}, "abstained": False, "cut": 3,
        }
    ]  # fmt: skip
    assert reply.json["usage"] == {"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}


def test_rows_and_prompts_go_to_the_engine_together(rig):
    reply = rig.classify(models=["sentiment", "topics@prod"], input=["a", {"text": "b"}, "c"])
    told = [(each["index"], each["model"]) for each in reply.json["data"]]
    assert told == [(i, name) for i in range(3) for name in ("sentiment@v2", "topics@v2")]
    assert [ask.fields["text"] for ask in rig.engine.asks] == ["a", "a", "b", "b", "c", "c"]
    assert reply.json["model"] is None
    assert reply.json["usage"]["prompt_tokens"] == 30


def test_each_row_may_have_its_own_prompt(rig):
    asked = [
        {"model": "stars", "input": "a"},
        {"model": "names", "input": {"tokens": "Ann sings"}},
        {"model": "judge", "input": {"context": "a", "question": "b"}},
    ]
    stars, names, judge = rig.classify(requests=asked).json["data"]
    assert (stars["kind"], stars["number"], stars["label"]) == ("scalar", 3.5, "3.5")
    assert (names["kind"], names["tags"], names["spans"]) == ("token-tags", ["B-PER", "O"], [])
    assert (judge["index"], judge["model"]) == (2, "judge@v2")


def test_several_labels_are_told(rig):
    (row,) = rig.classify(model="topics", input="a").json["data"]
    assert (row["labels"], row["probabilities"]) == (["spam"], {"spam": 0.8, "rude": 0.25})


@pytest.mark.parametrize(
    ("name", "way"), [("summary", "completions"), ("reply", "chat"), ("tiny-llama", "completions")]
)
def test_a_prompt_that_writes_does_not_classify(rig, name, way):
    reply = rig.classify(model=name, input="a")
    assert (reply.status, reply.error["code"]) == (400, "wrong_endpoint")
    assert f"/v1/{way}" in reply.error["message"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"input": "a"}, "say once for which prompts"),
        ({"model": "sentiment", "models": ["topics"], "input": "a"}, "say once for which prompts"),
        ({"model": "sentiment"}, "`input` is missing"),
        ({"requests": [{"model": "sentiment", "input": "a"}], "input": "b"}, "bring an `input` each"),
        ({"model": "sentiment", "input": 5}, "`input` is a text, the fields of a row"),
        ({"model": "sentiment", "input": []}, "`input` is a text, the fields of a row"),
        ({"model": "sentiment", "input": {"text": 5}}, "`input` is a text, the fields of a row"),
        ({"models": [], "input": "a"}, "`models`"),
        ({"model": "sentiment", "inptu": "a"}, "unknown field `inptu`; did you mean `input`?"),
    ],
)
def test_odd_requests_are_refused(rig, body, words):
    reply = rig.classify(**body)
    assert reply.status == 400
    assert words in reply.error["message"]


def test_a_wrong_row_is_named(rig):
    reply = rig.classify(model="judge", input=[{"context": "a", "question": "b"}, {"context": "a"}])
    assert (reply.status, reply.error["param"]) == (400, "input.1")
    assert "missing: `question`" in reply.error["message"]
    assert rig.engine.asks == []


def test_more_rows_than_the_server_takes_are_refused(rig):
    reply = rig.classify(models=["sentiment", "topics"], input=["a"] * 5)
    assert (reply.status, reply.error["code"]) == (413, "too_many_rows")
    assert "10 answers at once; this server gives at most 8" in reply.error["message"]


def test_answers_are_counted_before_questions_are_made(rig, monkeypatch):
    made = []
    monkeypatch.setattr(ClassifyForm, "questions", lambda form: made.append(form) or [])
    for body in ({"models": ["a"] * 3000, "input": ["b"] * 3000}, {"model": "sentiment", "input": ["b"] * 9}):
        assert rig.classify(**body).error["code"] == "too_many_rows"
    assert made == []


def test_a_prompt_that_is_named_twice_is_asked_once(rig):
    reply = rig.classify(models=["sentiment", "topics", "sentiment"], input=["a", "b"])
    told = [(each["index"], each["model"]) for each in reply.json["data"]]
    assert told == [(i, name) for i in range(2) for name in ("sentiment@v2", "topics@v2", "sentiment@v2")]
    assert [ask.fields["text"] for ask in rig.engine.asks] == ["a", "a", "b", "b"]
    assert reply.json["usage"]["prompt_tokens"] == 20


@pytest.mark.parametrize("row", ["x" * 30_000, {"text": "x" * 30_000}])
def test_long_rows_for_many_prompts_are_refused_before_anything_is_encoded(rig, row):
    assert rig.classify(models=["sentiment", "topics", "stars"], input=row).status == 200
    rig.engine.reset()
    reply = rig.classify(models=["sentiment", "topics", "stars", "sentiment@prod"], input=row)
    assert (reply.status, reply.error["code"], reply.error["param"]) == (413, "input_too_large", "input")
    assert "120,000 characters" in reply.error["message"]
    assert "at most 100,000 in one request" in reply.error["message"]
    assert rig.engine.asks == []


def test_a_text_for_several_fields_is_told_the_form_that_is_taken_here():
    said = _not_one("pair", ["premise", "claim"], "input.0")
    assert said.endswith('give the row in `input.0` as {"premise": "…", "claim": "…"}')
    assert 'give `fields`: {"premise": "…"' in _not_one("pair", ["premise", "claim"], "fields")
