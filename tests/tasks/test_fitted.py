"""Default templates for encoders and encoder-decoders; what the user wrote stays."""

import pytest

from softprompt.errors import UnknownNameError
from softprompt.tasks.fitted import fitted_to
from softprompt.tasks.load import load_task

LABELLED = [{"text": f"{word} {n}", "label": word} for word in ("good", "bad") for n in range(10)]
PAIRS = [{"premise": f"a {n}", "hypothesis": f"b {n}", "label": "yes" if n % 2 else "no"} for n in range(20)]
TAGGED = [{"tokens": ["EU", f"{n}"], "tags": ["B-ORG", "O"]} for n in range(20)]
CHOICES = [
    {"question": f"which {n}", "choice1": f"x{n}", "choice2": f"y{n}", "answer": "A" if n % 2 else "B"}
    for n in range(20)
]
WRITTEN = [{"input": f"say {n}", "target": f"well {n}"} for n in range(20)]
ANSWERED = [{"context": f"it is {n} here", "question": f"how much {n}", "answers": [f"{n}"]} for n in range(20)]


@pytest.mark.parametrize(
    ("rows", "kind", "masked", "pattern"),
    [
        (LABELLED, "encoder", False, "{bos}{soft}{text}{sep}"),
        (LABELLED, "encoder", True, "{bos}{soft}{text} Label: {mask}{sep}"),
        (LABELLED, "encoder-decoder", False, "{bos}{soft}{text}{sep}"),
        (PAIRS, "encoder", False, "{bos}{soft}{premise}{sep}{hypothesis}{sep}"),
        (PAIRS, "encoder-decoder", False, "{bos}{soft}Premise: {premise} Hypothesis: {hypothesis}{sep}"),
        (TAGGED, "encoder", True, "{bos}{soft}{tokens}{sep}"),
        (CHOICES, "encoder", True, "{bos}{soft}{question}{sep}{choices} Answer: {mask}{sep}"),
        (WRITTEN, "encoder-decoder", False, "{bos}{soft}{input}{sep}"),
        (ANSWERED, "encoder-decoder", False, "{bos}{soft}Context: {context} Question: {question}{sep}"),
    ],
)
def test_a_default_is_written_anew_and_said(rows, kind, masked, pattern):
    task = load_task(rows)
    found = fitted_to(task, kind, masked=masked)
    assert found.template.pattern == pattern
    assert found.notes[-1] == f"rows are written for an {kind}: `{pattern}`; give a template for another"
    assert (found.splits, found.readout) == (task.splits, task.readout)


def test_a_decoder_reads_the_default_as_it_is():
    task = load_task(LABELLED)
    assert fitted_to(task, "decoder") is task


def test_what_was_written_anew_stays():
    once = fitted_to(load_task(LABELLED), "encoder")
    assert fitted_to(once, "encoder", masked=True) is once


def test_what_the_user_wrote_stays():
    task = load_task(LABELLED, template="{bos}{soft}Text: {text}\nLabel:")
    assert fitted_to(task, "encoder", masked=True) is task


@pytest.mark.parametrize(("rows", "kind"), [(WRITTEN, "encoder"), (TAGGED, "encoder-decoder")])
def test_what_a_kind_cannot_answer_is_left_to_be_refused_by_name(rows, kind):
    task = load_task(rows)
    assert fitted_to(task, kind) is task


def test_max_tokens_stays():
    assert fitted_to(load_task(LABELLED, max_tokens=40), "encoder").template.max_tokens == 40


def test_an_unknown_kind_is_refused():
    with pytest.raises(UnknownNameError, match="encoder"):
        fitted_to(load_task(LABELLED), "encodr")
