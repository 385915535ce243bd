"""Files and folders of files: one table each, or one a split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from softprompt.errors import DataError
from softprompt.registry import Registry
from softprompt.tasks.sources.records import TEXT_FORMATS, no_such_file, opened, readable, records
from softprompt.tasks.sources.table import SPLIT_NAMES, RawData, Table, table_of

NOT_TEXT = {
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers"), "a workbook of a spreadsheet program"),
    **dict.fromkeys((".docx", ".doc", ".odt", ".pdf"), "a document, not rows"),
    **dict.fromkeys((".zip", ".gz", ".bz2", ".xz", ".zst", ".7z"), "a packed file"),
    **dict.fromkeys((".pkl", ".pickle", ".feather", ".arrow", ".npy", ".npz"), "a program's own file"),
}
"""Files that users have rows in and that are not read here, by their suffix, and what each is."""


def refuse_not_text(path: Path) -> None:
    """Refuse a file that is neither text nor a table that is read here.

    Raises:
        DataError: its suffix says so.
    """
    if (what := NOT_TEXT.get(path.suffix.lower())) is not None:
        raise DataError(f"`{path}` is {what}, which is not read here; save its rows as CSV (UTF-8) and give that")


def read_file(path: Path) -> Table:
    """Read one file of rows; its suffix says what it is.

    Args:
        path: a `.csv`, `.tsv`, `.jsonl` or `.parquet` file.

    Raises:
        DataError: there is no such file, it is a workbook or the like, it cannot be read as what its suffix says, or
            it has no rows.
        UnknownNameError: the suffix is none that is read here.
        StorageError: the file may not be read.
        MissingExtraError: a Parquet file, and the `data` extra is not installed.
    """
    if not path.exists():
        raise DataError(no_such_file(path))
    refuse_not_text(path)
    return FILE_FORMATS.get(path.suffix.lower())(path)


def _read_text(path: Path) -> Table:
    with opened(path) as stream:
        return table_of(str(path), list(records(stream, str(path), TEXT_FORMATS[path.suffix.lower()])))


FILE_FORMATS: Registry[Callable[[Path], Table]] = Registry(
    "file format",
    {**dict.fromkeys(TEXT_FORMATS, _read_text), ".parquet": "softprompt.tasks.sources.arrow:read_parquet"},
)
"""What reads a file, by its suffix."""


def from_file(path: Path) -> RawData:
    """Read a file whose rows are yet to be divided."""
    return RawData(path.stem, {"train": read_file(path)}, divided=False)


def from_folder(folder: Path) -> RawData:
    """Read a folder that holds a file for each split: `train`, `validation` (or `dev`, `valid`, `val`), `test`.

    Raises:
        DataError: two files are the same split, or none is a split.
        StorageError: the folder may not be read.
    """
    found: dict[str, Path] = {}
    for path in _data_files(folder):
        split = SPLIT_NAMES.get(path.stem.lower())
        if split in found:
            raise DataError(f"`{folder}` has two files for {split}: `{found[split].name}` and `{path.name}`; keep one")
        if split:
            found[split] = path
    if not found:
        there = ", ".join(f"`{p.name}`" for p in sorted(folder.iterdir())[:10]) or "nothing"
        raise DataError(
            f"`{folder}` has no file for a split; it holds {there}; "
            "name its files train, validation and test, with the suffix .csv, .tsv, .jsonl or .parquet"
        )
    return RawData(folder.resolve().name, {split: read_file(path) for split, path in found.items()}, divided=True)


def _data_files(folder: Path) -> list[Path]:
    with readable(folder):
        return sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in FILE_FORMATS)
