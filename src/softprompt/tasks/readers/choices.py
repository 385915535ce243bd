"""Multiple choice: a question, its choices under letters, and the letter of the right one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from softprompt.errors import DataError
from softprompt.tasks.columns import usual
from softprompt.tasks.labels import is_whole, label_of
from softprompt.tasks.readers.reading import Asked, Examples, Kind, Reading, cell, tables_of, train_table
from softprompt.tasks.readout import LabelWords, Readout
from softprompt.tasks.sources.table import RawData, Table, text_of
from softprompt.tasks.task import Example
from softprompt.tasks.template import Template

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
COLUMN = "choices"
"""The field that holds the choices, a line each: `A. a cat`."""

_LISTS = ("choices", "options", "endings", "answers", "candidates", "mc_choices")
_ANSWERS = ("answer", "answerkey", "answer_key", "label", "answer_idx", "answer_index", "correct", "gold", "target")
_QUESTIONS = ("question", "question_stem", "query", "goal", "ctx", "prompt", "sentence", "text", "premise")
_PASSAGES = ("context", "article", "passage", "support", "fact1", "premise", "story")
_NUMBERED = re.compile(r"(?:choice|option|ending|sol|answer|opt)(?:[ _]?[0-9]|[ _][a-h])")


@dataclass(frozen=True)
class Columns:
    """Where a question stands: what is shown before it, itself, its choices (one list or several), the answer."""

    texts: tuple[str, ...]
    choices: tuple[str, ...]
    answer: str


def find(table: Table, text: str | Sequence[str] | None = None, label: str | None = None) -> Columns | None:
    """Return the columns of a multiple-choice table, None where it is none."""
    choices = _choice_columns(table)
    answer = label or usual(_ANSWERS, [c for c in table.columns if c not in choices])
    if not choices or answer is None:
        return None
    if text is not None:
        return Columns((text,) if isinstance(text, str) else tuple(text), choices, answer)
    others = [c for c in table.columns if c not in (*choices, answer)]
    question = usual(_QUESTIONS, others)
    passage = usual(_PASSAGES, [c for c in others if c != question])
    texts = tuple(c for c in (passage, question) if c is not None)
    return Columns(texts, choices, answer) if texts else None


def fits(table: Table, columns: Columns) -> bool:
    """Tell whether answers name choices: always beside a list of them, else if every row's does in one way."""
    if len(columns.choices) == 1:
        return True
    try:
        questions = [Question(row, columns, table.where(index)) for index, row in enumerate(table.rows)]
        return bool(_rule(questions, table.origin))
    except DataError:
        return False


def _choice_columns(table: Table) -> tuple[str, ...]:
    """One column of lists, or several columns called A, B ... or choice1, choice2 ..."""
    listed = usual(_LISTS, table.columns)
    if listed and _is_list(next((row[listed] for row in table.rows if row.get(listed) is not None), None)):
        return (listed,)
    lettered = [c for c in table.columns if len(c) == 1 and c in LETTERS]
    numbered = [c for c in table.columns if _NUMBERED.fullmatch(c.lower())]
    for found in (lettered, numbered):
        if len(found) > 1:
            return tuple(sorted(found))
    return ()


def _is_list(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, Mapping) and isinstance(value.get("text"), list))


class Question:
    """One row before its answer is known to be a letter."""

    def __init__(self, row: Mapping[str, Any], columns: Columns, where: str) -> None:
        self.where = where
        self.fields = {c: text_of(cell(row, c, where), c, where) for c in columns.texts}
        self.choices, self.names = _choices(row, columns, where)
        self.answer = label_of(cell(row, columns.answer, where), columns.answer, where)
        _refuse_number(self.choices, where)

    def index(self, rule: str) -> int | None:
        """Return which choice is right if answers are written by `rule`, None where this one is not."""
        if rule == "letters":
            upper = self.answer.strip().rstrip(".)").upper()
            return LETTERS.index(upper) if len(upper) == 1 and upper in LETTERS[: len(self.choices)] else None
        if rule == "the names beside the choices":
            return self.names.index(self.answer) if self.answer in self.names else None
        if rule == "the words of the choice":
            return self.choices.index(self.answer) if self.answer in self.choices else None
        number = int(self.answer) - (rule == "numbers from 1") if is_whole(self.answer) else -1
        return number if 0 <= number < len(self.choices) else None


_RULES = (
    "the names beside the choices",
    "letters",
    "the words of the choice",
    "numbers from 0",
    "numbers from 1",
)


def _choices(row: Mapping[str, Any], columns: Columns, where: str) -> tuple[list[str], list[str]]:
    """The words of the choices of a row, and their names where the source names them."""
    if len(columns.choices) == 1:
        value = cell(row, columns.choices[0], where)
        if not _is_list(value):
            raise DataError(f"{where}: the column `{columns.choices[0]}` holds no list of choices; write one")
        words = value["text"] if isinstance(value, Mapping) else value
        names = value.get("label", []) if isinstance(value, Mapping) else []
        return [text_of(w, columns.choices[0], where).strip() for w in words], [str(name) for name in names]
    found = [text_of(row.get(c), c, where).strip() for c in columns.choices]
    while found and not found[-1]:
        found.pop()  # a question with fewer choices than others leaves its last cells empty
    return found, []


def _read(raw: RawData, asked: Asked) -> Reading:
    columns = find(train_table(raw), asked.text, asked.label)
    if columns is None:
        there = ", ".join(f"`{c}`" for c in train_table(raw).columns)
        raise DataError(
            f"`{raw.name}` has the columns {there}, and a multiple-choice task needs `question`, `choices` (a list, or "
            "columns A, B ... or choice1, choice2 ...) and `answer`; name the question with text= and the answer with "
            "label="
        )
    asks = {
        split: [Question(row, columns, table.where(i)) for i, row in enumerate(table.rows)]
        for split, table in tables_of(raw)
    }
    rule = _rule([question for questions in asks.values() for question in questions], raw.name)
    splits = {split: tuple(_example(question, rule) for question in questions) for split, questions in asks.items()}
    template = asked.template or _template(columns, asked.max_tokens)
    texts = ", ".join(f"`{c}`" for c in columns.texts)
    note = f"multiple choice: the question from {texts}, answers in `{columns.answer}` read as {rule}"
    return Reading(splits, template, columns.answer, [note])


def _template(columns: Columns, max_tokens: int | None) -> Template:
    shown = Template.default(columns.texts, "answer", max_tokens).pattern
    return Template(shown.removesuffix("Answer:") + f"{{{COLUMN}}}\nAnswer:", max_tokens)


def _rule(questions: Sequence[Question], origin: str) -> str:
    """Find the one way in which every row's answer names one of its choices."""
    counts = {rule: sum(q.index(rule) is not None for q in questions) for rule in _RULES}
    for rule, count in counts.items():
        if count == len(questions):
            return rule
    best = max(_RULES, key=lambda rule: counts[rule])
    odd = next(q for q in questions if q.index(best) is None)
    raise DataError(
        f"{odd.where}: the answer `{odd.answer}` names none of its {len(odd.choices)} choices; write the letter, the "
        f"number or the words of the right one, in the same way in all rows of `{origin}`"
    )


def _example(question: Question, rule: str) -> Example:
    return Example({**question.fields, COLUMN: _block(question.choices)}, LETTERS[question.index(rule) or 0])


def _block(choices: Sequence[str]) -> str:
    return "\n".join(f"{LETTERS[i]}. {choice}" for i, choice in enumerate(choices))


def shown(row: Mapping[str, Any], column: str, where: str) -> Mapping[str, Any]:
    r"""Return a row to be answered with its choices in `column`, as a prompt learned them; one that is text stays.

    >>> shown({"question": "Which one purrs?", "A": "a dog", "B": "a cat"}, "choices", "here")["choices"]
    'A. a dog\nB. a cat'

    Raises:
        DataError: fewer than two choices, or more than there are letters; a choice is no text.
    """
    found = (column,) if column in row else _choice_columns(Table(where, tuple(row), [row], [1]))
    if not found or (len(found) == 1 and not _is_list(row[found[0]])):
        return row
    choices, _ = _choices(row, Columns((), found, ""), where)
    _refuse_number(choices, where)
    return {**row, column: _block(choices)}


def _refuse_number(choices: Sequence[str], where: str) -> None:
    if not 2 <= len(choices) <= len(LETTERS):
        raise DataError(f"{where} has {len(choices)} choice(s); a question needs 2 to {len(LETTERS)}")


def _labels(raw: RawData, reading: Reading) -> tuple[str, ...]:
    """As many letters as the longest list of choices has lines that begin one."""
    most = 2
    for rows in reading.splits.values():
        for row in rows:
            most = max(most, _count(row.fields[COLUMN]))
    return tuple(LETTERS[:most])


def _count(block: str) -> int:
    count = 0
    for line in block.split("\n"):
        count += count < len(LETTERS) and line.startswith(f"{LETTERS[count]}. ")
    return count


def _label_words(reading: Reading, labels: tuple[str, ...], train: Examples, asked: Asked) -> Readout:
    return LabelWords.from_labels(labels, asked.words, asked.scoring, leading_space=reading.leading_space)


CHOICE = Kind("choice", _read, _labels, _label_words, by_label=True)
"""Multiple choice, answered by a letter."""
