"""PEFT gives, on a folder that we wrote, the answers that we give; and back comes the very prompt."""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from softprompt.backbones.backbone import Backbone
from softprompt.errors import (
    ConfigError,
    IncompatiblePromptError,
    PromptFileError,
    StorageError,
    TemplateError,
    UnsupportedBackboneError,
)
from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.store.peft import PROMPT, export_peft, fold, import_peft
from softprompt.store.peft_readme import readme
from softprompt.tasks.chat import ChatTemplate
from softprompt.tasks.free_text import Text
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.readout_kinds import Scalar
from softprompt.tasks.template import Template
from softprompt.testing.conformance import READOUTS, rows
from softprompt.testing.tiny import TINY_FAMILIES, tiny_backbone

PATTERNS = {
    "usual": "{bos}{soft}Text: {text}\nLabel:",
    "peft's order": "{soft}{bos}Text: {text}\nLabel:",
    "soft amid words": "{bos}Say{soft} of{soft}: {text}",
    "separators": "{bos}{soft}Say{sep}: {text}{sep}Label:",
}
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def prompt_of(backbone: Backbone, pattern: str = PATTERNS["usual"], readout: str = "single", **more: Any) -> SoftPrompt:
    noise = torch.randn(5, backbone.embedding_size, generator=torch.Generator().manual_seed(0))
    tensors = {"input": noise * backbone.embedding_rms}
    return SoftPrompt(tensors, Template(pattern), READOUTS[readout], backbone.fingerprint, **more)


@pytest.fixture(scope="module")
def llama() -> Backbone:
    return tiny_backbone("llama")


@pytest.fixture
def folder(llama: Backbone, tmp_path: Path) -> Path:
    export_peft(prompt_of(llama, temperature=1.5), llama, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def foreign(folder: Path) -> Path:
    (folder / PROMPT).unlink()
    return folder


# --- PEFT itself runs what we wrote ------------------------------------------------------------------------------


@contextmanager
def peft_import() -> Any:
    """PEFT's own deprecations on import are no business of ours."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield pytest.importorskip("peft", reason="the extra `baselines` (PEFT) is not installed")


def with_peft(backbone: Backbone, folder: Path) -> Any:
    with peft_import() as peft:
        return peft.PeftModel.from_pretrained(copy.deepcopy(backbone.model), str(folder)).eval()


def row_ids(folder: Path, backbone: Backbone, row: dict[str, str]) -> list[int]:
    """What the README tells to feed, by running the code that stands in it."""
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.S)
    scope: dict[str, Any] = {}
    exec(code[1], scope)
    return scope["row_ids"](backbone.tokenizer, row)


def by_the_words(model: Any, ids: list[int], words: Sequence[tuple[int, ...]]) -> Tensor:
    """Label probabilities by the README's rule, one forward pass of `model` a node: alone, unpadded."""
    out = []
    for word in words:
        probability = 1.0
        for depth in range(len(word)):
            children = sorted({w[depth] for w in words if w[:depth] == word[:depth] and len(w) > depth})
            if len(children) > 1:
                fed = torch.tensor([ids + list(word[:depth])])
                logits = model(input_ids=fed, attention_mask=torch.ones_like(fed)).logits[0, -1]
                probability *= float(torch.softmax(logits[children].double(), 0)[children.index(word[depth])])
        out.append(probability)
    return torch.tensor(out)


def words_of(backbone: Backbone, readout: LabelWords) -> list[tuple[int, ...]]:
    words = [tuple(backbone.tokenizer.encode(word, add_special_tokens=False)) for word in readout.words]
    starts = [any(other[: len(w)] == w for other in words if other != w) for w in words]
    return [(*w, backbone.eos) if start else w for w, start in zip(words, starts, strict=True)]


def greedy(backbone: Backbone, prompt: SoftPrompt, row: dict[str, str], count: int) -> list[int]:
    """Our greedy tokens, by whole forward passes over the embedded row."""
    bound = BoundPrompt.of(backbone, prompt)
    ids = [*bound.template.prefix, *PromptedModel(backbone).encode(row, bound).ids]
    fresh: list[int] = []
    while len(fresh) < count and backbone.eos not in fresh:
        every = torch.tensor(ids + fresh)
        embedded = backbone.embed(every.clamp(min=0))
        embedded[every < 0] = bound.virtual_tokens[-1 - every[every < 0]]
        fresh.append(int(backbone.model(inputs_embeds=embedded[None], use_cache=False).logits[0, -1].argmax()))
    return fresh


def differs(backbone: Backbone, prompt: SoftPrompt, folder: Path, count: int) -> float:
    """Export, let PEFT answer some rows, and return how far its label probabilities are from ours at most."""
    export_peft(prompt, backbone, folder)
    model, words = with_peft(backbone, folder), words_of(backbone, prompt.readout)
    ours = PromptedModel(backbone).score_labels(rows(count), prompt).log_probabilities.exp()
    theirs = [by_the_words(model, row_ids(folder, backbone, row), words) for row in rows(count)]
    return float((torch.stack(theirs) - ours).abs().max())


@pytest.mark.parametrize("family", TINY_FAMILIES)
@pytest.mark.filterwarnings("ignore:Position ids are not supported for parameter efficient tuning:UserWarning")
@torch.inference_mode()
def test_peft_gives_our_probabilities_and_our_greedy_tokens(family: str, tmp_path: Path) -> None:
    backbone, out = tiny_backbone(family), tmp_path / "out"
    prompt = prompt_of(backbone, readout="trie")
    assert differs(backbone, prompt, out, 3) < 1e-5
    model = with_peft(backbone, out)
    for row in rows(2):
        fed = torch.tensor([row_ids(out, backbone, row)])
        settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": backbone.pad}
        found = model.generate(input_ids=fed, attention_mask=torch.ones_like(fed), **settings)
        assert found[0, fed.shape[1] :].tolist() == greedy(backbone, prompt, row, 8)


@pytest.mark.parametrize("pattern", PATTERNS)
@torch.inference_mode()
def test_whatever_stands_before_the_first_field_folds(pattern: str, llama: Backbone, tmp_path: Path) -> None:
    assert differs(llama, prompt_of(llama, PATTERNS[pattern]), tmp_path / "out", 7) < 1e-5


@torch.inference_mode()
def test_a_folder_of_other_rows_would_be_noticed(llama: Backbone, tmp_path: Path) -> None:
    prompt = prompt_of(llama)
    export_peft(prompt, llama, tmp_path / "out")
    change(tmp_path / "out", lambda rows: rows.roll(1, 0))
    model, words = with_peft(llama, tmp_path / "out"), words_of(llama, prompt.readout)
    ours = PromptedModel(llama).score_labels(rows(1), prompt).log_probabilities.exp()[0]
    theirs = by_the_words(model, row_ids(tmp_path / "out", llama, rows(1)[0]), words)
    assert (theirs - ours).abs().max() > 1e-3


# --- out and in again ----------------------------------------------------------------------------------------------


def change(folder: Path, alter: Any) -> None:
    """Write other rows into a folder of PEFT's."""
    rows = alter(load_file(folder / WEIGHTS)["prompt_embeddings"])
    save_file({"prompt_embeddings": rows.contiguous()}, folder / WEIGHTS)


def configure(folder: Path, **settings: Any) -> None:
    known = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**known, **settings}))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_our_own_folder_gives_back_the_same_bytes(pattern: str, llama: Backbone, tmp_path: Path) -> None:
    prompt = prompt_of(llama, PATTERNS[pattern], "full", temperature=1.5, abstain=0.6, provenance={"task": "mail"})
    export_peft(prompt, llama, tmp_path / "out")
    assert import_peft(tmp_path / "out", llama).to_bytes() == prompt.to_bytes()


def test_the_rows_are_what_the_backbone_embeds(llama: Backbone) -> None:
    prompt = prompt_of(llama, "{bos}Say{soft}: {text}")
    words = llama.tokenizer.encode("Say", add_special_tokens=False)
    expected = torch.cat([llama.embed(torch.tensor([llama.bos, *words])), prompt.tensors["input"]])
    found = fold(prompt, llama)
    assert torch.equal(found[: len(expected)], expected)
    assert found.dtype == torch.float32


def test_folders_and_rows_in_bf16_come_in(llama: Backbone, tmp_path: Path) -> None:
    half = tiny_backbone("llama", dtype=torch.bfloat16)
    prompt = replace_fingerprint(prompt_of(llama), half)
    export_peft(prompt, half, tmp_path / "out")  # its embedded tokens are rounded, its virtual tokens are not
    assert import_peft(tmp_path / "out", half).digest == prompt.digest


def replace_fingerprint(prompt: SoftPrompt, backbone: Backbone) -> SoftPrompt:
    return SoftPrompt(prompt.tensors, prompt.template, prompt.readout, backbone.fingerprint)


@pytest.mark.parametrize("where", [0, 1, -1])
def test_rows_that_were_changed_are_refused(where: int, llama: Backbone, folder: Path) -> None:
    def alter(rows: Tensor) -> Tensor:
        rows[where] *= 1.5
        return rows

    change(folder, alter)
    with pytest.raises(PromptFileError, match="beside it; one of them was changed: to import the former, take"):
        import_peft(folder, llama)


def test_a_folder_has_one_template(llama: Backbone, folder: Path) -> None:
    with pytest.raises(ConfigError, match="was written by softprompt and has its own template and label words in `pro"):
        import_peft(folder, llama, readout=READOUTS["single"])


def test_another_backbone_is_refused(folder: Path) -> None:
    with pytest.raises(IncompatiblePromptError, match="other weights of the same architecture"):
        import_peft(folder, tiny_backbone("llama", seed=1))
    with pytest.raises(
        IncompatiblePromptError, match="have 48 numbers each and the embeddings of `tiny-gpt_neox` have 64"
    ):
        import_peft(folder, tiny_backbone("gpt_neox"))


def test_export_checks_the_backbone(llama: Backbone, tmp_path: Path) -> None:
    with pytest.raises(IncompatiblePromptError, match="other weights of the same architecture"):
        export_peft(prompt_of(llama), tiny_backbone("llama", seed=1), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("pattern", "placement"),
    [("{bos}{text}{soft}", "suffix"), ("{soft}{text}{soft}", "interleaved"), ("{text}{soft}{text}", "infix")],
)
def test_soft_tokens_behind_a_field_are_refused(pattern: str, placement: str, llama: Backbone, tmp_path: Path) -> None:
    with pytest.raises(
        IncompatiblePromptError, match=rf"slot behind {{text}} \({placement}\), and PEFT puts its rows before"
    ):
        export_peft(prompt_of(llama, pattern), llama, tmp_path / "out")


def test_what_peft_cannot_hold_is_refused(llama: Backbone, tmp_path: Path) -> None:
    prompt = prompt_of(llama)
    learned = {**prompt.tensors, "readout.weight": torch.zeros(2, 48)}
    deep = {f"layers.0.{kind}": torch.zeros(2, 5, 12) for kind in ("key", "value")}
    for tensors, reason in (
        (learned, r"has learned output rows .* train one that it can carry: softprompt train \.\.\. --exportable"),
        (deep, r"has keys and values in every layer \(`layers\.0\.key`\), .* softprompt train \.\.\. --exportable"),
        ({"encoder.input": prompt.tensors["input"]}, r"has rows for the encoder of an encoder-decoder \(`enc"),
    ):
        other = SoftPrompt(tensors, prompt.template, prompt.readout, prompt.fingerprint)
        with pytest.raises(IncompatiblePromptError, match=reason):
            export_peft(other, llama, tmp_path / "out")
    with pytest.raises(TemplateError, match=r"has no {soft} slot for its 5 virtual tokens"):
        export_peft(prompt_of(llama, "{bos}{text}"), llama, tmp_path / "out")
    for template, readout, reason in (
        (prompt.template, Scalar(0.0, 5.0), "its answers are read as `scalar`, and PEFT's folder is for label words"),
        (ChatTemplate(), Text(8, lead=""), "its rows are conversations, written by the backbone's chat template"),
    ):
        other = SoftPrompt(prompt.tensors, template, readout, prompt.fingerprint)
        with pytest.raises(IncompatiblePromptError, match=reason):
            export_peft(other, llama, tmp_path / "out")


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_only_a_decoder_is_a_causal_language_model(family: str, tmp_path: Path) -> None:
    backbone = tiny_backbone(family)
    site = "encoder.input" if family == "t5" else "input"
    template = Template("{bos}{soft}{text}{sep}" if family == "t5" else "{bos}{soft}{text} {mask}{sep}")
    prompt = SoftPrompt({site: torch.ones(5, 48)}, template, READOUTS["single"], backbone.fingerprint)
    with pytest.raises(UnsupportedBackboneError, match=rf"`tiny-{family}` \(.*, {backbone.kind}\) is none; keep the"):
        export_peft(prompt, backbone, tmp_path / "out")
    llama = tiny_backbone("llama")
    export_peft(prompt_of(llama), llama, tmp_path / "out")
    (tmp_path / "out" / PROMPT).unlink()
    with pytest.raises(UnsupportedBackboneError, match="PEFT's folder is for the input of a decoder"):
        import_peft(tmp_path / "out", backbone, template=Template("{soft}{text}"), readout=READOUTS["single"])


def test_the_readme_feeds_the_tokens_that_slots_stand_for(tmp_path: Path) -> None:
    """A tokenizer with tokens of its own for separator and mask, and one that closes rows by its end of sequence."""
    for family in ("bert", "llama"):
        tokenizer = tiny_backbone(family).tokenizer
        pattern = "{soft}{text}{sep}{mask}{bos}" if family == "bert" else "{soft}{text}{sep}{bos}"
        prompt = SoftPrompt(
            {"input": torch.ones(5, 48)}, Template(pattern), READOUTS["single"], tiny_backbone("llama").fingerprint
        )
        code = re.search(r"```python\n(.*?)```", readme(prompt, 5), re.S)
        scope: dict[str, Any] = {}
        exec(code[1], scope)
        expected = Template(pattern).tokenize(tokenizer, 5).row({"text": "good"}).ids
        assert tuple(scope["row_ids"](tokenizer, {"text": "good"})) == expected


def test_a_prompt_that_writes_text_goes_out_with_where_its_answers_end(llama: Backbone, tmp_path: Path) -> None:
    found = prompt_of(llama)
    prompt = SoftPrompt(found.tensors, found.template, Text(8, ("###",)), found.fingerprint)
    export_peft(prompt, llama, tmp_path / "out")
    told = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "It begins with ' ', which is no part of it, and ends" in told
    assert "end-of-sequence token, or before the text '###', or after 8 tokens." in told
    assert import_peft(tmp_path / "out", llama).to_bytes() == prompt.to_bytes()


def test_a_folder_appears_whole_or_not_at_all(
    llama: Backbone, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="is there already; give a folder that is new or empty"):
        export_peft(prompt_of(llama), llama, folder)
    (tmp_path / "empty").mkdir()
    export_peft(prompt_of(llama), llama, tmp_path / "empty")
    before = sorted(tmp_path.iterdir())

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(StorageError, match="No space left on device; nothing was left half-written"):
        export_peft(prompt_of(llama), llama, tmp_path / "new")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="nothing was left half-written"):
        export_peft(prompt_of(llama), llama, tmp_path / "file" / "new")
    assert sorted(tmp_path.iterdir()) == [*before[:1], tmp_path / "file", *before[1:]]


def test_the_readme_says_how_to_feed_and_to_read(llama: Backbone, tmp_path: Path) -> None:
    template = Template("{bos}{soft}Text: {text}\n{bos}Label:", max_tokens=100)
    prompt = SoftPrompt(prompt_of(llama).tensors, template, READOUTS["full"], llama.fingerprint, temperature=2.5)
    export_peft(prompt, llama, tmp_path / "out")
    told = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    for words in ("more than 89 tokens", "Sum the log-probabilities", "/ 2.5)", "- spam free: `' spam free'`"):
        assert words in told
    row = {"text": "good"}
    expected = template.tokenize(llama.tokenizer, 5).row(row).ids
    assert tuple(row_ids(tmp_path / "out", llama, row)) == expected


# --- folders that PEFT wrote ---------------------------------------------------------------------------------------

GIVEN = {"template": Template("{soft}{bos}Text: {text}\nLabel:"), "readout": READOUTS["single"]}


@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PromptEncoderConfig"])
@pytest.mark.filterwarnings("ignore:Unable to fetch remote file:UserWarning")
@torch.inference_mode()
def test_what_peft_trained_answers_the_same_here(kind: str, llama: Backbone, tmp_path: Path) -> None:
    with peft_import() as peft:
        config = getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=6)
        torch.manual_seed(0)
        theirs = peft.get_peft_model(copy.deepcopy(llama.model), config).eval()
        theirs.save_pretrained(str(tmp_path))
    prompt = import_peft(tmp_path, llama, **GIVEN)
    assert prompt.length == 6
    assert prompt.provenance["imported from PEFT"]["peft_type"] == config.peft_type.value
    row_after_peft = Template(GIVEN["template"].pattern.removeprefix("{soft}")).tokenize(llama.tokenizer, 0)
    ours = PromptedModel(llama).score_labels(rows(4), prompt).log_probabilities.exp()
    for row, expected in zip(rows(4), ours, strict=True):
        ids = [*row_after_peft.prefix, *row_after_peft.row(row).ids]
        assert (by_the_words(theirs, ids, words_of(llama, prompt.readout)) - expected).abs().max() < 1e-5


def test_a_folder_of_peft_needs_a_template_and_words(llama: Backbone, foreign: Path) -> None:
    with pytest.raises(ConfigError, match="which does not say what its prompt is for; give a template, for instance"):
        import_peft(foreign, llama, readout=READOUTS["single"])
    with pytest.raises(ConfigError, match="which does not say what its prompt is for; give label words, for instance"):
        import_peft(foreign, llama, template=GIVEN["template"])
    for pattern in ("{bos}{soft}{text}", "{soft}{text}{soft}"):
        with pytest.raises(TemplateError, match=r"is not what PEFT computed, .* begin it with {soft} and use"):
            import_peft(foreign, llama, template=Template(pattern), readout=READOUTS["single"])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"peft_type": "LORA"}, "it is `LORA` of PEFT, and only PROMPT_TUNING and P_TUNING are rows in front"),
        ({"peft_type": "PREFIX_TUNING"}, "it is `PREFIX_TUNING` of PEFT, and only"),
        ({"peft_type": None}, "it is `None` of PEFT"),
        ({"task_type": "SEQ_2_SEQ_LM"}, "its task is `SEQ_2_SEQ_LM` of PEFT; only CAUSAL_LM answers"),
        ({"task_type": None}, "its task is `None` of PEFT"),
        ({"num_transformer_submodules": 2}, r"it has rows for 2 submodules \(encoder and decoder\); only one"),
        ({"modules_to_save": ["score"]}, "it was trained together with `score`, which no prompt can hold"),
        ({"num_virtual_tokens": 7}, r"speaks of 7 rows of 48 numbers and `adapter_model.safetensors` has \[\d+, 48\]"),
    ],
)
def test_other_methods_and_tasks_are_refused_by_name(
    settings: Any, reason: str, llama: Backbone, foreign: Path
) -> None:
    configure(foreign, **settings)
    with pytest.raises(PromptFileError, match=reason):
        import_peft(foreign, llama, **GIVEN)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"prompt_embeddings": torch.full((11, 48), float("nan"))}, "528 of the 528 numbers .* are NaN or infinite"),
        ({"prompt_embeddings": torch.zeros(11, 48, 1)}, r"has shape \[11, 48, 1\]; it must be \[P, D\]"),
        ({"prompt_embeddings": torch.zeros(11, 48, dtype=torch.int64)}, "its rows are torch.int64; a prompt has"),
        ({"lora_A": torch.zeros(1)}, "must hold `prompt_embeddings` alone and holds `lora_A`; save it again"),
    ],
)
def test_rows_that_are_no_prompt_are_refused(tensors: Any, reason: str, llama: Backbone, foreign: Path) -> None:
    save_file(tensors, foreign / WEIGHTS)
    with pytest.raises(PromptFileError, match=reason):
        import_peft(foreign, llama, **GIVEN)


def test_missing_and_damaged_files_are_refused(llama: Backbone, foreign: Path, tmp_path: Path) -> None:
    def refused(reason: str, where: Path = foreign) -> None:
        with pytest.raises(PromptFileError, match=reason):
            import_peft(where, llama, **GIVEN)

    refused("has no `adapter_config.json`: give a folder that PEFT wrote", tmp_path / "nowhere")
    refused("has no `adapter_config.json`; it has one in `out/`: give that folder", tmp_path)
    (foreign / WEIGHTS).write_bytes(b"\0" * 40)
    refused("its `adapter_model.safetensors` is damaged")
    with (foreign / WEIGHTS).open("wb") as stream:
        stream.truncate(65 * 2**20)
    refused("it has 68,157,440 bytes, and a prompt has at most")
    (foreign / WEIGHTS).unlink()
    refused("it has no `adapter_model.safetensors`; copy the whole folder")
    (foreign / "adapter_model.bin").write_bytes(b"")
    refused("its rows are in `adapter_model.bin`, a pickled file, which could run code and is never opened")
    for text, reason in (("{", "is not JSON"), ("[]", "is not a JSON object"), ("\xff", "is not JSON")):
        (foreign / CONFIG).write_bytes(text.encode("latin-1"))
        refused(f"its `adapter_config.json` {reason}")
    (foreign / CONFIG).unlink()
    (foreign / CONFIG).mkdir()
    with pytest.raises(StorageError, match="cannot read"):
        import_peft(foreign, llama, **GIVEN)
