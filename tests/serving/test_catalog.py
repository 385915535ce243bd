"""The live store: what lands in it is served within a second, what is bad is refused, and nobody meets an error."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
import tracemalloc

import pytest

from softprompt.errors import (
    ConfigError,
    IncompatiblePromptError,
    PromptFileError,
    StorageError,
    UnknownNameError,
)
from softprompt.serving.catalog import Catalog
from softprompt.store.store import PromptStore
from softprompt.testing.conformance import prompt
from softprompt.testing.tiny import tiny_backbone


@pytest.fixture
def store(tmp_path):
    return PromptStore(tmp_path / "store")


@pytest.fixture
def make(backbone):
    made = {}

    def one(seed, length=3):
        return made.setdefault((seed, length), prompt(backbone, length, seed=seed))

    return one


@pytest.fixture
def catalog(store, backbone):
    with Catalog(store, backbone, poll=0.02) as catalog:
        yield catalog


def until(what, seconds=5.0):
    """Wait until something holds; a second would do on a machine that does nothing else."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"it did not happen within {seconds:g} s"
        time.sleep(0.005)


def damage(store, digest, data=b"half a fi"):
    (store.root / "objects" / digest[:2] / digest[2:]).write_bytes(data)


def test_every_kind_of_reference_is_found(store, catalog, make):
    store.put(make(1), "mail", tags=["prod"])
    second = store.put(make(2), "mail")
    latest = catalog.find("mail")
    assert latest[:4] == ("mail", "mail", 2, second.digest)
    assert latest.prompt.digest == second.digest
    assert catalog.find("mail@v1")[:3] == ("mail@v1", "mail", 1)
    assert catalog.find("mail@prod").digest == make(1).digest
    by_digest = catalog.find(f"sha256:{second.digest[:10]}")
    assert by_digest[1:4] == ("", 0, second.digest)
    assert by_digest.prompt is latest.prompt


def test_what_is_not_there_is_refused_with_near_names(store, catalog, make):
    store.put(make(1), "sentiment")
    with pytest.raises(UnknownNameError, match="unknown prompt `sentimnet`; did you mean `sentiment`"):
        catalog.find("sentimnet")
    with pytest.raises(UnknownNameError, match="`sentiment` has no version `v7`; it has v1"):
        catalog.find("sentiment@v7")
    with pytest.raises(ConfigError, match=r"no prompt can be called `\.\./x`"):
        catalog.find("../x")
    with pytest.raises(UnknownNameError, match="the store has no object"):
        catalog.find("sha256:00000000")
    assert not catalog._asked
    assert not catalog._entries


def test_a_folder_that_cannot_be_a_name_is_none(store, catalog, make):
    store.put(make(1), "mail")
    shutil.copytree(store.root / "names/mail", store.root / "names/Old copies")
    assert catalog.names() == ("mail",)
    with pytest.raises(UnknownNameError, match="unknown prompt `mial`; did you mean `mail`"):
        catalog.find("mial")


def test_a_new_version_is_served_within_a_second(store, backbone, make):
    store.put(make(1), "mail")
    with Catalog(store, backbone) as catalog:
        first = catalog.find("mail")
        second = store.put(make(2), "mail")
        put = time.monotonic()
        until(lambda: catalog.find("mail").digest == second.digest)
        assert time.monotonic() - put < 1
        assert catalog.find("mail").version == 2
        assert catalog.find("mail@v1").digest == first.digest
    assert first.prompt.digest == make(1).digest  # whoever has it keeps it


def test_a_moved_tag_is_served_within_a_second(store, catalog, make):
    store.put(make(1), "mail", tags=["prod"])
    store.put(make(2), "mail")
    assert catalog.find("mail@prod").version == 1
    store.tag("mail@v2", "prod")
    until(lambda: catalog.find("mail@prod").version == 2)
    store.untag("mail", "prod")

    def gone():
        try:
            catalog.find("mail@prod")
        except UnknownNameError:
            return True
        return False

    until(gone)


def test_a_bad_new_version_is_refused_and_logged_once_and_the_old_one_goes_on(store, catalog, make, caplog):
    store.put(make(1), "mail")
    catalog.find("mail")
    with caplog.at_level(logging.INFO, logger="softprompt.serving"):
        bad = make(2)
        damage_path = store.root / "objects" / bad.digest[:2]
        damage_path.mkdir(parents=True, exist_ok=True)
        (damage_path / bad.digest[2:]).write_bytes(b"half a fi")
        (store.root / "names/mail/versions/000002").write_text(f"sha256:{bad.digest}\n")
        until(lambda: "stays v1" in caplog.text)
        time.sleep(0.1)
        assert catalog.find("mail").version == 1
        assert caplog.text.count("has something new that cannot be used, and stays v1: the object sha256:") == 1
        with pytest.raises(StorageError, match="is damaged"):
            catalog.find("mail@v2")
        third = store.put(make(3), "mail")
        until(lambda: catalog.find("mail").digest == third.digest)
    assert "`mail` is mail@v3 from now on" in caplog.text


def test_a_refused_version_is_served_once_it_is_made_good(store, catalog, make, monkeypatch):
    monkeypatch.setattr("softprompt.serving.catalog._RETRY", 0.05)
    store.put(make(1), "mail")
    catalog.find("mail")
    second = store.put(make(2), "mail")
    damage(store, second.digest)
    until(lambda: catalog._entries["mail"].refused or catalog.find("mail").version == 2)
    store.put(make(2), "mail")
    until(lambda: catalog.find("mail").version == 2)


def test_a_prompt_of_another_backbone_is_refused(store, catalog, make, caplog):
    store.put(make(1), "mail")
    catalog.find("mail")
    store.put(prompt(tiny_backbone("gpt2"), 3), "mail")
    until(lambda: "another architecture" in caplog.text)
    assert catalog.find("mail").version == 1
    with pytest.raises(IncompatiblePromptError, match="another architecture"):
        catalog.find("mail@v2")


def test_a_prompt_without_room_is_refused(store, catalog, make):
    store.put(make(1, 300), "mail")
    with pytest.raises(IncompatiblePromptError, match=r"cannot be used here: 300 virtual tokens"):
        catalog.find("mail")


def test_other_weights_are_refused_unless_allowed(store, backbone, make):
    store.put(prompt(tiny_backbone("gemma3", seed=5), 3), "mail")
    with pytest.raises(IncompatiblePromptError, match="other weights"):
        Catalog(store, backbone).find("mail")
    assert Catalog(store, backbone, allow_other_weights=True).find("mail").version == 1


def test_a_file_that_is_no_prompt_is_refused(store, catalog, make):
    import hashlib

    data = b"no prompt at all, but whole"
    digest = hashlib.sha256(data).hexdigest()
    store.put(make(1), "mail")
    (store.root / "objects" / digest[:2]).mkdir(parents=True, exist_ok=True)
    damage(store, digest, data)
    (store.root / "names/mail/versions/000002").write_text(f"sha256:{digest}\n")
    with pytest.raises(PromptFileError):
        catalog.find("mail")


def test_deleted_names_disappear(store, catalog, make):
    store.put(make(1), "mail")
    store.put(make(2), "spam")
    store.put(make(3), "ham")
    for name in ("mail", "spam", "ham"):
        catalog.find(name)
    assert catalog.names() == ("ham", "mail", "spam")
    store.remove("mail")
    shutil.rmtree(store.root / "names" / "spam")

    def gone(name):
        try:
            catalog.find(name)
        except UnknownNameError:
            return True
        return False

    until(lambda: gone("mail") and gone("spam"))
    assert catalog.names() == ("ham",)
    store.put(make(4), "mail")
    assert catalog.find("mail").version == 2  # a number is not used again
    assert catalog.names() == ("ham", "mail")


def test_it_is_live_without_its_thread_too(store, backbone, make):
    catalog = Catalog(store, backbone, poll=0.005)
    store.put(make(1), "mail")
    assert catalog.find("mail").version == 1
    store.put(make(2), "mail")
    until(lambda: catalog.find("mail").version == 2)


def test_prompts_are_given_away_by_their_bytes_and_read_again(store, backbone, make):
    for number in range(20):
        store.put(make(number), f"p{number}")
    catalog = Catalog(store, backbone, max_bytes=40_000)
    for number in range(20):
        assert catalog.find(f"p{number}").prompt.digest == make(number).digest
    assert 0 < catalog.bytes <= 40_000
    assert catalog.find("p0").prompt.digest == make(0).digest


def test_the_version_that_stays_is_read_again_when_it_was_given_away(store, backbone, make):
    catalog = Catalog(store, backbone, max_bytes=1, poll=0.005)
    store.put(make(1), "mail")
    catalog.find("mail")
    damage(store, store.put(make(2), "mail").digest)
    time.sleep(0.05)
    assert catalog.find("mail").version == 1
    assert catalog.find("mail").prompt.digest == make(1).digest


def test_eight_threads_ask_while_a_writer_puts_versions(store, catalog, make):
    names = [f"p{n}" for n in range(6)]
    for n, name in enumerate(names):
        store.put(make(n), name, tags=["prod"])
    errors, stop, found = [], threading.Event(), set()

    def ask(which):
        try:
            number = which
            while not stop.is_set():
                number += 1
                served = catalog.find(names[number % 6] + ("@prod" if number % 3 == 0 else ""))
                assert served.prompt.digest == served.digest
                found.add((served.name, served.version))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(which,)) for which in range(8)]
    for thread in threads:
        thread.start()
    last = {}
    for number in range(36):
        name = names[number % 6]
        last[name] = store.put(make(6 + number), name, tags=["prod"] if number % 2 else [])
    until(lambda: all(catalog.find(name).digest == version.digest for name, version in last.items()))
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(found) > 12


def test_hundreds_of_names_cost_nothing_until_they_are_asked_for(store, backbone, make):
    data = make(1).to_bytes()
    store.put(make(1), "first")
    for number in range(300):
        folder = store.root / "names" / f"n{number}" / "versions"
        folder.mkdir(parents=True)
        (folder / "000001").write_text(f"sha256:{make(1).digest}\n")
        os.utime(folder, (1e9, 1e9))  # one that changed just now is read again, lest a change be hidden by a clock tick
    tracemalloc.start()
    start = time.thread_time()
    with Catalog(store, backbone) as catalog:
        assert time.thread_time() - start < 0.1
        assert tracemalloc.get_traced_memory()[0] < 500_000
        tracemalloc.stop()
        for number in range(300):
            catalog.find(f"n{number}")
        assert catalog.bytes < 3 * (len(data) + 10_000)  # they are one prompt
        start = time.thread_time()
        catalog.look()
        assert time.thread_time() - start < 0.1
        assert len(catalog.names()) == 301


def test_watching_goes_on_whatever_happens(store, backbone, make, monkeypatch, caplog):
    store.put(make(1), "mail")
    with Catalog(store, backbone, poll=0.01) as catalog:
        catalog.find("mail")
        look = Catalog.look
        times = []

        def fail(self):
            times.append(1)
            if len(times) < 3:
                raise OSError("the disk sleeps")
            look(self)

        monkeypatch.setattr(Catalog, "look", fail)
        until(lambda: len(times) > 3)
        store.put(make(2), "mail")
        until(lambda: catalog.find("mail").version == 2)
    assert "the store could not be watched; it is tried again in 0.01 s" in caplog.text


def test_a_new_version_whose_file_is_missing_leaves_the_old_one(store, catalog, make, caplog):
    store.put(make(1), "mail")
    catalog.find("mail")
    with caplog.at_level(logging.INFO, logger="softprompt.serving"):
        (store.root / "names/mail/versions/000002").write_text(f"sha256:{'0' * 64}\n")
        until(lambda: "stays v1" in caplog.text)
    assert "the store has lost the file sha256:000000" in caplog.text
    assert catalog.find("mail").version == 1
    with pytest.raises(StorageError, match="put that prompt again"):
        catalog.find("mail@v2")


def test_what_can_be_no_name_reaches_no_file_and_is_not_kept(store, catalog, make, monkeypatch):
    store.put(make(1), "mail")
    looked = []
    monkeypatch.setattr(catalog._stamps, "of", lambda name: looked.append(name) or (0, 0))
    for wrong in ("mail\x00", "../../etc", "", "Mail", "a" * 300):
        with pytest.raises(ConfigError, match="no prompt can be called"):
            catalog.find(wrong)
    assert looked == []
    with pytest.raises(UnknownNameError, match="did you mean `mail`"):
        catalog.find("mali")
    assert not catalog._asked


def test_an_unknown_name_is_told_without_reading_the_store(store, catalog, make, monkeypatch):
    for number in range(130):
        store.put(make(1), f"prompt-{number:03d}")
    monkeypatch.setattr(store, "version", lambda reference: pytest.fail("every name's files are read"))
    with pytest.raises(UnknownNameError, match=r"known: prompt-000, .* and 30 more$"):
        catalog.find("zzz")
