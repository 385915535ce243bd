"""Keys: made once, kept as hashes in a file that only its owner reads, known and refused as soon as it changes."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from softprompt.errors import ConfigError, StorageError, UnknownNameError
from softprompt.server.keyring import PREFIX, Key, Keyring, add_key, default_path, read_keys, remove_key


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "keys.json"


def test_a_key_is_known_by_its_hash_alone(path):
    key = add_key(path, "ci", prompts=("support-*",), manage=True, requests_per_minute=60)
    assert key.startswith(PREFIX)
    assert len(key) > 40
    assert key not in path.read_text()
    assert key.removeprefix(PREFIX) not in path.read_text()
    found = Keyring(path).find(key)
    assert (found.name, found.prompts, found.manage, found.watch) == ("ci", ("support-*",), True, False)
    assert found.sha256 == hashlib.sha256(key.encode()).hexdigest()
    assert found.requests_per_minute == 60


def test_only_the_owner_may_read_the_file(path):
    add_key(path, "ci")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    add_key(path, "more")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_two_keys_are_the_same_and_wrong_ones_are_nobody(path):
    keys = {add_key(path, f"key{i}") for i in range(8)}
    ring = Keyring(path)
    assert len(keys) == 8
    assert sorted(ring.find(key).name for key in keys) == [f"key{i}" for i in range(8)]
    for wrong in ("", PREFIX, "sp-" + "a" * 43, ring.find(next(iter(keys))).sha256, next(iter(keys))[:-1]):
        assert ring.find(wrong) is None


def test_a_running_server_sees_every_change(path):
    first = add_key(path, "first")
    ring = Keyring(path)
    second = add_key(path, "second")
    assert ring.find(second).name == "second"
    assert len(ring) == 2
    remove_key(path, "first")
    assert ring.find(first) is None
    assert ring.find(second).name == "second"


def test_a_file_that_cannot_be_used_after_a_change_leaves_the_keys_and_one_that_is_gone_leaves_none(path, caplog):
    key = add_key(path, "ci")
    ring = Keyring(path)
    path.write_text("{ not json")
    assert [ring.find(key).name for _ in range(3)] == ["ci"] * 3
    (message,) = caplog.messages  # once, and not with every request
    assert message.startswith("the keys stay as they were, for the file has changed and cannot be used: ")
    path.unlink()
    assert ring.find(key) is None
    assert re.fullmatch(r"the file of keys `.*` is gone, so nobody is let in; .*", caplog.messages[1])
    key = add_key(path, "again")
    assert ring.find(key).name == "again"


def test_a_file_that_could_not_be_read_after_a_change_is_read_with_the_next_call(path, monkeypatch, caplog):
    removed, kept = add_key(path, "old"), add_key(path, "ci")
    ring = Keyring(path)
    remove_key(path, "old")

    def refuse(self):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        assert [ring.find(kept).name for _ in range(3)] == ["ci"] * 3
    (message,) = caplog.messages  # once, and not with every request
    assert message.startswith("the keys stay as they were until the file can be read, for it has changed: ")
    assert ring.find(removed) is None
    assert ring.find(kept).name == "ci"


def test_processes_that_add_keys_at_once_lose_none(path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: add_key(path, f"key{i}"), range(16)))
    assert len(read_keys(path)) == 16


def test_a_name_is_taken_once(path):
    add_key(path, "ci")
    with pytest.raises(ConfigError, match=r"there is a key called `ci` in `.*`; remove it first, or take another name"):
        add_key(path, "ci")
    assert len(read_keys(path)) == 1


@pytest.mark.parametrize("name", ["", "a b", "-a", "x" * 65, "a\nb"])
def test_names_that_cannot_be(path, name):
    with pytest.raises(ConfigError, match="no key can be called"):
        add_key(path, name)


def test_limits_are_above_nothing(path):
    with pytest.raises(ConfigError, match="requests per minute is 0; give a number above 0, or none at all"):
        add_key(path, "ci", requests_per_minute=0)
    with pytest.raises(ConfigError, match=r"tokens per minute is -1\.5"):
        add_key(path, "ci", tokens_per_minute=-1.5)
    assert not path.exists()


def test_removing_what_is_not_there_offers_what_is(path):
    add_key(path, "helpdesk")
    with pytest.raises(UnknownNameError, match=r"unknown key `helpdsk`; did you mean `helpdesk`\?"):
        remove_key(path, "helpdsk")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"version": 2, "keys": []}',
        '{"version": 1}',
        '{"version": 1, "keys": [{"name": "ci"}]}',
        '{"version": 1, "keys": [{"name": "ci", "sha256": "", "prompts": [], "root": true}]}',
        '{"version": 1, "keys": [{"name": "ci", "sha256": "", "prompts": "*"}]}',
        '{"version": 1, "keys": [{"name": "ci", "sha256": "", "prompts": [], "manage": "false"}]}',
        '{"version": 1, "keys": [{"name": "ci", "sha256": "", "prompts": [], "requests_per_minute": "9"}]}',
        '{"version": 1, "keys": [{"name": "ci", "sha256": 5, "prompts": []}]}',
    ],
)
def test_what_is_no_file_of_keys_is_refused_and_gives_nobody_a_right(path, text):
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ConfigError, match="is no file of keys"):
        Keyring(path)


def test_a_file_that_may_not_be_read_is_said(tmp_path):
    with pytest.raises(StorageError, match="cannot read the keys in"):
        Keyring(tmp_path)


def test_patterns_are_of_names_whatever_the_version():
    key = Key("ci", "", prompts=("support-*", "mood"))
    assert [key.fits(name) for name in ("support-reply@prod", "mood", "moody", "Support-a", "support")] == [
        True, True, False, False, False,
    ]  # fmt: skip
    assert not Key("ci", "", prompts=()).fits("mood")
    assert Key("ci", "").fits("sha256:" + "0" * 64)


def test_keys_lie_under_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("SOFTPROMPT_HOME", str(tmp_path))
    assert default_path() == tmp_path / "keys.json"


def test_the_file_says_what_version_it_is(path):
    add_key(path, "ci")
    assert json.loads(path.read_text())["version"] == 1


def test_a_digest_says_no_name_that_a_pattern_could_fit():
    for pattern in ("s*", "sha*", "[!t]*", "sha256:*"):
        assert not Key("k", "", prompts=(pattern,)).fits("sha256:cf83baa5")
    assert Key("k", "", prompts=("*",)).fits("sha256:cf83baa5")


@pytest.mark.parametrize("pattern", ["support-*,spam", "spam@v1", "sha256:*", "a b"])
def test_patterns_that_fit_no_name_are_refused(path, pattern):
    with pytest.raises(ConfigError, match="fits no name; give names without version, each by itself"):
        add_key(path, "ci", prompts=(pattern,))
    assert not path.exists()
