"""GGUF files: converted once, checked by hash, made again when damaged, whole or not at all."""

import json
import multiprocessing
import os
import shutil
import struct
import time

import numpy as np
import pytest
import torch

from softprompt.backbones import gguf as room
from softprompt.backbones.backbone import load_backbone
from softprompt.backbones.fingerprint import tokenizer_digest
from softprompt.backbones.gguf_header import read_header
from softprompt.errors import BackboneError, MissingExtraError, StorageError, UnsupportedBackboneError


def cached(home):
    return [path for path in (home / "cache" / "backbones").iterdir() if path.is_dir()]


def test_a_gguf_file_is_the_model_it_was_written_from(write_gguf, qwen2, tmp_path, home, capsys):
    path = write_gguf(tmp_path / "tiny.gguf")
    backbone = load_backbone(path, dtype="fp32")
    ids = torch.tensor([[5, 80, 7, 260]])
    for parameter in qwen2.model.parameters():
        parameter.copy_(parameter.bfloat16().float())
    torch.testing.assert_close(backbone.model(ids).logits, qwen2.model(ids).logits, rtol=1e-5, atol=1e-5)
    text = "A gripping film, 12 times good"
    assert backbone.tokenizer.encode(text, add_special_tokens=False) == qwen2.tokenizer.encode(text)
    assert tokenizer_digest(backbone.tokenizer, 300) == tokenizer_digest(qwen2.tokenizer, 300)
    assert (backbone.bos, backbone.eos, backbone.pad) == (0, 1, 2)
    said = capsys.readouterr().err
    assert "tiny.gguf to bf16, once; later loads take seconds" in said
    assert "it/s" not in said  # transformers' own bars
    (folder,) = cached(home)
    assert {"config.json", "model.safetensors", "tokenizer.json", room.MANIFEST} <= {p.name for p in folder.iterdir()}
    assert load_backbone(path, dtype="bf16").fingerprint == backbone.fingerprint
    assert "converting" not in capsys.readouterr().err


def test_a_damaged_copy_is_said_and_made_again(write_gguf, tmp_path, home, capsys):
    path = write_gguf(tmp_path / "tiny.gguf")
    fingerprint = load_backbone(path).fingerprint
    (folder,) = cached(home)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 255
    weights.write_bytes(data)
    assert load_backbone(path).fingerprint == fingerprint
    assert "is damaged (model.safetensors has changed); making it again" in capsys.readouterr().err
    (folder / "tokenizer.json").unlink()
    assert load_backbone(path).fingerprint == fingerprint
    assert "is damaged (it cannot be read (FileNotFoundError)); making it again" in capsys.readouterr().err
    (folder / room.MANIFEST).write_text("[]")
    assert load_backbone(path).fingerprint == fingerprint
    assert "making it again" in capsys.readouterr().err
    manifest = json.loads((folder / room.MANIFEST).read_text())
    (folder / room.MANIFEST).write_text(json.dumps({**manifest, "rule": "another"}))
    assert load_backbone(path).fingerprint == fingerprint
    assert "its manifest is of another conversion" in capsys.readouterr().err


def test_what_a_killed_conversion_left_behind_is_removed(write_gguf, tmp_path, home):
    path = write_gguf(tmp_path / "tiny.gguf")
    load_backbone(path)
    (folder,) = cached(home)
    shutil.rmtree(folder)
    left = folder.parent / f".{folder.name}.abc.part"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    load_backbone(path)
    assert cached(home) == [folder]


def _load(path, ready, results):
    ready.wait()
    results.put(load_backbone(path).fingerprint.weights)


@pytest.mark.slow  # each process imports torch
def test_two_processes_at_once_both_end_well(write_gguf, tmp_path, home):
    path = write_gguf(tmp_path / "tiny.gguf")
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_load, args=(path, ready, results)) for _ in range(2)]
    for process in processes:
        process.start()
    weights = {results.get(timeout=90) for _ in processes}
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(weights) == 1
    assert len(cached(home)) == 1


def test_a_process_that_waits_says_so(write_gguf, tmp_path, home, capsys, monkeypatch):
    from filelock import FileLock

    path = write_gguf(tmp_path / "tiny.gguf")
    load_backbone(path)
    (folder,) = cached(home)
    shutil.move(folder, tmp_path / "made")
    lock = FileLock(f"{folder}.lock")
    lock.acquire()
    monkeypatch.setattr(FileLock, "acquire", _other_finishes(FileLock.acquire, lock, tmp_path / "made", folder))
    load_backbone(path)
    assert "another process is converting" in capsys.readouterr().err


def _other_finishes(acquire, lock, made, folder):
    """The process that holds the lock puts the folder in place and lets go, as soon as someone waits without limit."""

    def wrapped(self, timeout=None, **settings):
        if timeout is None:
            shutil.move(made, folder)
            lock.release()
        return acquire(self, timeout, **settings)

    return wrapped


@pytest.mark.parametrize("size", [0, 3, 20, 200, 3000])
def test_a_truncated_file_is_refused(write_gguf, tmp_path, home, size):
    whole = write_gguf(tmp_path / "tiny.gguf").read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[:size])
    with pytest.raises(BackboneError, match=r"cut.gguf` is no GGUF file, or a damaged one \(.+\); take a fresh copy"):
        load_backbone(path)
    assert not cached(home)


def test_a_file_cut_in_its_tensors_is_refused(write_gguf, tmp_path, home):
    whole = write_gguf(tmp_path / "tiny.gguf").read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[:-5000])
    with pytest.raises(BackboneError, match=r"cut.gguf` cannot be read .+; take a fresh copy"):
        load_backbone(path)
    assert not cached(home)


def test_another_version_is_refused(tmp_path):
    path = tmp_path / "new.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 9, 0, 0))
    with pytest.raises(BackboneError, match=r"it starts with b'GGUF', version 9"):
        read_header(path, "new.gguf")


@pytest.mark.parametrize(
    ("settings", "tensors", "found"),
    [
        ({"rope.scaling.type": "yarn"}, {}, "`yarn`"),
        ({}, {"rope_freqs.weight": np.ones(4, np.float32)}, "the tensor `rope_freqs.weight`"),
    ],
)
def test_rotary_scaling_is_refused_because_transformers_drops_it(write_gguf, tmp_path, settings, tensors, found):
    path = write_gguf(tmp_path / "tiny.gguf", settings, tensors)
    with pytest.raises(
        UnsupportedBackboneError, match=r"scales its rotary positions .*, which transformers drops"
    ) as caught:
        load_backbone(path)
    assert found in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "made"),
    [("attention.sliding_window", 8, "None"), ("rope.dimension_count", 8, "16.0")],
)
def test_a_setting_that_transformers_loses_is_refused(write_gguf, tmp_path, home, key, value, made):
    path = write_gguf(tmp_path / "tiny.gguf", {key: value})
    with pytest.raises(UnsupportedBackboneError, match=f"says `{key}` is {value}, but transformers made {made} of it"):
        load_backbone(path)
    assert not cached(home)


def test_an_architecture_that_is_not_served_is_refused(write_gguf, tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", architecture="mamba")
    with pytest.raises(
        UnsupportedBackboneError, match="has the GGUF architecture `mamba`, which is not served; served: bloom"
    ):
        load_backbone(path)


def test_a_missing_tensor_is_refused(write_gguf, tmp_path, monkeypatch):
    import gguf

    add = gguf.GGUFWriter.add_tensor
    skip = "blk.1.ffn_up.weight"
    monkeypatch.setattr(
        gguf.GGUFWriter, "add_tensor", lambda self, name, *rest: None if name == skip else add(self, name, *rest)
    )
    path = write_gguf(tmp_path / "tiny.gguf")
    with pytest.raises(
        BackboneError, match=r"the weights of .* cannot be read .*no tensor for model.layers.1.mlp.up_proj"
    ):
        load_backbone(path)


def test_the_gguf_package_is_named_when_it_is_missing(write_gguf, tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr(room, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'which needs a package: pip install "softprompt\[gguf\]"'):
        load_backbone(path)


def test_a_full_disk_leaves_nothing_behind(write_gguf, tmp_path, home, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    path = write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr(room, "_write_manifest", full)
    with pytest.raises(
        StorageError, match=r"No space left on device.*nothing was left half-written: make room, or set"
    ):
        load_backbone(path)
    assert not cached(home)


def test_a_file_that_may_not_be_read(write_gguf, tmp_path, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied")

    path = write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr(room, "file_digest", refused)
    with pytest.raises(BackboneError, match=r"tiny.gguf` cannot be read \(Permission denied\); check the path"):
        load_backbone(path)


def test_a_later_load_reads_no_file_twice(write_gguf, tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "tiny.gguf")
    load_backbone(path)
    load_backbone(path)

    def again(_):
        raise AssertionError("hashed again")

    monkeypatch.setattr("softprompt.backbones.digests.hashed", again)
    load_backbone(path)
    os.utime(path, ns=(time.time_ns(), time.time_ns()))
    with pytest.raises(AssertionError, match="hashed again"):
        load_backbone(path)
