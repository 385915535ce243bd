"""What goes wrong on disk: damaged files, links that lead out, a full disk, a missing permission."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from softprompt.errors import StorageError
from softprompt.store.store import PromptStore


def object_path(store: PromptStore, digest: str) -> Path:
    return store.root / "objects" / digest[:2] / digest[2:]


def contents(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_an_object_that_does_not_match_its_name_is_an_error(store, make) -> None:
    digest = store.put(make(1), "mail").digest
    object_path(store, digest).write_bytes(make(2).to_bytes())
    with pytest.raises(StorageError, match=f"the object sha256:{digest} is damaged: its bytes have the digest"):
        store.get("mail")


def test_a_lost_object_is_an_error_and_putting_it_again_helps(store, make) -> None:
    digest = store.put(make(1), "mail").digest
    object_path(store, digest).unlink()
    with pytest.raises(StorageError, match=r"the store has lost the object sha256:.*; put that prompt again"):
        store.get("mail")
    assert store.put(make(1), "mail").number == 1
    assert store.get("mail").digest == digest


def test_putting_a_prompt_mends_its_damaged_object(store, make) -> None:
    digest = store.put(make(1), "mail").digest
    object_path(store, digest).write_bytes(b"")
    store.put(make(1), "other")
    assert store.get("mail").digest == digest


def test_a_damaged_version_is_said_and_others_still_serve(store, make) -> None:
    store.put(make(1), "mail")
    store.put(make(2), "mail")
    store.put(make(3), "other")
    (store.root / "names/mail/versions/000002").write_text("")
    with pytest.raises(StorageError, match="the version `mail@v2` is damaged: its file says ``; put the prompt again"):
        store.get("mail")
    assert store.get("mail@v1").digest == make(1).digest
    assert [(each.name, each.problem is None) for each in store.list()] == [("mail", False), ("other", True)]
    with pytest.raises(StorageError, match="the version `mail@v2` is damaged"):
        store.gc(0)


def test_a_damaged_tag_is_said(store, make) -> None:
    store.put(make(), "mail", tags=["prod"])
    (store.root / "names/mail/tags/prod").write_text("v1; rm -rf")
    with pytest.raises(StorageError, match="the tag `mail@prod` is damaged: it says `v1; rm -rf`; set it again"):
        store.get("mail@prod")
    (store.root / "names/mail/tags/prod").unlink()
    assert store.get("mail").digest == make().digest


@pytest.mark.parametrize("inside", ["objects", "names/mail/versions", "names/mail/tags", "names/mail", "evaluations"])
def test_links_that_lead_out_of_the_store_are_refused(store, make, tmp_path: Path, inside: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (store.root / inside).parent.mkdir(parents=True)
    (store.root / inside).symlink_to(outside)

    def write_everything() -> None:
        store.add_evaluation(store.put(make(), "mail", tags=["prod"]).digest, "x", {})

    with pytest.raises(StorageError, match=r"leads out of the store, to `.*outside.*`; remove that symbolic link"):
        write_everything()
    assert not list(outside.iterdir())


def test_an_object_that_links_out_of_the_store_is_not_read(store, make, tmp_path: Path) -> None:
    digest = store.put(make(), "mail").digest
    secret = tmp_path / "secret"
    secret.write_bytes(make().to_bytes())
    object_path(store, digest).unlink()
    object_path(store, digest).symlink_to(secret)
    with pytest.raises(StorageError, match="leads out of the store"):
        store.get("mail")


@pytest.mark.parametrize("call", ["replace", "link"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_full_disk_and_a_missing_permission_leave_nothing(store, make, monkeypatch, call: str, code: int) -> None:
    store.put(make(1), "mail")
    before = contents(store.root)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(StorageError, match=rf"cannot write `.*`: {os.strerror(code)}; no"):
            store.put(make(2), "mail")
    extra = contents(store.root) - before
    assert not [name for name in extra if not name.startswith("objects/")]
    assert store.get("mail").digest == make(1).digest
    assert store.put(make(2), "mail").number == 2


def test_a_store_that_cannot_be_made_is_said(tmp_path: Path, make) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write the store `.*file/store`: Not a directory"):
        PromptStore(tmp_path / "file" / "store").put(make(), "mail")


def test_what_cannot_be_read_is_said(store, make, monkeypatch) -> None:
    store.put(make(), "mail")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(StorageError, match=r"cannot read `.*` of the store: Permission denied"):
        store.get("mail")


def test_a_tag_or_version_that_cannot_be_removed_is_said(store, make, monkeypatch) -> None:
    store.put(make(), "mail", tags=["prod"])

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(StorageError, match=r"cannot remove `.*prod`: Permission denied"):
        store.untag("mail", "prod")
    with pytest.raises(StorageError, match=r"cannot remove `.*`: Permission denied"):
        store.remove("mail")
