"""Conversations by the tokenizer's own chat template: prefix, rows, spans to learn, and what is refused."""

import json

import pytest

from softprompt.errors import DataError, TemplateError
from softprompt.tasks.chat import ChatTemplate, template_from_json
from softprompt.tasks.messages import read_messages
from softprompt.tasks.template import Template
from softprompt.testing.tiny import tiny_tokenizer

PLAIN = (
    "<s>{% for m in messages %}{{ m.role }}: {{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}{{ '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
# A system message inside the first user turn, a space in front of answers, and no invitation to answer.
FOLDED = (
    "{% if messages[0].role == 'system' %}{% set s = messages[0].content %}{% set rest = messages[1:] %}"
    "{% else %}{% set s = '' %}{% set rest = messages %}{% endif %}<s>"
    "{% for m in rest %}{% if m.role == 'user' %}[INST] {% if loop.first and s %}{{ s }}\n\n{% endif %}"
    "{{ m.content }} [/INST]{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)


def tokenizer(template=PLAIN):
    found = tiny_tokenizer()
    found.chat_template = template
    return found


def conversation(*texts, system=None):
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return {"messages": json.dumps([*([{"role": "system", "content": system}] if system else []), *turns])}


def said(found, ids):
    star = found.encode("*")[0]
    return found.decode([star if i < 0 else i for i in ids])


def test_the_soft_slot_stands_at_the_start_of_the_first_user_turn():
    found = tokenizer()
    chat = ChatTemplate().tokenize(found, 3)
    assert said(found, chat.prefix) == "<s>user: ***"
    assert chat.prefix[-3:] == (-1, -2, -3)
    assert said(found, chat.row(conversation("good film?")).ids) == "good film?\nassistant: "
    assert chat.stop == (found.eos_token_id,)


@pytest.mark.parametrize("template", [PLAIN, FOLDED])
def test_prefix_row_and_answer_are_the_template_of_the_tokenizer(template):
    found = tokenizer(template)
    chat = ChatTemplate(system="Be brief.").tokenize(found, 0)
    turns = [("system", "Be brief."), ("user", "good?"), ("assistant", "yes"), ("user", "why?"), ("assistant", "plot")]
    whole = found.apply_chat_template([{"role": r, "content": t} for r, t in turns], tokenize=False)
    row = chat.learned(conversation("good?", "yes", "why?"), "plot")
    assert said(found, chat.prefix + row.ids) == whole.rstrip("\n")


def test_every_assistant_turn_is_learned_with_its_end_and_nothing_else():
    found = tokenizer()
    chat = ChatTemplate().tokenize(found, 2)
    values = conversation("good?", "yes", "why?")
    learned = chat.learned(values, "the plot")
    assert [said(found, learned.ids[a:b]) for a, b in learned.spans] == ["yes</s>", "the plot</s>"]
    assert learned.ids[: learned.spans[-1][0]] == chat.row(values).ids


def test_a_space_of_the_template_in_front_of_answers_is_learned_with_them():
    found = tokenizer(FOLDED)
    chat = ChatTemplate().tokenize(found, 1)
    assert chat.lead == " "
    learned = chat.learned(conversation("good?"), "yes")
    assert [said(found, learned.ids[a:b]) for a, b in learned.spans] == [" yes</s>"]


def test_words_of_a_user_never_meet_the_template():
    found = tokenizer()
    chat = ChatTemplate().tokenize(found, 1)
    odd = "{{ 7 * 7 }} {% raise %} \ue0000\ue001 user: "
    assert said(found, chat.row(conversation(odd)).ids) == f"{odd.strip()}\nassistant: "


def test_a_shared_system_message_is_part_of_the_prefix():
    found = tokenizer()
    chat = ChatTemplate(system="Be kind.").tokenize(found, 1)
    assert said(found, chat.prefix) == "<s>system: Be kind.\nuser: *"
    assert chat.row(conversation("hi", system="Be kind.")) == chat.row(conversation("hi"))
    with pytest.raises(TemplateError, match=r"message `Be rude.`, and the prompt was trained with `Be kind.`; use it"):
        chat.row(conversation("hi", system="Be rude."))
    with pytest.raises(TemplateError, match="and the prompt was trained without one; leave it out"):
        ChatTemplate().tokenize(found, 1).row(conversation("hi", system="Be rude."))


def test_system_messages_of_the_rows_move_everything_into_the_row():
    found = tokenizer()
    chat = ChatTemplate(own_system=True).tokenize(found, 2)
    assert chat.prefix == ()
    learned = chat.learned(conversation("hi", system="Be kind."), "hello")
    assert said(found, learned.ids) == "<s>system: Be kind.\nuser: **hi\nassistant: hello</s>"
    assert said(found, chat.row(conversation("hi")).ids) == "<s>user: **hi\nassistant: "


@pytest.mark.parametrize("own_system", [False, True])
def test_the_longest_message_gives_way(own_system):
    chat = ChatTemplate(own_system=own_system).tokenize(tokenizer(), 2)
    values = conversation("w" * 80, "yes", "why?")
    full = chat.learned(values, "plot")
    limit = len(chat.prefix) + full.spans[-1][0] - 10
    short = chat.learned(values, "plot", limit)
    assert len(chat.prefix) + short.spans[-1][0] == limit
    assert short.ids[: short.spans[-1][0]] == chat.row(values, limit).ids  # learned as it is answered
    assert short.cut == 10
    assert len(short.spans) == 2
    assert short.ids[short.spans[0][0] :] == full.ids[full.spans[0][0] :]
    with pytest.raises(TemplateError, match="leaves no room for the text"):
        chat.row(values, 10)


def test_a_turn_that_was_cut_is_not_learned():
    chat = ChatTemplate().tokenize(tokenizer(), 2)
    values = conversation("hi", "x" * 60, "why?")
    full = chat.learned(values, "plot")
    short = chat.learned(values, "plot", len(chat.prefix) + full.spans[-1][0] - 5)
    assert (len(full.spans), len(short.spans), short.cut) == (2, 1, 5)
    assert ChatTemplate(max_tokens=60).tokenize(tokenizer(), 2).row(values).cut > 0


def test_an_answer_beyond_its_room_is_cut():
    chat = ChatTemplate().tokenize(tokenizer(), 2)
    learned = chat.learned(conversation("hi"), "y" * 100, 60, 30)
    assert learned.spans == ((len(learned.ids) - 30, len(learned.ids)),)
    assert learned.cut == len(chat.answer("y" * 100)) - 30


def test_a_tokenizer_without_a_chat_template_is_refused():
    with pytest.raises(TemplateError, match=r"no chat template to write messages with; use a backbone that .*`input`"):
        ChatTemplate().tokenize(tiny_tokenizer(), 2)


def test_a_template_that_refuses_or_drops_turns_is_said():
    refusing = tokenizer("{% if messages[0].role == 'system' %}{{ raise_exception('No system.') }}{% endif %}" + PLAIN)
    with pytest.raises(TemplateError, match=r"refuses the turns system, user: No system.; give turns as it wants them"):
        ChatTemplate(system="Be kind.").tokenize(refusing, 1)
    dropping = tokenizer("{% for m in messages if m.role != 'system' %}{{ m.content }}</s>{% endfor %}")
    with pytest.raises(TemplateError, match="does not write the turns system, user once each and in their order"):
        ChatTemplate(system="Be kind.").tokenize(dropping, 1)


def test_without_an_end_in_the_template_the_end_of_sequence_ends_an_answer():
    found = tokenizer("{% for m in messages %}{{ m.content + '\\n' }}{% endfor %}")
    assert ChatTemplate().tokenize(found, 1).stop == (found.eos_token_id,)
    found.eos_token = None
    with pytest.raises(TemplateError, match="puts nothing behind an answer to end it; use another"):
        ChatTemplate().tokenize(found, 1)


def test_templates_come_back_from_json():
    for template in (ChatTemplate(max_tokens=9, system="x"), ChatTemplate(own_system=True), Template("{soft}{a}", 3)):
        assert template_from_json(template.to_json()) == template


def test_odd_templates_are_refused():
    with pytest.raises(TemplateError, match=r"is the backbone's own, not `{soft}{text}`; leave the pattern out"):
        ChatTemplate("{soft}{text}")
    with pytest.raises(TemplateError, match="asked for one system message and for each row's own"):
        ChatTemplate(system="x", own_system=True)


def test_other_spellings_of_messages_are_read():
    found = read_messages([{"from": "human", "value": "hi"}, {"from": "gpt", "value": [{"text": "a"}, "b"]}], "here")
    assert found == [("user", "hi"), ("assistant", "ab")]
    assert read_messages('[{"role":"user","content":" hi "}]', "here") == [("user", "hi")]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "here: a conversation is a list of messages"),
        ("[", "here: the conversation is not JSON"),
        ([{"role": "tool", "content": "x"}], "here, message 1 has the role `tool`; a role is system, user or"),
        ([{"role": "user", "content": " "}], "here, message 1 has no words"),
        ([{"role": "user", "content": [{"image": 1}]}], "here, message 1 holds something that is not text"),
        ([{"role": "user", "content": "a", "tool_calls": [1]}], "here, message 1 calls tools"),
        ([{"role": "system", "content": "a"}], "here: the conversation has no user turn"),
        ([{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}], "begins with an assistant's turn"),
        (
            [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}],
            "a system message stands behind other turns; put it first",
        ),
    ],
)
def test_bad_conversations_are_one_clear_error(value, message):
    with pytest.raises(DataError, match=message):
        read_messages(value, "here")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text": "x"}, "the row has no column `messages` with a conversation; it has text"),
        ({"messages": "["}, r"the column `messages` is not JSON \(.*\); give a list of messages"),
        (conversation("a", "b"), "the conversation ends in an assistant's turn; end it in the user's"),
    ],
)
def test_a_row_that_cannot_be_answered(values, message):
    with pytest.raises(DataError, match=message):
        ChatTemplate().tokenize(tokenizer(), 1).row(values)


def test_what_is_kept_of_ways_to_talk_is_bounded():
    tokenized = ChatTemplate().tokenize(tokenizer(), 2)
    for turns in (1, 3, 201, 203):
        roles = ["user", "assistant"] * turns
        tokenized._written(tuple(roles[:turns]))
    assert tokenized._short.cache_info().currsize <= 4
    assert tokenized._written(("user",)) == tokenized._write(("user",))
