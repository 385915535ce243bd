"""Files, folders of files, and rows in memory."""

from pathlib import Path

import pytest

from softprompt.errors import DataError, StorageError, UnknownNameError
from softprompt.tasks.sources.resolve import resolve

CSV = "text,label\na,x\nb,y\n"


def test_a_single_file_is_not_divided(tmp_path):
    (tmp_path / "reviews.csv").write_text(CSV)
    raw = resolve(str(tmp_path / "reviews.csv"))
    assert (raw.name, raw.divided, raw.tables["train"].columns) == ("reviews", False, ("text", "label"))
    assert raw.tables["train"].where(1) == f"`{tmp_path / 'reviews.csv'}`, line 3"


@pytest.mark.parametrize("alias", ["validation", "valid", "val", "dev", "DEV"])
def test_a_folder_may_mix_formats_and_names_of_splits(tmp_path, alias):
    (tmp_path / "train.csv").write_text(CSV)
    (tmp_path / f"{alias}.tsv").write_text("text\tlabel\na\tx\n")
    (tmp_path / "test.jsonl").write_text('{"text": "a", "label": "x"}\n')
    (tmp_path / "README.md").write_text("not data")
    (tmp_path / "extra.csv").write_text(CSV)
    raw = resolve(tmp_path)
    assert raw.divided
    assert raw.name == tmp_path.name
    assert {split: len(table.rows) for split, table in raw.tables.items()} == {"train": 2, "validation": 1, "test": 1}


def test_two_files_for_one_split_are_refused(tmp_path):
    for name in ("train.csv", "dev.csv", "valid.csv"):
        (tmp_path / name).write_text(CSV)
    with pytest.raises(DataError, match=r"two files for validation: `dev.csv` and `valid.csv`; keep one"):
        resolve(tmp_path)


def test_a_folder_without_splits_says_what_it_holds(tmp_path):
    with pytest.raises(DataError, match="no file for a split; it holds nothing; name its files train"):
        resolve(tmp_path)
    (tmp_path / "reviews.csv").write_text(CSV)
    with pytest.raises(DataError, match=r"it holds `reviews.csv`; name its files train"):
        resolve(tmp_path)


def test_a_missing_file_offers_the_nearest(tmp_path):
    (tmp_path / "reviews.csv").write_text(CSV)
    with pytest.raises(DataError, match=r"there is no file .*review.csv`; did you mean `reviews.csv`\?"):
        resolve(str(tmp_path / "review.csv"))
    with pytest.raises(DataError, match="there is no file"):
        resolve("nowhere.csv")
    with pytest.raises(DataError, match="there is no file"):
        resolve("./no/such/folder")


def test_an_unknown_suffix_offers_the_nearest(tmp_path):
    (tmp_path / "reviews.jsnl").write_text("{}")
    with pytest.raises(UnknownNameError, match=r"unknown file format `.jsnl`; did you mean `.jsonl`"):
        resolve(tmp_path / "reviews.jsnl")


@pytest.mark.parametrize("text", ["", "text,label\n", "\n\n"])
def test_a_file_without_rows_is_refused(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=r"`.*a.csv` has no rows; give it at least a few rows of each label"):
        resolve(tmp_path / "a.csv")


def test_rows_in_memory_are_a_source():
    rows = [{"text": "a", "label": "x"}]
    assert not resolve(rows).divided
    divided = resolve({"train": rows, "dev": rows})
    assert divided.divided
    assert set(divided.tables) == {"train", "validation"}
    assert divided.tables["train"].where(0) == "`train`, row 1"
    with pytest.raises(UnknownNameError, match="unknown split `tets`; did you mean `test`"):
        resolve({"train": rows, "tets": rows})


def test_what_the_system_refuses_is_said(monkeypatch, tmp_path):
    with pytest.raises(StorageError, match=r"cannot read .*: File name too long; check the path and its rights"):
        resolve("./" + "x" * 300)

    def refused(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(StorageError, match=r"cannot read .*: Permission denied"):
        resolve(tmp_path)
