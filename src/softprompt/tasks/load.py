"""From a source to a task: kind, columns, labels, splits, and everything worth saying about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from softprompt.errors import ConfigError, DataError
from softprompt.registry import unknown_name
from softprompt.tasks import remarks
from softprompt.tasks.kinds import KINDS, kind_of, settle
from softprompt.tasks.readers.reading import SPLITS, Asked, Examples, Kind
from softprompt.tasks.readout import Readout, Scoring
from softprompt.tasks.sources.resolve import Source, resolve
from softprompt.tasks.sources.table import RawData
from softprompt.tasks.splits import carve, few_shots, source_of_chance
from softprompt.tasks.task import Example, Task, hash_rows
from softprompt.tasks.template import Template

TEST_SHARE, TEST_ROWS = 0.2, 2_000
VALIDATION_SHARE, VALIDATION_ROWS = 0.15, 1_000


def load_task(
    source: Source,
    *,
    kind: str | None = None,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    template: str | None = None,
    words: Mapping[str, str] | None = None,
    scoring: Scoring = "trie",
    bounds: tuple[float, float] | None = None,
    max_new_tokens: int | None = None,
    shots: int | None = None,
    seed: int = 0,
    name: str | None = None,
    max_tokens: int | None = None,
) -> Task:
    """Read a task of any kind.

    The kind is told from the columns where they leave no doubt, and said in the notes; else it is classification:

    - `tagging`: a list of words and a list of tags a row (`tokens`, `tags`);
    - `chat`: a column `messages` of conversations;
    - `extraction`: `context`, `question` and `answers`;
    - `choice`: a question, its choices (a list, or columns A, B ... or choice1, choice2 ...) and the answer;
    - `multi-label`: a list of labels a row; as `a|b` in one cell only where `kind` says so;
    - `generation`: `input` and `target` or the like, where targets do not come again as labels do;
    - `regression`: numbers with fractions in the label column.

    Splits that the source has are used as they are. A missing test split is a fifth of the train rows (at most
    2,000), set aside first; a missing validation split is 15 % of the rest (at most 1,000, at least one a label
    where possible). Both are seeded, stratified by label where a row has one label, and share no text with what
    remains. Numbers are answered between the smallest and the largest of the rows trained on, unless `bounds` are
    given.

    >>> rows = [{"text": f"{word} {n}", "label": word} for word in ("good", "bad") for n in range(10)]
    >>> task = load_task(rows)
    >>> task.labels, {split: len(rows) for split, rows in task.splits.items()}
    (('bad', 'good'), {'train': 14, 'validation': 2, 'test': 4})

    Args:
        source: a packaged name (`sms-spam`), a file, a folder of split files, a saved data set, a hub id, or rows.
        kind: the kind of task, where the columns do not show it.
        text: the column or columns that are shown to the model; by default guessed from their usual names.
        label: the column with the answer; by default guessed.
        template: the pattern of a row; its fields are then the text columns.
        words: what the model would write for a label (a tag, or `low` and `high`), where that is not its name.
        scoring: `trie` or `full`, of label words.
        bounds: the smallest and the largest number that can be answered, for regression.
        max_new_tokens: most tokens of an answer in text; by default half the bytes of the longest target.
        shots: train on this many different texts of each label (in all, where rows have not one label each), drawn
            by `seed`; validation and test stay.
        seed: decides every draw.
        name: the task's name; by default the source's.
        max_tokens: longest row in tokens.

    Raises:
        DataError: rows, columns, labels, tags or messages that cannot be used.
        TemplateError: a template that cannot be read, or that names no column of the source.
        UnknownNameError: `kind` or a key of `words` is none that is known, or the source is of no known kind.
        ConfigError: `shots` or `max_new_tokens` is below 1, or an argument is of no use to this kind of task.
        MissingExtraError: the source needs an extra that is not installed.
        StorageError: the source may not be read.
    """
    raw = resolve(source)
    _require_train(raw)
    pattern = None if template is None else Template(template, max_tokens)
    asked = Asked(text, label, pattern, words, scoring, max_tokens, bounds, max_new_tokens)
    chosen, told = settle(raw, kind, asked)
    _refuse_foreign(asked, chosen.name)
    reading = chosen.read(raw, asked)
    labels = chosen.labels(raw, reading)
    notes = [*raw.notes, *told, *reading.notes, *remarks.oddities(reading.splits, chosen.name)]
    divided, division = _divide(reading.splits, seed, raw, chosen)
    if shots is not None:
        rng = source_of_chance(seed, "shots")
        divided["train"] = few_shots(divided["train"], shots, labels, rng, by_label=chosen.by_label)
        whose = "of each label" if chosen.by_label else "in all"
        division.append(f"train is {shots} different texts {whose}, drawn with seed {seed}")
    task = Task(
        name=name or raw.name,
        kind=chosen.name,
        splits=divided,
        given=frozenset(s for s in reading.splits if raw.divided and divided[s] is reading.splits[s]),
        template=reading.template,
        readout=chosen.readout(reading, labels, divided["train"], asked),
        notes=tuple(notes),
        data_hash=hash_rows(divided),
        division=tuple(division),
        shots=shots,
        seed=seed if division else None,
        default_template=template is None,
        column=reading.label,
    )
    return replace(task, notes=(*notes, *remarks.answers(task), *remarks.overlaps(task)))


class Labelled(NamedTuple):
    """Labelled rows, and the column that their answers are from."""

    rows: tuple[Example, ...]
    column: str


def load_split(
    source: Source,
    split: str,
    template: Template,
    readout: Readout | Sequence[str],
    *,
    label: str | None = None,
    usual: str | None = None,
    kind: str | None = None,
) -> Labelled:
    """Read labelled rows for judging a prompt that exists already; no train split is needed.

    Args:
        source: as for `load_task`; an undivided source gives all its rows, whatever `split` says.
        split: `train`, `validation` or `test`.
        template: the prompt's template: its fields are the text columns.
        readout: the prompt's readout, or the labels of a classifier.
        label: the column with the answer; by default `usual`, where the source has it, else guessed.
        usual: the column that the prompt's training had its answers from.
        kind: the kind of task; by default told from readout and template.

    Raises:
        DataError: rows or columns that cannot be used, or a label that the prompt does not know.
        TemplateError: the source lacks a field of the template.
        UnknownNameError: the source has no such split.
    """
    known = readout.labels if isinstance(readout, Readout) else tuple(readout)
    told = kind or (kind_of(readout, template) if isinstance(readout, Readout) else "classification")
    raw = resolve(source)
    chosen = split if raw.divided else "train"
    if chosen not in raw.tables:
        raise unknown_name("split", split, raw.tables)
    table = raw.tables[chosen]
    column = label or (usual if usual in table.columns else None)
    reading = KINDS.get(told).read(replace(raw, tables={chosen: table}), Asked(label=column, template=template))
    rows = reading.splits[chosen]
    for index, row in enumerate(rows):
        for found in row.labels if known else ():
            if found not in known:
                raise DataError(
                    f"{table.where(index)}: the label `{found}` is none that the prompt knows ({', '.join(known)}); "
                    "correct it, or take the row out"
                )
    return Labelled(rows, reading.label)


_WORDED = ("classification", "multi-label", "choice", "regression", "tagging")
_WRITTEN = ("generation", "extraction", "chat")


def _refuse_foreign(asked: Asked, kind: str) -> None:
    """Refuse what another kind of task would use and this one would pass over without a word."""
    given = {
        "bounds": (asked.bounds is not None, ("regression",)),
        "max_new_tokens": (asked.max_new_tokens is not None, _WRITTEN),
        "words": (bool(asked.words), _WORDED),
        "scoring": (asked.scoring != "trie", ("classification", "choice")),
    }
    for name, (said, kinds) in given.items():
        if said and kind not in kinds:
            raise ConfigError(
                f"`{name}` was given, and the task is {kind}, which has no use for it: it is for {', '.join(kinds)}; "
                "leave it out, or say the kind (--kind)"
            )


def _require_train(raw: RawData) -> None:
    if "train" not in raw.tables:
        there = ", ".join(f"`{s}`" for s in raw.tables)
        raise DataError(f"`{raw.name}` has no train split, only {there}; add the rows to learn from as train")


def _divide(
    splits: Mapping[str, Examples], seed: int, raw: RawData, kind: Kind
) -> tuple[dict[str, Examples], list[str]]:
    """Carve the splits that are missing out of train: test first, then validation; say so."""
    divided, said = dict(splits), []
    for split, share, at_most in (("test", TEST_SHARE, TEST_ROWS), ("validation", VALIDATION_SHARE, VALIDATION_ROWS)):
        if split in splits:
            continue
        before = len(divided["train"])
        taken = {row.key for other, rows in splits.items() if other != "train" for row in rows}
        free = [row for row in divided["train"] if row.key not in taken]  # a text of a given split stays in train
        rng = source_of_chance(seed, split)
        _, divided[split] = carve(free, share, at_most, rng, by_label=kind.by_label) if free else ((), ())
        aside = {row.key for row in divided[split]}
        divided["train"] = tuple(row for row in divided["train"] if row.key not in aside)
        if not divided[split]:
            raise DataError(
                f"`{raw.name}` has {len(splits['train'])} train rows, too few to set aside a {split} split; "
                f"give more different texts of each label (at least 3), or a {split} split of your own"
            )
        said.append(
            f"{split} is {len(divided[split]):,} of {before:,} train rows, "
            f"set aside with seed {seed}, {'stratified by label, ' * kind.by_label}no text on both sides"
        )
        if kind.name == "generation":
            divided[split], more = _pooled(divided[split], once=split == "test")
            said += [f"{split} {more}"] if more else []
    return {split: divided[split] for split in SPLITS}, said


def _pooled(rows: Examples, *, once: bool) -> tuple[Examples, str]:
    """Give a row that we set aside every target of its text as a reference; `once`: and keep one row a text."""
    targets: dict[tuple[str, ...], dict[str, None]] = {}
    for row in rows:
        targets.setdefault(row.key, {}).update(dict.fromkeys(row.accepted))
    if len(targets) == len(rows):
        return rows, ""
    shared = [replace(row, references=tuple(found)) if len(found := targets[row.key]) > 1 else row for row in rows]
    said = f"has {len(targets):,} different texts, each with all its targets as references"
    if not once:
        return tuple(shared), said
    first: dict[tuple[str, ...], Example] = {}
    for row in shared:
        first.setdefault(row.key, row)
    return tuple(first.values()), f"{said}, and shows each once"
