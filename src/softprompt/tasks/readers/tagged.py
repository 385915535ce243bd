"""Rows of words with a tag each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from softprompt.errors import DataError, TemplateError
from softprompt.tasks.columns import usual
from softprompt.tasks.labels import label_of, ordered
from softprompt.tasks.readers.reading import Asked, Examples, Kind, Reading, cell, tables_of, train_table
from softprompt.tasks.readout import Readout
from softprompt.tasks.sources.table import RawData, Table, text_of
from softprompt.tasks.tags import TokenTags, joined, words_of
from softprompt.tasks.task import Example
from softprompt.tasks.template import Template

_WORDS = ("tokens", "words", "token", "text", "sentence")
_TAGS = ("tags", "ner_tags", "ner", "pos_tags", "pos", "labels", "chunk_tags", "tag", "label", "upos")


def find(table: Table, text: str | None = None, label: str | None = None) -> tuple[str, str] | None:
    """Return the columns of words and of tags, both lists of equal length in the first row; None without them."""
    first = next((row for row in table.rows), {})
    lists = [c for c in table.columns if isinstance(first.get(c), list)]
    words = text or usual(_WORDS, lists)
    tags = label or usual(_TAGS, [c for c in lists if c != words])
    if words is None or tags is None or not all(isinstance(w, str) for w in first.get(words) or [""]):
        return None
    return words, tags


def _read(raw: RawData, asked: Asked) -> Reading:
    text = asked.text if isinstance(asked.text, str) or asked.text is None else next(iter(asked.text), None)
    columns = find(train_table(raw), text, asked.label)
    if columns is None:
        there = ", ".join(f"`{c}`" for c in train_table(raw).columns)
        raise DataError(
            f"`{raw.name}` has the columns {there}, and tagging needs a list of words and a list of tags a row; "
            "call them `tokens` and `tags`, or name them with text= and label="
        )
    words, tags = columns
    template = asked.template or _template(words, tags, asked.max_tokens)
    if words not in template.fields:
        raise TemplateError(f"the template does not show the tagged column; write {{{words}}} into it, twice")
    splits = {
        split: tuple(_example(row, columns, template, table.where(i)) for i, row in enumerate(table.rows))
        for split, table in tables_of(raw)
    }
    others = [c for c in train_table(raw).columns if c not in (words, *template.fields)]
    notes = [f"tagging: words from `{words}`, tags from `{tags}`"] if len(others) > 1 else []
    return Reading(splits, template, tags, notes, words)


def _template(words: str, tags: str, max_tokens: int | None) -> Template:
    """The sentence twice: a causal state sees what stands left of it, so tags are read where all of it does."""
    lines = Template.default([words], tags).pattern.removeprefix("{bos}{soft}").split("\n")
    shown = lines[0].replace(lines[0].partition(":")[0], "Text", 1)
    return Template(f"{{bos}}{{soft}}{shown}\n{lines[1]} {{{words}}}", max_tokens)


def _example(row: Mapping[str, Any], columns: tuple[str, str], template: Template, where: str) -> Example:
    words, tags = (_listed(cell(row, column, where), column, where) for column in columns)
    if len(words) != len(tags):
        raise DataError(
            f"{where} has {len(words)} words in `{columns[0]}` and {len(tags)} tags in `{columns[1]}`; "
            "give each word its tag"
        )
    others = {c: text_of(cell(row, c, where), c, where) for c in template.fields if c != columns[0]}
    text = joined([text_of(word, columns[0], where) for word in words], where)
    return Example({columns[0]: text, **others}, tuple(label_of(tag, columns[1], where) for tag in tags))


def shown(row: Mapping[str, Any], column: str, where: str) -> Mapping[str, Any]:
    """Return a row to be tagged with its list of words in `column` as text; what is text already stays.

    >>> shown({"tokens": ["EU", "rejects"]}, "tokens", "here")
    {'tokens': 'EU rejects'}

    Raises:
        DataError: there are no words, or one is empty or no text.
    """
    value = row.get(column)
    if not isinstance(value, list):
        return row
    return {**row, column: joined([text_of(word, column, where) for word in value], where)}


def _listed(value: Any, column: str, where: str) -> list[Any]:
    """A cell as a list: a list as it is, text divided at its spaces."""
    if isinstance(value, str):
        return list(words_of(value))
    if not isinstance(value, list | tuple):
        raise DataError(f"{where}: the column `{column}` holds no list; give a list with an entry for each word")
    return list(value)


def _labels(raw: RawData, reading: Reading) -> tuple[str, ...]:
    """Every tag of train, `O` last, spans together."""
    counts = {split: Counter(tag for row in rows for tag in row.labels) for split, rows in reading.splits.items()}
    known = set(counts["train"])
    for split, found in counts.items():
        for tag in sorted(set(found) - known):
            raise DataError(
                f"`{raw.name}`: the tag `{tag}` is on {found[tag]} word(s) of {split} and never in train; "
                "add rows of it to train, or take it out"
            )
    if len(known) < 2:
        raise DataError(f"`{raw.name}` has only the tag `{', '.join(known)}` in train; tagging needs at least two")
    names = [name.strip() for name in raw.tables["train"].names.get(reading.label, ())]
    kept = tuple(name for name in names if name in known)
    return kept if len(kept) == len(known) else ordered(known)


def _tags(reading: Reading, labels: tuple[str, ...], train: Examples, asked: Asked) -> Readout:
    return TokenTags.from_tags(labels, asked.words, column=reading.tagged)


TAGGING = Kind("tagging", _read, _labels, _tags)
"""A tag for each word."""
