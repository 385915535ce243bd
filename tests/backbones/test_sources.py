"""What a user types: packaged names, paths, hub ids; and what the hub may answer."""

import sys
import types

import pytest

from softprompt.backbones import hub
from softprompt.backbones.backbone import load_backbone
from softprompt.backbones.packaged import PACKAGED
from softprompt.errors import BackboneError, ConfigError, MissingExtraError, UnknownNameError, UnsupportedBackboneError


@pytest.mark.parametrize(
    ("source", "error", "text"),
    [
        (
            "gemma-3-270n",
            UnknownNameError,
            "unknown backbone `gemma-3-270n`; did you mean `gemma-3-270m`.*`owner/name`",
        ),
        (
            "zzz",
            UnknownNameError,
            "unknown backbone `zzz`; known: gemma-3-270m, minilm-l6.*a folder or a .gguf file by its path",
        ),
        (
            "./nowhere",
            BackboneError,
            "`./nowhere` does not exist; give a folder, a .gguf file, a hub id or one of `gemma",
        ),
        ("nowhere.gguf", BackboneError, "`nowhere.gguf` does not exist"),
        ("some/deep/folder", BackboneError, "`some/deep/folder` does not exist"),
    ],
)
def test_what_is_nothing_known(source, error, text):
    with pytest.raises(error, match=text):
        load_backbone(source)


def test_a_file_that_is_no_gguf(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(BackboneError, match=r"is a file, but no .gguf; give the folder it is in, or a .gguf file"):
        load_backbone(tmp_path / "model.safetensors")


@pytest.mark.parametrize("source", [".", "gemma-3-270m"])
def test_only_hub_ids_have_revisions(source):
    with pytest.raises(ConfigError, match=r"revision `main` was asked for, but `.+` is no hub id: only those have"):
        load_backbone(source, revision="main")


def test_the_demo_package_is_named_when_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, PACKAGED["gemma-3-270m"].module, None)
    with pytest.raises(
        MissingExtraError, match=r'`gemma-3-270m` comes in a package .*: pip install "softprompt\[demo\]"'
    ):
        load_backbone("gemma-3-270m")


def test_the_packaged_encoder_is_a_backbone():
    pytest.importorskip(PACKAGED["minilm-l6"].module, reason="the demo extra is not installed")
    backbone = load_backbone("minilm-l6", dtype="fp32", device="cpu")
    assert (backbone.model_type, backbone.kind, backbone.num_layers) == ("bert", "encoder", 6)
    assert (backbone.vocab_size, backbone.embedding_size, backbone.max_positions) == (30_522, 384, 512)
    assert backbone.head is None
    assert backbone.capabilities == {"deep-prompts"}


def test_the_packaged_encoder_pools_to_the_sentence_vectors():
    import numpy as np
    import torch

    from softprompt.backbones.encoder import SentenceEncoder

    pytest.importorskip(PACKAGED["minilm-l6"].module, reason="the demo extra is not installed")
    backbone = load_backbone("minilm-l6", dtype="fp32", device="cpu")
    texts = ["A gripping film", "See you at home for dinner tonight"]
    ids = [backbone.tokenizer.encode(text) for text in texts]
    width = max(map(len, ids))
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
    rows = backbone.embed(torch.tensor([row + [backbone.pad] * (width - len(row)) for row in ids]))
    hidden, _ = backbone.run(rows, mask=mask, positions=(mask.cumsum(1) - 1).clamp(0))
    found = torch.nn.functional.normalize(backbone.pool(hidden, mask=mask), dim=1).numpy()
    wanted = SentenceEncoder.packaged(device="cpu", dtype="fp32").embed(texts)
    assert np.abs(found - wanted).max() < 1e-5


def test_the_demo_package_of_the_encoder_is_named_when_it_is_missing(monkeypatch):
    from softprompt.backbones import packaged

    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'`minilm-l6` comes in a package .*: pip install "softprompt\[demo\]"'):
        load_backbone("minilm-l6")


def _package(monkeypatch, error):
    def assemble(path):
        raise error

    package = types.SimpleNamespace(assemble=assemble, EXPECTED_SHA256="0" * 64)
    monkeypatch.setitem(sys.modules, PACKAGED["gemma-3-270m"].module, package)


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ImportError("part4"), MissingExtraError, "comes in a package that is not installed"),
        (
            ValueError("sha256 differs"),
            BackboneError,
            r"the package of `gemma-3-270m` is damaged \(sha256 differs\); install",
        ),
    ],
)
def test_a_package_without_all_its_parts(monkeypatch, home, error, kind, text):
    pytest.importorskip("gguf")
    _package(monkeypatch, error)
    with pytest.raises(kind, match=text):
        load_backbone("gemma-3-270m")
    assert [path for path in (home / "cache" / "backbones").iterdir() if path.is_dir()] == []


class Hub:
    """Stands for the hub: every question gets `error`, or the files of a folder."""

    def __init__(self, folder=None, error=None):
        self.folder, self.error, self.asked = folder, error, []

    def __call__(self, source, *names, **settings):
        self.asked.append((source, *names, settings.get("revision")))
        if self.error is not None:
            raise self.error
        return str(self.folder / "config.json" if names else self.folder)


@pytest.fixture
def stand_in(monkeypatch):
    import huggingface_hub

    def install(**settings):
        stand = Hub(**settings)
        monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_, **__: None)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", stand)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", stand)
        return stand

    return install


def test_a_hub_id_is_the_folder_that_the_hub_gives(save, tmp_path, stand_in):
    saved = save(tmp_path)
    stand = stand_in(folder=tmp_path)
    backbone = load_backbone("owner/tiny", revision="v1", dtype="fp32")
    assert (backbone.name, backbone.fingerprint) == ("owner/tiny", saved.fingerprint)
    assert stand.asked == [("owner/tiny", "config.json", "v1"), ("owner/tiny", "v1")]


def test_an_unserved_family_is_refused_before_its_weights_are_downloaded(tmp_path, stand_in):
    (tmp_path / "config.json").write_text('{"model_type": "pegasus", "is_encoder_decoder": true}')
    stand = stand_in(folder=tmp_path)
    with pytest.raises(UnsupportedBackboneError, match="`owner/p` has model type `pegasus`, an encoder-decoder which"):
        load_backbone("owner/p")
    assert len(stand.asked) == 1


def _hub_error(name):
    from huggingface_hub import errors

    kind = getattr(errors, name)
    return kind.__new__(kind)  # some ask for a response to be made of; none is needed here


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "GatedRepoError",
            "`owner/x` at revision `v1` is gated: accept its terms on its hub page, then `hf auth login`",
        ),
        ("RevisionNotFoundError", "the hub has `owner/x`, but no revision `v1` of it; check the spelling"),
        (
            "RepositoryNotFoundError",
            "the hub has no `owner/x` at revision `v1`, or it is private: check the spelling or",
        ),
        (
            "EntryNotFoundError",
            "`owner/x` at revision `v1` on the hub holds no config.json, so it is no transformers model",
        ),
        (
            "LocalEntryNotFoundError",
            "is not in the local hub cache and the hub cannot be reached: connect to the network",
        ),
        (
            "HTTPError",
            "the hub cannot be reached: connect to the network, or give a folder, a .gguf file or a packaged name",
        ),
        ("HfHubHTTPError", r"`owner/x` at revision `v1` cannot be downloaded \(HfHubHTTPError\); try again"),
    ],
)
def test_each_answer_of_the_hub_is_one_sentence(stand_in, monkeypatch, name, text):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    stand_in(error=_hub_error(name))
    with pytest.raises(BackboneError, match=text) as caught:
        load_backbone("owner/x", revision="v1")
    assert "\n" not in str(caught.value)


def test_a_full_disk_while_downloading(stand_in):
    stand_in(error=OSError(28, "No space left on device"))
    with pytest.raises(
        BackboneError, match=r"`owner/x` cannot be downloaded .*No space left.*make room, or set HF_HOME"
    ):
        load_backbone("owner/x")


def test_offline_by_choice_is_said(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        BackboneError, match="`owner/x` is not in the local hub cache and HF_HUB_OFFLINE is set: unset it"
    ):
        load_backbone("owner/x")


def test_only_safetensors_configuration_and_tokenizer_are_downloaded():
    from huggingface_hub.utils import filter_repo_objects

    wanted = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "merges.txt",
    ]
    others = [
        "pytorch_model.bin",
        "modeling_x.py",
        "onnx/model.json",
        "model.fp16.safetensors",
        "consolidated.safetensors",
    ]
    kept = filter_repo_objects([*wanted, *others], allow_patterns=hub._WANTED, ignore_patterns=hub._UNWANTED)
    assert list(kept) == wanted


@pytest.mark.real
def test_the_packaged_backbone(capsys):
    """Converted once (about a minute), then loaded in seconds; the same fingerprint both times."""
    pytest.importorskip(PACKAGED["gemma-3-270m"].module, reason="the demo extra is not installed")
    backbone = load_backbone("gemma-3-270m")
    assert (backbone.model_type, backbone.num_layers, backbone.vocab_size) == ("gemma3_text", 18, 262_144)
    assert (backbone.bos, backbone.max_positions, backbone.embedding_size) == (2, 32_768, 640)
    assert 0.9 < backbone.embedding_rms < 1.2
    again = load_backbone("gemma-3-270m")
    assert again.fingerprint == backbone.fingerprint
    assert capsys.readouterr().err.count("once; later loads take seconds") <= 1
