"""/v1/completions: texts gone on with by the base model, and plain prompts asked with a text."""

import pytest


def texts(reply):
    return [choice["text"] for choice in reply.json["choices"]]


def test_the_base_model_goes_on_with_a_text(rig):
    reply = rig.complete("tiny-llama", "Once upon")
    assert texts(reply) == [" said: Once upon"]
    (ask,) = rig.engine.asks
    assert ask.prompt.template.prefix == (0,)  # the beginning of a sequence, and nothing else
    assert ask.prompt.reading.depth == 16  # OpenAI's number, where the request says none
    assert ask.prompt.reading.lead == ""
    assert ask.sampling.temperature == 1.0
    assert reply.json["object"] == "text_completion"
    assert reply.json["id"].startswith("cmpl-")
    assert reply.json["system_fingerprint"] == "sp_base"


def test_texts_of_one_length_share_what_stands_in_front(rig):
    for _ in range(2):
        rig.complete("tiny-llama", ["a", "b"], max_tokens=5)
    assert len({ask.prompt for ask in rig.engine.asks}) == 1
    rig.complete("tiny-llama", "a", max_tokens=6)
    assert len({ask.prompt.key for ask in rig.engine.asks}) == 1


def test_a_list_of_texts_is_answered_in_order(rig):
    reply = rig.complete("summary", ["a", "b"], n=2, seed=5)
    assert texts(reply) == [" said: a", " said: a", " said: b", " said: b"]
    assert [choice["index"] for choice in reply.json["choices"]] == [0, 1, 2, 3]
    assert reply.json["usage"] == {"prompt_tokens": 14, "completion_tokens": 16, "total_tokens": 30}
    assert sorted((ask.sampling.seed, ask.fields["text"]) for ask in rig.engine.asks) == [
        (5, "a"), (6, "a"), (7, "b"), (8, "b"),
    ]  # fmt: skip


def test_prompts_that_choose_answer_with_their_choice(rig):
    reply = rig.complete("sentiment", "great")
    assert texts(reply) == ["good"]
    assert reply.json["choices"][0]["answer"]["cut"] == 3


def test_fields_stand_for_a_text(rig):
    assert rig.complete("judge", fields={"context": "a", "question": "b"}).status == 200
    assert rig.complete("judge", ["b", "c"], fields={"context": "a"}).status == 200
    assert [ask.fields["question"] for ask in rig.engine.asks] == ["b", "b", "c"]
    assert "asks for the fields" in rig.complete("judge").error["message"]
    assert "no fields" in rig.complete("tiny-llama", "a", fields={"text": "b"}).error["message"]


def test_a_prompt_of_conversations_is_asked_elsewhere(rig):
    reply = rig.complete("reply", "Hello")
    assert (reply.status, reply.error["code"]) == (400, "wrong_endpoint")
    assert "/v1/chat/completions" in reply.error["message"]


@pytest.mark.parametrize("prompt", [[1, 2, 3], [[1, 2], [3]], [], {"a": 1}, 5, [None]])
def test_tokens_are_no_text(rig, prompt):
    reply = rig.complete("tiny-llama", prompt)
    assert (reply.status, reply.error["param"]) == (400, "prompt")


def test_tokens_are_refused_in_words(rig):
    assert "tokens, or lists of them, are not taken" in rig.complete("summary", [1, 2]).error["message"]


@pytest.mark.parametrize("prompt", ["", None, [""]])
def test_the_base_model_needs_a_text(rig, prompt):
    assert "`prompt` is missing or empty" in rig.complete("tiny-llama", prompt).error["message"]


def test_more_tokens_than_there_is_room_for_are_refused(rig):
    reply = rig.complete("tiny-llama", "x" * 300, max_tokens=10)
    assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "context_length_exceeded", "prompt")
    assert rig.complete("tiny-llama", "x" * 190, max_tokens=5000).status == 200  # as many as this server writes
    assert rig.complete("tiny-llama", "x" * 250, max_tokens=20).status == 400


def test_more_texts_than_the_server_takes_are_refused(rig):
    assert "at most 8" in rig.complete("summary", ["a"] * 3, n=3).error["message"]


def test_log_probabilities_are_told_by_token(rig):
    told = rig.complete("summary", "abc", logprobs=2).json["choices"][0]["logprobs"]
    assert told["tokens"] == [" ", "said: ", "abc"]
    assert told["token_logprobs"] == [-0.5] * 3
    assert told["text_offset"] == [0, 1, 7]
    assert told["top_logprobs"][2] == {"abc": -0.5, "other": -9999.0}
    assert rig.complete("summary", "a", logprobs=0).json["choices"][0]["logprobs"]["top_logprobs"] is None
    assert rig.complete("summary", "a").json["choices"][0]["logprobs"] is None


def test_a_stream_says_the_same(rig):
    *chunks, done = rig.complete("summary", "abc d", stream=True, logprobs=0).events
    assert done == "[DONE]"
    choices = [chunk["choices"][0] for chunk in chunks]
    assert "".join(choice["text"] for choice in choices) == " said: abc d"
    assert choices[-1]["finish_reason"] == "stop"
    assert [offset for choice in choices for offset in choice["logprobs"]["text_offset"]] == [0, 1, 7, 11]


@pytest.mark.parametrize(
    ("field", "value"),
    [("suffix", "the end"), ("echo", True), ("best_of", 3), ("best_of", 1), ("logit_bias", {"1": 1})],
)
def test_what_would_change_the_answer_is_refused(rig, field, value):
    reply = rig.complete("summary", "a", **{field: value}, n=2)
    assert (reply.status, reply.error["param"], reply.error["code"]) == (400, field, "unsupported_field")


def test_what_changes_nothing_is_taken(rig):
    assert rig.complete("summary", "a", suffix="", echo=False, best_of=2, n=2, user="me").status == 200


def test_answers_to_the_same_row_share_its_tokens(rig):
    assert rig.complete("summary", ["a", "b"], n=2).status == 200
    first, second, third, fourth = (ask.shared for ask in rig.engine.asks)
    assert first is second
    assert third is fourth
    assert first is not third
