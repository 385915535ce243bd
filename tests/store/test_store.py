"""Names, versions, tags and references of the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from softprompt.durable import claim
from softprompt.errors import ConfigError, StorageError, UnknownNameError, VersionConflictError
from softprompt.store.names import Names
from softprompt.store.store import PromptStore


def test_versions_count_up_and_come_back(store, make) -> None:
    first, second = store.put(make(1), "mail"), store.put(make(2), "mail")
    assert (str(first), str(second)) == ("mail@v1", "mail@v2")
    assert store.get("mail").digest == store.get("mail@latest").digest == second.digest == make(2).digest
    assert store.get("mail@v1").digest == first.digest
    assert [version.number for version in store.log("mail")] == [2, 1]


def test_the_files_are_where_the_design_says(store, make) -> None:
    version = store.put(make(), "mail", tags=["prod"])
    digest = version.digest
    assert (store.root / "objects" / digest[:2] / digest[2:]).read_bytes() == make().to_bytes()
    assert (store.root / "names/mail/versions/000001").read_text() == f"sha256:{digest}\n"
    assert (store.root / "names/mail/tags/prod").read_text() == "v1\n"


def test_putting_the_latest_again_changes_nothing(store, make) -> None:
    assert store.put(make(1), "mail").number == store.put(make(1), "mail").number == 1
    store.put(make(2), "mail")
    assert store.put(make(1), "mail").number == 3
    assert len([path for path in (store.root / "objects").rglob("*") if path.is_file()]) == 2


def test_a_version_follows_the_one_that_it_is_to_follow_or_none(store, make) -> None:
    assert store.put(make(1), "mail", after=0).number == 1
    assert store.put(make(2), "mail", after=1).number == 2
    assert store.put(make(2), "mail", after=1).number == 2  # the same bytes are that version
    with pytest.raises(VersionConflictError, match="the latest `mail` is v2, and v1 was to be followed: somebody was"):
        store.put(make(3), "mail", after=1)
    with pytest.raises(VersionConflictError, match="the latest `mail` is v2, and this was to be the first"):
        store.put(make(3), "mail", after=0)
    with pytest.raises(VersionConflictError, match="there is no `news`, and v1 was to be followed"):
        store.put(make(3), "news", after=1)
    store.remove("mail@v2")
    assert store.put(make(3), "mail", after=1).number == 3


def test_of_writers_that_follow_the_same_version_one_succeeds(store, make, monkeypatch) -> None:
    store.put(make(1), "mail")
    other = PromptStore(store.root)

    def slowly(path: Path, text: str) -> bool:
        monkeypatch.setattr("softprompt.store.names.claim", claim)
        other.put(make(2), "mail", after=1)
        return claim(path, text)

    monkeypatch.setattr("softprompt.store.names.claim", slowly)
    with pytest.raises(VersionConflictError, match="the latest `mail` is v2, and v1 was to be followed"):
        store.put(make(3), "mail", after=1)
    assert [version.number for version in store.log("mail")] == [2, 1]


def test_a_writer_that_comes_in_while_another_looks_is_not_followed_unseen(store, make, monkeypatch) -> None:
    store.put(make(1), "mail")
    other, look = PromptStore(store.root), Names._newest

    def slowly(names: Names, name: str) -> tuple[int, str] | None:
        found = look(names, name)
        monkeypatch.setattr(Names, "_newest", look)
        other.put(make(2), "mail")
        return found

    monkeypatch.setattr(Names, "_newest", slowly)
    with pytest.raises(VersionConflictError, match="the latest `mail` is v2, and v1 was to be followed"):
        store.put(make(3), "mail", after=1)


def test_a_digest_and_its_beginning_are_references(store, make) -> None:
    digest = store.put(make(), "mail").digest
    assert store.get(f"sha256:{digest}").digest == store.get(f"sha256:{digest[:8]}").digest == digest
    assert store.resolve("mail") == digest


def test_a_beginning_must_be_long_enough_unique_and_there(store, make) -> None:
    digest = store.put(make(), "mail").digest
    twin = store.root / "objects" / digest[:2] / (digest[2:12] + "0" * 52)
    twin.write_bytes(b"")
    with pytest.raises(ConfigError, match="begins 2 digests; give more digits"):
        store.get(f"sha256:{digest[:10]}")
    with pytest.raises(ConfigError, match="`sha256:abc` is not a digest; give 8 to 64 hex digits"):
        store.get("sha256:abc")
    with pytest.raises(UnknownNameError, match="the store has no object `sha256:00000000`; see"):
        store.get("sha256:00000000")


def test_tags_stand_move_and_go(store, make) -> None:
    store.put(make(1), "mail")
    store.put(make(2), "mail", tags=["prod", "best"])
    assert store.version("mail@prod").number == 2
    assert store.tag("mail@v1", "prod").tags == ("prod",)
    assert [version.tags for version in store.log("mail")] == [("best",), ("prod",)]
    store.untag("mail", "prod")
    with pytest.raises(UnknownNameError, match="unknown tag of `mail` `prod`; known: best"):
        store.get("mail@prod")
    with pytest.raises(UnknownNameError, match="unknown tag of `mail` `bets`; did you mean `best`"):
        store.untag("mail", "bets")


@pytest.mark.parametrize("name", ["", "Mail", "-x", ".x", "a/b", "..", "a b", "ä", "x" * 65, "a\n", "../../etc"])
def test_names_that_could_be_paths_are_refused(store, make, name: str) -> None:
    with pytest.raises(ConfigError, match="no prompt can be called `"):
        store.put(make(), name)
    with pytest.raises(ConfigError, match=r"no prompt can be called|names a version"):
        store.get(name)
    assert not store.root.exists()


@pytest.mark.parametrize("tag", ["latest", "v1", "v12"])
def test_tags_that_mean_a_version_are_refused(store, make, tag: str) -> None:
    with pytest.raises(ConfigError, match=f"`{tag}` cannot be a tag, for it means a version already"):
        store.put(make(), "mail", tags=[tag])
    with pytest.raises(ConfigError, match="no tag can be called `Prod`"):
        store.put(make(), "mail", tags=["Prod"])
    assert not store.root.exists()


def test_what_is_unknown_is_answered_with_what_is_near(store, make) -> None:
    store.put(make(1), "sentiment")
    store.put(make(2), "sentiment")
    with pytest.raises(UnknownNameError, match="unknown prompt `sentimnet`; did you mean `sentiment`"):
        store.get("sentimnet")
    with pytest.raises(UnknownNameError, match="unknown prompt `sentimnet`; did you mean `sentiment`"):
        store.log("sentimnet")
    with pytest.raises(UnknownNameError, match="unknown prompt `sentimnet`"):
        store.tag("sentimnet@v1", "prod")
    with pytest.raises(UnknownNameError, match="`sentiment` has no version `v9`; it has v1, v2"):
        store.get("sentiment@v9")
    with pytest.raises(UnknownNameError, match="unknown tag of `sentiment` `prod`; known: none"):
        store.get("sentiment@prod")
    with pytest.raises(ConfigError, match="`sentiment@` ends in `@`"):
        store.get("sentiment@")
    with pytest.raises(ConfigError, match="`sentiment@v1` names a version; give the name alone, `sentiment`"):
        store.log("sentiment@v1")


def test_asking_an_empty_store_makes_nothing(store) -> None:
    assert store.list() == ()
    assert store.verify().problems == ()
    assert store.gc().objects == ()
    assert store.rebuild_index() == 0
    with pytest.raises(UnknownNameError, match="unknown prompt `mail`; known: none"):
        store.get("mail")
    assert not store.root.exists()


def test_a_removed_version_is_gone_and_its_number_is_not_used_again(store, make) -> None:
    for value in (1, 2):
        store.put(make(value), "mail")
    assert [str(version) for version in store.remove("mail@v2")] == ["mail@v2"]
    assert store.version("mail").number == 1
    assert store.put(make(2), "mail").number == 3
    with pytest.raises(UnknownNameError, match="`mail` has no version `v2`; it has v1, v3"):
        store.get("mail@v2")


def test_a_removed_name_takes_its_tags_along(store, make) -> None:
    store.put(make(1), "mail", tags=["prod"])
    store.put(make(2), "mail")
    assert [str(version) for version in store.remove("mail")] == ["mail@v1", "mail@v2"]
    assert store.list() == ()
    with pytest.raises(UnknownNameError, match="unknown prompt `mail`"):
        store.get("mail@prod")
    assert store.put(make(1), "mail").number == 3


def test_tags_protect_their_version(store, make) -> None:
    store.put(make(1), "mail", tags=["prod"])
    with pytest.raises(ConfigError, match="`mail@v1` carries the tag `prod`; move it or take it away first"):
        store.remove("mail@v1")
    with pytest.raises(ConfigError, match="`mail@prod` is a tag; remove `mail@v1` or untag `prod`"):
        store.remove("mail@prod")
    assert store.get("mail@prod").digest == make(1).digest


def test_evaluations_lie_beside_the_prompt(store, make) -> None:
    digest = store.put(make(), "mail").digest
    store.add_evaluation(digest, "test-split", {"accuracy": 0.5, "n": 7})
    store.add_evaluation(f"sha256:{digest}", "test-split", {"accuracy": 0.75, "rows": (1, 2)})
    assert store.evaluations(digest) == {"test-split": {"accuracy": 0.75, "rows": [1, 2]}}
    assert (store.root / "evaluations" / digest / "test-split.json").is_file()
    assert store.get("mail").digest == digest


def test_evaluations_that_cannot_be_kept_are_refused(store, make) -> None:
    digest = store.put(make(), "mail").digest
    with pytest.raises(UnknownNameError, match="put it first, then its evaluation"):
        store.add_evaluation("0" * 64, "x", {})
    with pytest.raises(ConfigError, match="`mail` is not a digest; it is written `sha256:` and 64 hex digits"):
        store.add_evaluation("mail", "x", {})
    with pytest.raises(ConfigError, match="the evaluation `x` is not plain JSON"):
        store.add_evaluation(digest, "x", {"accuracy": float("nan")})
    with pytest.raises(ConfigError, match="no evaluation can be called"):
        store.add_evaluation(digest, "../x", {})
    (store.root / "evaluations" / digest).mkdir(parents=True)
    (store.root / "evaluations" / digest / "y.json").write_text("{")
    with pytest.raises(StorageError, match=r"the evaluation `.*y.json` is damaged .*; delete it, evaluate again"):
        store.evaluations(digest)


def test_the_default_store_is_under_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTPROMPT_HOME", str(tmp_path))
    assert PromptStore().root == (tmp_path / "store").resolve()
