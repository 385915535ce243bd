"""Parquet files and Hugging Face data sets, read through the `datasets` library: the one door to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from softprompt.errors import DataError, MissingExtraError, StorageError
from softprompt.tasks.sources.table import SPLIT_NAMES, RawData, Table, table_of


def _library(asked: str) -> Any:
    """Import `datasets` for what the user asked."""
    try:
        import datasets
    except ImportError as error:
        message = f'reading {asked} needs the `datasets` library; install it with pip install "softprompt[data]"'
        raise MissingExtraError(message) from error
    return datasets


def read_parquet(path: Path) -> Table:
    """Read a Parquet file; numbered classes that a Hugging Face data set wrote into it keep their names.

    Raises:
        DataError: the file is not Parquet, or has no rows.
        MissingExtraError: the `data` extra is not installed.
    """
    datasets = _library(f"the Parquet file `{path}`")
    import pyarrow
    from pyarrow.parquet import read_table

    try:
        table = read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"`{path}` cannot be read as Parquet: {_first_line(error)}; write it anew") from error
    return _table(datasets.Dataset(table), str(path))


def is_saved(folder: Path) -> bool:
    """Tell whether a folder was written by `save_to_disk` of a Hugging Face data set."""
    return (folder / "dataset_dict.json").is_file() or (folder / "dataset_info.json").is_file()


def from_saved(folder: Path) -> RawData:
    """Read a data set that `save_to_disk` wrote, divided into splits or not.

    Raises:
        DataError: the folder cannot be read, or has no labelled split of a known name.
        MissingExtraError: the `data` extra is not installed.
    """
    datasets = _library(f"the saved data set `{folder}`")
    try:
        loaded = datasets.load_from_disk(str(folder))
    except PermissionError as error:
        raise StorageError(f"cannot read `{folder}`: {error.strerror}") from error
    except Exception as error:  # whatever is wrong with the folder, the user has one thing to do
        raise DataError(f"`{folder}` cannot be read as a saved data set: {_first_line(error)}; save it anew") from error
    return _raw(loaded, folder.resolve().name, str(folder))


def from_hub(identifier: str) -> RawData:
    """Fetch a data set of the Hugging Face hub.

    Args:
        identifier: `name` or `org/name`, with `:config` behind it where the data set has several.

    Raises:
        DataError: there is no such data set, no network, no such config, or no labelled split.
        MissingExtraError: the `data` extra is not installed.
    """
    datasets = _library(f"the hub data set `{identifier}`")
    name, _, config = identifier.partition(":")
    try:
        loaded = datasets.load_dataset(name, config or None)
    except Exception as error:  # the hub client raises a dozen kinds; the user's choices are the same
        raise DataError(
            f"`{identifier}` cannot be fetched from the Hugging Face hub: {_first_line(error)}; "
            "check the name (name, org/name or name:config) and the network, or give a local file or folder"
        ) from error
    return _raw(loaded, name.rpartition("/")[2], identifier)


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


def _raw(loaded: Any, name: str, origin: str) -> RawData:
    """Turn what the library loaded into tables: a dictionary of splits, or one undivided set of rows."""
    if not isinstance(loaded, Mapping):
        return RawData(name, {"train": _table(loaded, origin)}, divided=False)
    notes, tables = [], {}
    for split, data in loaded.items():
        known = SPLIT_NAMES.get(str(split))
        if known is None:
            notes.append(f"the split `{split}` of `{origin}` ({len(data)} rows) is not used")
        elif _unlabelled(data):
            notes.append(f"the split `{split}` of `{origin}` ({len(data)} rows) has no labels and is not used")
        else:
            tables[known] = _table(data, f"{origin}, {split}")
    if not tables:
        there = ", ".join(f"`{s}`" for s in loaded) or "none"
        raise DataError(f"`{origin}` has no labelled split called train, validation or test; its splits are {there}")
    return RawData(name, tables, divided=True, notes=tuple(notes))


def _unlabelled(data: Any) -> bool:
    """A benchmark's hidden test labels are written as -1 in every row."""
    return any(set(data.unique(column)) == {-1} for column in _class_names(data))


def _class_names(data: Any) -> dict[str, tuple[str, ...]]:
    return {c: tuple(f.names) for c, f in data.features.items() if type(f).__name__ == "ClassLabel"}


def _listed_class_names(data: Any) -> dict[str, tuple[str, ...]]:
    """The same of columns that hold lists of numbered classes, as the tags of words do."""
    inside = {c: getattr(feature, "feature", None) for c, feature in data.features.items()}
    return {c: tuple(f.names) for c, f in inside.items() if f is not None and type(f).__name__ == "ClassLabel"}


def _table(data: Any, origin: str) -> Table:
    """Copy one split out of Arrow, its numbered classes turned into their names."""
    names = {**_class_names(data), **_listed_class_names(data)}
    table = table_of(origin, list(enumerate(map(dict, _rows(data, names)), 1)), "row")
    return Table(origin, table.columns, table.rows, table.numbers, "row", names)


def _rows(data: Any, names: Mapping[str, tuple[str, ...]]) -> Iterable[dict[str, Any]]:
    for row in data.with_format(None):
        for column, known in names.items():
            value = row[column]
            row[column] = [_named(n, known) for n in value] if isinstance(value, list) else _named(value, known)
        yield row


def _named(number: Any, known: tuple[str, ...]) -> str | None:
    return known[number] if isinstance(number, int) and 0 <= number < len(known) else None
