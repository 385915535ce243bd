"""From what the user typed to rows: a packaged data set, a file, a folder, a hub id, or rows in memory."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from softprompt.errors import DataError
from softprompt.registry import nearest, unknown_name
from softprompt.tasks.sources.files import FILE_FORMATS, from_file, from_folder
from softprompt.tasks.sources.packaged import PACKAGED, from_package
from softprompt.tasks.sources.records import no_such_file, readable
from softprompt.tasks.sources.table import SPLIT_NAMES, RawData, Table, table_of

Rows = Sequence[Mapping[str, Any]]
Source = str | Path | Rows | Mapping[str, Rows]

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?(:[\w.-]+)?")


def resolve(source: Source) -> RawData:
    """Read a source, whatever it is; a packaged name wins over a path (write `./sms-spam` for the path).

    Args:
        source: a packaged name, a file, a folder with a file a split, a folder that `save_to_disk` wrote,
            `name`, `org/name` or `name:config` on the Hugging Face hub, or rows: a sequence of mappings
            from column to value, or a mapping from split to such a sequence.

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


def _from_memory(rows: Rows | Mapping[str, Rows]) -> RawData:
    if not isinstance(rows, Mapping):
        return RawData("rows", {"train": _numbered("the rows", rows)}, divided=False)
    tables: dict[str, Table] = {}
    for name, part in rows.items():
        if name not in SPLIT_NAMES:
            raise unknown_name("split", name, SPLIT_NAMES)
        tables[SPLIT_NAMES[name]] = _numbered(name, part)
    return RawData("rows", tables, divided=True)


def _numbered(origin: str, rows: Rows) -> Table:
    return table_of(origin, list(enumerate(rows, 1)), "row")
