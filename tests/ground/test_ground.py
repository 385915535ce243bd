"""The words that everyone uses: names, homes, whole files, progress."""

import os

import pytest

from softprompt import durable, home
from softprompt.errors import StorageError, UnknownNameError
from softprompt.progress import Meter, meter
from softprompt.registry import Registry, nearest


def test_registry_imports_lazily_and_offers_the_nearest():
    registry = Registry("thing", {"dumps": "json:dumps"})
    assert registry.get("dumps")({}) == "{}"
    assert "dumps" in registry
    assert list(registry) == ["dumps"]
    with pytest.raises(UnknownNameError, match="unknown thing `dump`; did you mean `dumps`"):
        registry.get("dump")
    with pytest.raises(UnknownNameError, match="known: dumps"):
        registry.get("zzz")


def test_nearest_is_best_first():
    assert nearest("spam", ["spams", "ham", "eggs"])[0] == "spams"


def test_home_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("SOFTPROMPT_HOME", str(tmp_path))
    assert home.store_dir() == tmp_path / "store"
    assert home.cache_dir() == tmp_path / "cache"
    assert home.runs_dir() == tmp_path / "runs"
    monkeypatch.delenv("SOFTPROMPT_HOME")
    assert home.home().name == "softprompt"


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    durable.write_text(path, "old")
    with pytest.raises(RuntimeError), durable.replacing(path) as stream:  # noqa: PT012
        stream.write(b"half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_one_clear_error(monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"cannot write .*: No space left on device; nothing was left half-written"):
        durable.write_text(tmp_path / "file", "text")
    assert os.listdir(tmp_path) == []


def test_no_permission_is_one_clear_error(monkeypatch, tmp_path):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refused)
    with pytest.raises(StorageError, match="Permission denied"):
        durable.write_text(tmp_path / "file", "text")


def test_a_new_file_may_be_read_as_the_umask_says(tmp_path):
    durable.write_text(tmp_path / "whole", "text")
    (tmp_path / "plain").write_text("text")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_progress_prints_lines_when_not_on_a_terminal(capsys):
    with meter("scoring", 3) as progress:
        progress._every = 0
        progress.advance(2, "half way")
    assert capsys.readouterr().err == "scoring: 2/3 half way\n"


def test_a_job_may_become_longer(capsys):
    progress = Meter("training", 2, every=0.0)
    progress.advance(2)
    progress.reach(6)
    progress.advance(1)
    assert capsys.readouterr().err.splitlines() == ["training: 2/2", "training: 3/6"]
