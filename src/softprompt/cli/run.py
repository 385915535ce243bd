"""`softprompt run`: answers for a text, for standard input or for a file, from one prompt or several."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from softprompt.cli.opening import (
    AS_JSON,
    BACKBONE,
    DEVICE,
    DTYPE,
    OTHER_WEIGHTS,
    Opened,
    check_output,
    open_backbone,
    open_prompts,
)
from softprompt.cli.output import answer_table
from softprompt.cli.task_flags import pairs
from softprompt.errors import ConfigError, DataError
from softprompt.progress import meter, say
from softprompt.registry import unknown_name

if TYPE_CHECKING:
    from softprompt.modeling.ensemble import How
    from softprompt.modeling.sampling import Sampling
    from softprompt.serving.answer_file import AnswerFile, Layout
    from softprompt.serving.streaming import Answered, Asked

Row = dict[str, str]
ENSEMBLE = "answer"
"""What the column of an ensemble's answers is called."""
LINE = "text"
"""What the column of a plain text or line is called."""


class Source(NamedTuple):
    """Where rows come from.

    Attributes:
        name: what to call it.
        texts: the rows, where they were typed.
        path: the file or `-`, else `None`.
        column: the one column that holds the text, where the rows have no others or the user named it.
        form: `csv`, `tsv`, `jsonl` or `lines`, where the user said.
    """

    name: str
    texts: tuple[str, ...] = ()
    path: str | None = None
    column: str | None = None
    form: str | None = None


def run(
    names: str = typer.Argument(help="One prompt, or several with commas: names of the store, or prompt files."),
    inputs: list[str] | None = typer.Argument(
        None, metavar="TEXT|FILE|-", help="Texts, a .csv, .tsv, .jsonl, .parquet or text file (a row a line), or -."
    ),
    out: Path | None = typer.Option(None, "--out", "-o", help="Write a .csv or .jsonl file; a killed run goes on."),
    form: str | None = typer.Option(None, "--format", help="What the input is: csv, tsv, jsonl or lines."),
    text: str | None = typer.Option(None, metavar="COLUMN", help="The column that holds the text."),
    ensemble: str | None = typer.Option(
        None, metavar="mean|vote", help="Join the prompts' answers into one: mean of their probabilities, or vote."
    ),
    field: list[str] | None = typer.Option(None, metavar="NAME=VALUE", help="The value of a template's field; repeat."),
    temperature: float = typer.Option(0.0, help="Of written text; 0 takes the likeliest token each time."),
    top_p: float = typer.Option(1.0, help="Of written text: draw from the likeliest tokens of this probability."),
    seed: int = typer.Option(0, help="Of the draws, where the temperature is above 0."),
    max_tokens: int | None = typer.Option(None, min=1, help="Most tokens of a text; at most what the prompt allows."),
    backbone: str | None = BACKBONE,
    device: str | None = DEVICE,
    dtype: str | None = DTYPE,
    allow_other_weights: bool = OTHER_WEIGHTS,
    as_json: bool = AS_JSON,
) -> None:
    """Answer a text, standard input or a file, with every prompt that is named, all in the same batches.

    Example: softprompt run sentiment,spam inbox.csv -o out.csv
    """
    opened = open_prompts(names)
    how = None if ensemble is None else _ensemble(ensemble, opened)
    constants = pairs("field", field)
    source = find_source(inputs or [], text, form, constants)
    asked = ask(opened, source, constants)
    first, rows = _peek(read(source, asked), source)
    sampling = _sampling(temperature, top_p, seed)
    options = {"backbone": backbone, "dtype": dtype, "ensemble": how, "max_tokens": max_tokens, **vars(sampling)}
    file = None if out is None else _begin(out, source, asked, options)
    frozen = open_backbone(backbone, opened, device, dtype, allow_other_weights=allow_other_weights)
    from softprompt.serving.engine import Engine
    from softprompt.serving.streaming import answer_stream

    done = 0 if file is None else file.done
    titles = [each.name for each in asked] if how is None else [ENSEMBLE]
    with Engine(frozen) as engine:
        coming = islice(rows, done, None)
        parts = answer_stream(
            engine, coming, asked, ensemble=how, sampling=sampling, max_tokens=max_tokens, first=done,
            allow_other_weights=allow_other_weights,
        )  # fmt: skip
        if file is None and source.path is None and not as_json:
            print(_table(source, asked, titles, list(chain.from_iterable(_counted(parts)))))
            return
        from softprompt.serving.answer_file import Layout

        kinds = [each.prompt.readout.kind for each in asked[: len(titles)]]
        _write(_counted(parts), Layout(_form(file, as_json), [*first], titles, kinds), titles, file)


def _sampling(temperature: float, top_p: float, seed: int) -> Sampling:
    """How text is written; what cannot be is said before a backbone is loaded."""
    from softprompt.modeling.sampling import Sampling

    return Sampling(temperature=temperature, top_p=top_p, seed=seed)


def _form(file: AnswerFile | None, as_json: bool) -> str:
    if file is not None:
        return file.form
    return "jsonl" if as_json else "csv"


def _ensemble(text: str, opened: Sequence[Opened]) -> How:
    from softprompt.modeling.ensemble import check_members, how_of

    how = how_of(text)
    check_members([each.prompt for each in opened])
    return how


def find_source(inputs: Sequence[str], text: str | None, form: str | None, constants: Row) -> Source:
    """Tell texts, a file and standard input apart; a text that is the name of a file is that file.

    Raises:
        ConfigError: there is nothing to answer, or a file among several inputs.
    """
    piped = not inputs and not constants and not sys.stdin.isatty()
    if piped or list(inputs) == ["-"]:
        column = text or (LINE if form in (None, "lines") else None)
        return Source("standard input", path="-", column=column, form=form)
    files = [each for each in inputs if _is_file(each)]
    if files and len(inputs) > 1:
        raise ConfigError(f"`{files[0]}` is a file among {len(inputs)} inputs; give one file, or texts only")
    if files:
        lines = form == "lines" or (form is None and Path(files[0]).suffix.lower() not in _formats())
        return Source(files[0], path=files[0], column=text or (LINE if lines else None), form=form)
    if not inputs and not constants:
        raise ConfigError("there is nothing to answer; give a text, a file, or - for standard input")
    return Source("the command line", tuple(inputs), column=LINE if inputs else None)


def ask(opened: Sequence[Opened], source: Source, constants: Row) -> list[Asked]:
    """Say for every prompt where its fields come from.

    Raises:
        ConfigError: one text for a template with several fields.
        UnknownNameError: `--field` names a field that no template has.
    """
    from softprompt.serving.streaming import Asked

    known = {field: None for each in opened for field in each.prompt.template.fields}
    for field in constants:
        if field not in known:
            raise unknown_name("field", field, known)
    asked = [Asked.of(e.name, e.prompt, column=source.column, constants=constants) for e in opened]
    missing = {} if source.path or source.texts else {c: None for each in asked for c in each.columns}
    if missing:
        names = ", ".join(f"`{field}`" for field in missing)
        raise ConfigError(f"no value for {names}; give each as --field name=value, or a file with these columns")
    return asked


def read(source: Source, asked: Sequence[Asked]) -> Iterator[Row]:
    """Yield the rows of a source.

    Raises:
        DataError: a file that cannot be read as rows, or that lacks a column.
    """
    from softprompt.tasks.sources.stream import read_rows

    if source.path is None:
        return iter([{LINE: each} for each in source.texts] or [{}])
    columns = list(dict.fromkeys(column for each in asked for column in each.columns.values()))

    def shown(row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
        for each in asked:
            row = each.shown(row, where)
        return row

    return read_rows(source.path, columns, form=source.form, shown=shown)


def _is_file(text: str) -> bool:
    """Tell whether an input is meant as a file: one that is there, or a lone word with the suffix of one."""
    try:
        there = Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, or a zero byte in it: a text
        return False
    return there or (not any(c.isspace() for c in text) and Path(text).suffix.lower() in {*_formats(), ".txt"})


def _formats() -> Sequence[str]:
    from softprompt.tasks.sources.files import FILE_FORMATS

    return list(FILE_FORMATS)


def _peek(rows: Iterator[Row], source: Source) -> tuple[Row, Iterator[Row]]:
    """Read the first row, so that a wrong column is said before a backbone is loaded."""
    first = next(rows, None)
    if first is None:
        raise DataError(f"`{source.name}` has no rows; there is nothing to answer")
    return first, chain([first], rows)


def _begin(out: Path, source: Source, asked: Sequence[Asked], options: dict[str, Any]) -> AnswerFile:
    """Open the output, and say where it goes on if it does."""
    from softprompt.serving.answer_file import AnswerFile

    check_output(out)
    file = AnswerFile(out, _identity(source, asked, options))
    if source.path and out.exists() and Path(source.path).exists() and out.samefile(source.path):
        raise ConfigError(f"`{out}` is the input itself; write the answers to another file")
    if file.done:
        say(f"going on behind the first {file.done:,} rows, which `{out}.part` has already")
    return file


def _identity(source: Source, asked: Sequence[Asked], options: dict[str, Any]) -> dict[str, Any] | None:
    """What a run must repeat to go on with another's rows; nothing where the rows cannot be read again."""
    if source.path in (None, "-"):
        return None
    found = Path(str(source.path)).stat()
    return {
        "input": source.path,
        "input size": found.st_size,
        "input time": found.st_mtime_ns,
        "input format": source.form,
        "prompts": {each.name: each.prompt.digest for each in asked},
        "columns": [dict(each.columns) for each in asked],
        "field values": [dict(each.constants) for each in asked],
        **options,
    }


def _counted(parts: Iterator[list[Answered]]) -> Iterator[list[Answered]]:
    """Pass answers on; say at the end how many texts were cut and how many answers held back."""
    seen: Counter[str] = Counter()
    with meter("rows answered") as progress:
        for part in parts:
            answers = [answer for answered in part for answer in answered.answers]
            seen["cut"] += sum(any(a.cut for a in answered.answers) for answered in part)
            seen["held back"] += sum(answer.abstained for answer in answers)
            seen["endless"] += sum(not getattr(answer, "finished", True) for answer in answers)
            yield part
            progress.advance(len(part))
    if seen["cut"]:
        say(f"warning: {seen['cut']:,} rows were longer than the backbone takes and were shortened")
    if seen["endless"]:
        say(f"{seen['endless']:,} texts were ended by the most tokens that an answer may have, and may be unfinished")
    if seen["held back"]:
        say(f"{seen['held back']:,} answers were held back: their probability is below the prompt's threshold")


def _table(source: Source, asked: Sequence[Asked], titles: Sequence[str], found: Sequence[Answered]) -> str:
    texts = source.texts or [" · ".join(f"{k}: {v}" for k, v in asked[0].constants.items())]
    return answer_table(list(texts), titles, [answered.answers for answered in found])


def _write(parts: Iterator[list[Answered]], layout: Layout, titles: Sequence[str], file: AnswerFile | None) -> None:
    """Write every row and its answers to the file, or to standard output."""
    for name, title in zip(layout.names, titles, strict=True):
        if name != title:
            say(f"the input has a column `{title}` of its own; the prompt's answers are in `{name}`")
    if file is None:
        print(layout.head(), end="")
        for part in parts:
            print("".join(map(layout.line, part)), end="", flush=True)
        return
    rows = file.done
    try:
        with file.writing() as write:
            head = "" if file.done else layout.head()
            for part in parts:
                write(head + "".join(map(layout.line, part)))
                rows, head = rows + len(part), ""
    except KeyboardInterrupt:
        say(f"stopped behind row {rows:,}; the same command goes on from there")
        raise
    say(f"{rows:,} rows in {file.path}")
