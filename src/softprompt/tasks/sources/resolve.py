"""From what the user typed to rows: a packaged data set, a file, a folder, a hub id, or rows in memory."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from softprompt.errors import DataError
from softprompt.registry import nearest, unknown_name
from softprompt.tasks.sources.files import FILE_FORMATS, from_file, from_folder
from softprompt.tasks.sources.packaged import PACKAGED, from_package
from softprompt.tasks.sources.records import no_such_file, readable
from softprompt.tasks.sources.table import SPLIT_NAMES, RawData, Table, table_of

Rows = Sequence[Mapping[str, Any]]


@runtime_checkable
class Frame(Protocol):
    """A data frame of pandas, told by what it has: the library itself is not needed."""

    columns: Any
    iloc: Any

    def to_dict(self, orient: Any) -> Any:
        """Return the rows, with `records`."""
        ...


Source = str | Path | Rows | Frame | Mapping[str, Rows | Frame]

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?(:[\w.-]+)?")


def resolve(source: Source) -> RawData:
    """Read a source, whatever it is; a packaged name wins over a path (write `./sms-spam` for the path).

    Args:
        source: a packaged name, a file, a folder with a file a split, a folder that `save_to_disk` wrote,
            `name`, `org/name` or `name:config` on the Hugging Face hub, or rows: a sequence of mappings
            from column to value or a data frame of pandas, or a mapping from split to such rows.

    Raises:
        DataError: nothing is there, or what is there cannot be read.
        UnknownNameError: a file format or a split that nothing here reads.
        MissingExtraError: what it takes is not installed.
        StorageError: the file may not be read.
    """
    if isinstance(source, Path):
        return _from_path(source)
    if not isinstance(source, str):
        return _from_memory(source)
    if source in PACKAGED:
        return from_package(source)
    path = Path(source).expanduser()
    if _looks_like_path(source) or path.exists():
        return _from_path(path)
    return _from_hub(source)


def _looks_like_path(text: str) -> bool:
    return Path(text).suffix.lower() in FILE_FORMATS or not _HUB_ID.fullmatch(text)


def _from_path(path: Path) -> RawData:
    with readable(path):
        if not path.exists():
            raise DataError(no_such_file(path))
    if not path.is_dir():
        return from_file(path)
    from softprompt.tasks.sources import arrow

    return arrow.from_saved(path) if arrow.is_saved(path) else from_folder(path)


def _from_hub(identifier: str) -> RawData:
    from softprompt.tasks.sources.arrow import from_hub

    try:
        return from_hub(identifier)
    except (DataError, ImportError) as error:
        near = nearest(identifier, PACKAGED)
        if not near:
            raise
        raise type(error)(f"{error}; or did you mean the packaged data set `{near[0]}`?") from error


def _from_memory(rows: Any) -> RawData:
    if not isinstance(rows, Mapping):
        return RawData("rows", {"train": _numbered("the rows", rows)}, divided=False)
    if rows and not any(name in SPLIT_NAMES for name in rows) and not any(map(_are_rows, rows.values())):
        named = ", ".join(f"`{name}`" for name in rows)
        raise DataError(
            f"the rows are a mapping with {named}, which are columns; give one mapping a row, as "
            '[{"text": "...", "label": "..."}, ...], a data frame, or such rows by split, as {"train": [...]}'
        )
    tables: dict[str, Table] = {}
    for name, part in rows.items():
        if name not in SPLIT_NAMES:
            raise unknown_name("split", name, SPLIT_NAMES)
        tables[SPLIT_NAMES[name]] = _numbered(name, part)
    return RawData("rows", tables, divided=True)


def _are_rows(part: Any) -> bool:
    return isinstance(part, Frame) or (isinstance(part, Sequence) and bool(part) and isinstance(part[0], Mapping))


def _numbered(origin: str, rows: Any) -> Table:
    """Number rows from 1.

    Raises:
        DataError: they are no rows, or one of them is no mapping.
    """
    if isinstance(rows, str | bytes) or not isinstance(rows, Iterable):
        raise DataError(f"`{origin}` is {type(rows).__name__}, which holds no rows; give one mapping a row")
    numbered = list(enumerate(_records(rows) if isinstance(rows, Frame) else rows, 1))
    for number, row in numbered:
        if not isinstance(row, Mapping):
            raise DataError(
                f"`{origin}`, row {number} is {type(row).__name__} ({str(row)[:40]!r}); give one mapping a row, as "
                '{"text": "...", "label": "..."}'
            )
    return table_of(origin, numbered, "row")


def _records(frame: Frame) -> list[dict[str, Any]]:
    """The rows of a data frame; what is missing there, which it writes as a number that is none, is None."""
    return [
        {str(column): None if _is_missing(value) else value for column, value in row.items()}
        for row in frame.to_dict("records")
    ]


def _is_missing(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
