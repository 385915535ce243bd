"""Prompts out to PEFT and in from it: one folder of JSON and safetensors, written and read here without PEFT.

PEFT puts its rows before everything else of a row. Whatever our template has in front of its first field is the same
for every row, so the embedded beginning-of-sequence token, the virtual tokens and the embedded words between them
fold, in order, into PEFT's rows [S, D]; nothing is lost. What stands behind a field cannot be said this way.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from softprompt.backbones.backbone import Backbone
from softprompt.durable import write_bytes
from softprompt.errors import ConfigError, IncompatiblePromptError, TemplateError, UnsupportedBackboneError
from softprompt.prompts.canonical import JSON
from softprompt.prompts.header import refused
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.shapes import Float, Int
from softprompt.store.new_folder import appearing
from softprompt.store.peft_folder import CONFIG, KEY, WEIGHTS, PeftFolder, read_peft_folder
from softprompt.store.peft_readme import readme
from softprompt.tasks.chat import ChatTemplate
from softprompt.tasks.free_text import Text
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.template import Soft, Template

PROMPT = "prompt.safetensors"
"""Our own file, beside those of PEFT: with it the prompt comes back byte for byte."""

_ROUNDING = 0.02
"""An embedded token may differ by this share of the row's largest entry where export and import compute in other
dtypes; a virtual token may not differ at all."""

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def export_peft(prompt: SoftPrompt, backbone: Backbone, folder: Path) -> None:
    """Write a prompt as a folder that PEFT reads, the prompt's own file and a README beside it.

    For rows run alone and unpadded, PEFT then gives the label probabilities and the greedy tokens that we do. Load
    the backbone in fp32 for it: embedded tokens are written in the precision that they were computed in.

    Args:
        prompt: rows at the input only, all of its soft slots before the first field.
        backbone: the one that the prompt was trained on.
        folder: a folder that does not exist yet, or is empty; it appears whole or not at all.

    Raises:
        UnsupportedBackboneError: the backbone is no decoder.
        IncompatiblePromptError: the prompt says something that PEFT's folder cannot; or another backbone.
        TemplateError: the template has no slot for the prompt's virtual tokens.
        ConfigError: there is something in the folder.
        StorageError: the disk is full, or the folder may not be written.
    """
    files = peft_files(prompt, backbone)
    with appearing(folder) as hidden:
        for name, data in files.items():
            write_bytes(hidden / name, data)


def peft_files(prompt: SoftPrompt, backbone: Backbone) -> dict[str, bytes]:
    """Return the files of a folder that PEFT reads, by name.

    Raises:
        UnsupportedBackboneError, IncompatiblePromptError, TemplateError: as for `export_peft`.
    """
    _require_decoder(backbone)
    _require_foldable(prompt)
    prompt.check(backbone.fingerprint, name=backbone.name, features=_FEATURES)
    rows = fold(prompt, backbone)
    return {
        CONFIG: (json.dumps(_config(backbone, len(rows)), indent=2, sort_keys=True) + "\n").encode(),
        WEIGHTS: save({KEY: rows}, metadata={"format": "pt"}),
        PROMPT: prompt.to_bytes(),
        "README.md": readme(prompt, len(rows)).encode(),
    }


def import_peft(
    folder: Path, backbone: Backbone, *, template: Template | None = None, readout: LabelWords | None = None
) -> SoftPrompt:
    r"""Read a folder of PEFT's as a prompt.

    A folder that `export_peft` wrote gives back the very prompt, once its rows are found to be that prompt's. Any
    other says nothing of its task, so the template and the label words must be given.

    Args:
        folder: with `adapter_config.json` and `adapter_model.safetensors`.
        backbone: the one that the prompt was trained on; PEFT does not record it, so this is taken on trust.
        template: for a folder that PEFT wrote: begins with its only `{soft}`, as in `"{soft}{bos}{text}\nLabel:"`.
        readout: for a folder that PEFT wrote: the label words.

    Raises:
        UnsupportedBackboneError: the backbone is no decoder.
        ConfigError: the template or the readout is missing, or given where the folder has its own.
        IncompatiblePromptError: rows of another size than the backbone's embeddings, or another backbone.
        PromptFileError: a file is missing, damaged or not finite; no prompt tuning of a causal language model; or
            the rows are not those of the prompt beside them.
        StorageError: a file may not be read.
        TemplateError: the template does not begin with its only `{soft}`.
    """
    _require_decoder(backbone)
    found = read_peft_folder(folder)
    if found.rows.shape[1] != backbone.embedding_size:
        raise IncompatiblePromptError(
            f"the rows in `{folder.name}` have {found.rows.shape[1]} numbers each and the embeddings of "
            f"`{backbone.name}` have {backbone.embedding_size}; use the backbone that the prompt was trained on"
        )
    if (folder / PROMPT).exists():
        return _own(folder, found, backbone, given=template is not None or readout is not None)
    return _foreign(folder, found, backbone, template, readout)


def fold(prompt: SoftPrompt, backbone: Backbone) -> Float[Tensor, "S D"]:
    """Return everything before the first field as rows: embedded tokens and virtual tokens, in order, in fp32.

    Raises:
        TemplateError: the template has no slot for the prompt's virtual tokens.
    """
    ids = _shared_ids(prompt, backbone)
    with torch.inference_mode():
        embedded = backbone.embed(ids.clamp(min=0)).float().cpu()
    rows = prompt.tensors["input"].float()
    return torch.where((ids < 0)[:, None], rows[(-1 - ids).clamp(min=0)], embedded).contiguous()


def _shared_ids(prompt: SoftPrompt, backbone: Backbone) -> Int[Tensor, " S"]:
    """Token ids of everything before the first field; virtual token k is -1-k."""
    return torch.tensor(prompt.template.tokenize(backbone.tokenizer, prompt.length).prefix)


_FEATURES = frozenset({"mask", "sep", "text"})
"""What a folder of PEFT's can carry beyond rows at the input and label words."""
_EXPORTABLE = "train one that it can carry: softprompt train ... --exportable"


def _require_decoder(backbone: Backbone) -> None:
    """Refuse a backbone that is no causal language model, which is what a folder of PEFT's prompt tuning says it is."""
    if backbone.kind != "decoder":
        raise UnsupportedBackboneError(
            f"PEFT's folder is for the input of a decoder, and `{backbone.name}` ({backbone.family.title}, "
            f"{backbone.kind}) is none; keep the prompt's own file"
        )


def _require_foldable(prompt: SoftPrompt) -> None:
    learned = [site for site in prompt.tensors if site.startswith("readout.")]
    if learned:
        raise IncompatiblePromptError(
            f"the prompt cannot go to PEFT: it has learned output rows (`{learned[0]}`), and PEFT's folder holds rows "
            f"at the input only; {_EXPORTABLE}"
        )
    others = [site for site in prompt.tensors if site != "input"]
    if others:
        layered = others[0].startswith("layers.")
        kept = "keys and values in every layer" if layered else "rows for the encoder of an encoder-decoder"
        raise IncompatiblePromptError(
            f"the prompt cannot go to PEFT: it has {kept} (`{others[0]}`), and what is written here is PEFT's prompt "
            f"tuning, which has rows at the input only; {_EXPORTABLE}"
        )
    _require_sayable(prompt)
    template = prompt.template
    if template.placement not in ("prefix", "none"):
        raise IncompatiblePromptError(
            f"the prompt cannot go to PEFT: its template `{template.pattern}` has a {{soft}} slot behind "
            f"{{{template.fields[0]}}} ({template.placement}), and PEFT puts its rows before everything; "
            "train one with all {soft} slots before the first field"
        )


def _require_sayable(prompt: SoftPrompt) -> None:
    """Refuse rows and answers that a folder of PEFT's and a README beside it cannot describe."""
    if isinstance(prompt.template, ChatTemplate):
        raise IncompatiblePromptError(
            "the prompt cannot go to PEFT: its rows are conversations, written by the backbone's chat template, with "
            "the soft tokens inside the first turn; train one on the columns `input` and `target`"
        )
    if not isinstance(prompt.readout, LabelWords | Text):
        raise IncompatiblePromptError(
            f"the prompt cannot go to PEFT: its answers are read as `{prompt.readout.kind}`, and PEFT's folder is for "
            "label words and text; keep the prompt's own file"
        )


def _config(backbone: Backbone, rows: int) -> dict[str, JSON]:
    """What PEFT writes for prompt tuning; a name that is only known here is left out."""
    settings = backbone.model.config
    return {
        "auto_mapping": None,
        "base_model_name_or_path": backbone.name if _HUB_ID.fullmatch(backbone.name) else None,
        "inference_mode": True,
        "num_attention_heads": int(settings.num_attention_heads),
        "num_layers": backbone.num_layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": rows,
        "peft_type": "PROMPT_TUNING",
        "prompt_tuning_init": "RANDOM",
        "prompt_tuning_init_text": None,
        "revision": None,
        "task_type": "CAUSAL_LM",
        "token_dim": backbone.embedding_size,
        "tokenizer_name_or_path": None,
    }


def _own(folder: Path, found: PeftFolder, backbone: Backbone, *, given: bool) -> SoftPrompt:
    """The prompt beside PEFT's files, if they still say the same."""
    if given:
        raise ConfigError(
            f"`{folder.name}` was written by softprompt and has its own template and label words in `{PROMPT}`; "
            "leave yours out, or take that file away"
        )
    prompt = SoftPrompt.load(folder / PROMPT)
    _require_foldable(prompt)
    prompt.check(backbone.fingerprint, name=backbone.name, features=_FEATURES)
    if not _same_rows(found.rows, fold(prompt, backbone), _shared_ids(prompt, backbone) < 0):
        raise refused(
            folder.name,
            f"the rows of `{WEIGHTS}` are not those of `{PROMPT}` beside it; one of them was changed: to import the "
            f"former, take `{PROMPT}` away and give a template and label words",
        )
    return prompt


def _same_rows(found: Tensor, expected: Tensor, virtual: Tensor) -> bool:
    """Virtual tokens must be equal; embedded tokens may differ by the rounding of another dtype."""
    if found.shape != expected.shape or not torch.equal(found[virtual], expected[virtual]):
        return False
    away = (found - expected).abs().amax(dim=1)
    return bool((away <= _ROUNDING * expected.abs().amax(dim=1)).all())


def _foreign(
    folder: Path, found: PeftFolder, backbone: Backbone, template: Template | None, readout: LabelWords | None
) -> SoftPrompt:
    """A prompt that PEFT trained, with the template and the label words of the caller."""
    if template is None or readout is None:
        missing = "a template" if template is None else "label words"
        raise ConfigError(
            f"`{folder.name}` was written by PEFT, which does not say what its prompt is for; give {missing}, "
            'for instance Template("{soft}{bos}{text}\\nLabel:") and LabelWords.from_labels(["ham", "spam"])'
        )
    if not isinstance(template.pieces[0], Soft) or template.soft_slots != 1:
        raise TemplateError(
            f"the template `{template.pattern}` is not what PEFT computed, which put its rows before everything; "
            "begin it with {soft} and use that slot once"
        )
    keys = ("peft_type", "peft_version", "prompt_tuning_init", "prompt_tuning_init_text")
    origin = {key: found.config[key] for key in keys if found.config.get(key) is not None}
    return SoftPrompt(
        {"input": found.rows}, template, readout, backbone.fingerprint, provenance={"imported from PEFT": origin}
    )
