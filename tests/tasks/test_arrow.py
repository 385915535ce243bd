"""Parquet and Hugging Face data sets, on sets built here."""

import sys

import pytest

from softprompt.errors import DataError, MissingExtraError, StorageError
from softprompt.tasks.load import load_task
from softprompt.tasks.sources.resolve import resolve

datasets = pytest.importorskip("datasets", reason="the `data` extra is not installed")

ROWS = [{"text": f"row {n}", "label": n % 2} for n in range(40)]


def made(rows, names=("spam", "ham")):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=list(names))})
    return datasets.Dataset.from_list(rows, features=features)


def test_a_saved_dictionary_of_splits_keeps_them_and_names_its_classes(tmp_path):
    saved = datasets.DatasetDict({"train": made(ROWS), "test": made([{"text": "new", "label": 0}])})
    saved.save_to_disk(str(tmp_path / "toy"))
    task = load_task(tmp_path / "toy")
    assert task.labels == ("spam", "ham")  # the order of the class numbers, not of the alphabet
    assert task.given == {"test"}
    assert task.rows("test")[0].label == "spam"
    assert task.name == "toy"


def test_numbered_tags_in_lists_keep_their_names_and_order(tmp_path):
    tags = datasets.Sequence(datasets.ClassLabel(names=["O", "B-PER", "B-ORG"]))
    features = datasets.Features({"tokens": datasets.Sequence(datasets.Value("string")), "ner_tags": tags})
    rows = [{"tokens": ["Anna", f"w{n}"], "ner_tags": [1, 0]} for n in range(30)]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(str(tmp_path / "toy"))
    task = load_task(tmp_path / "toy")
    assert (task.kind, task.labels, task.rows("test")[0].label) == ("tagging", ("O", "B-PER"), ("B-PER", "O"))


def test_a_saved_single_set_is_divided_by_us(tmp_path):
    made(ROWS).save_to_disk(str(tmp_path / "toy"))
    raw = resolve(str(tmp_path / "toy"))
    assert not raw.divided
    assert raw.tables["train"].where(3) == f"`{tmp_path / 'toy'}`, row 4"


def test_splits_without_labels_or_of_other_names_are_left_out_and_said(tmp_path):
    hidden = [{"text": "x", "label": -1}] * 3
    saved = datasets.DatasetDict({"train": made(ROWS), "test": made(hidden), "unsupervised": made(hidden)})
    saved.save_to_disk(str(tmp_path / "toy"))
    raw = resolve(tmp_path / "toy")
    assert set(raw.tables) == {"train"}
    assert any("split `test` of" in n and "(3 rows) has no labels and is not used" in n for n in raw.notes)
    assert any("split `unsupervised` of" in n and "(3 rows) is not used" in n for n in raw.notes)


def test_a_row_without_a_class_is_told_its_number(tmp_path):
    made([*ROWS, {"text": "x", "label": -1}]).save_to_disk(str(tmp_path / "toy"))
    with pytest.raises(DataError, match="toy`, row 41: the label column `label` is empty"):
        load_task(tmp_path / "toy")


def test_no_known_split_lists_those_there_are(tmp_path):
    datasets.DatasetDict({"unsupervised": made(ROWS)}).save_to_disk(str(tmp_path / "toy"))
    with pytest.raises(DataError, match=r"no labelled split called train, validation or test; .* `unsupervised`"):
        resolve(tmp_path / "toy")


def test_a_broken_saved_set_is_said(tmp_path):
    (tmp_path / "dataset_info.json").write_text("{")
    with pytest.raises(DataError, match=r"cannot be read as a saved data set: .*; save it anew"):
        resolve(tmp_path)


def test_parquet_keeps_class_names_and_types(tmp_path):
    made(ROWS).to_parquet(str(tmp_path / "train.parquet"))
    task = load_task(tmp_path)
    assert task.labels == ("spam", "ham")
    plain = datasets.Dataset.from_list([{"text": None if n == 3 else f"t{n}", "stars": n % 3} for n in range(30)])
    plain.to_parquet(str(tmp_path / "plain.parquet"))
    task = load_task(tmp_path / "plain.parquet", label="stars")
    assert task.labels == ("0", "1", "2")
    assert any("1 row of train with an empty text" in note for note in task.notes)


def test_a_file_that_is_not_parquet_is_said(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"text,label\n")
    with pytest.raises(DataError, match=r"a.parquet` cannot be read as Parquet: .*; write it anew"):
        resolve(tmp_path / "a.parquet")


def test_a_hub_id_may_name_a_config(monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args: asked.append(args) or made(ROWS))
    assert resolve("org/toy:en").name == "toy"
    assert resolve("imdb").name == "imdb"
    assert asked == [("org/toy", "en"), ("imdb", None)]


def test_no_network_is_one_error_that_says_what_to_do(monkeypatch):
    def offline(*args):
        raise ConnectionError("Couldn't reach 'org/toy' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(
        DataError, match=r"`org/toy` cannot be fetched .*Couldn't reach.*and the network, or give a local"
    ):
        resolve("org/toy")
    with pytest.raises(DataError, match=r"cannot be fetched .*did you mean the packaged data set `sms-spam`"):
        resolve("sms_spam")


def test_without_the_extra_it_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    for source in ("imdb", tmp_path / "a.parquet"):
        (tmp_path / "a.parquet").touch()
        with pytest.raises(MissingExtraError, match=r"`datasets` library; install .*\"softprompt\[data\]\""):
            resolve(source)


def test_a_saved_set_that_may_not_be_read_is_said(monkeypatch, tmp_path):
    def refused(folder):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "dataset_info.json").touch()
    monkeypatch.setattr(datasets, "load_from_disk", refused)
    with pytest.raises(StorageError, match=r"cannot read .*: Permission denied"):
        resolve(tmp_path)
