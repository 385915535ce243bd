"""A prompt as a folder for vLLM or SGLang: its rows, a request ready to be sent, and how to make others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from softprompt.backbones.backbone import Backbone
from softprompt.durable import write_bytes
from softprompt.modeling.bound import FEATURES, BoundPrompt
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.registry import unknown_name
from softprompt.serving.choices import choices_of
from softprompt.serving.embedding import (
    TITLES,
    Engine,
    embed_row,
    embed_tokens,
    require_embeddable,
    require_engine,
)
from softprompt.serving.export_readme import readme
from softprompt.serving.payloads import (
    Bounds,
    sglang_choice,
    sglang_generate,
    vllm_chat,
    vllm_choice,
    vllm_completion,
)
from softprompt.store.new_folder import appearing
from softprompt.store.peft import PROMPT
from softprompt.store.torch_file import write_torch
from softprompt.tasks.chat import ChatTemplate
from softprompt.tasks.free_text import Text
from softprompt.tasks.messages import COLUMN

SOFT = "soft.pt"
"""The virtual tokens [P, D] as PyTorch saves a tensor."""

REQUESTS = {"vllm": "completion.json", "sglang": "generate.json"}
CHAT = "chat.json"


def export_for(
    prompt: SoftPrompt, backbone: Backbone, folder: Path, engine: Engine, fields: Mapping[str, str] | None = None
) -> None:
    """Write a prompt as a folder for another engine: the prompt's own file, its rows, a request and a README.

    The request holds one row, embedded whole: virtual tokens, the template's words and the row's. For a prompt of
    conversations there is a second one for vLLM, whose server writes the chat template itself.

    Args:
        prompt: rows at the input, read out as text or by label words.
        backbone: the one that the prompt was trained on; rows are written in its compute dtype.
        folder: a folder that does not exist yet, or is empty; it appears whole or not at all.
        engine: `vllm` or `sglang`.
        fields: the columns of the request's row; `None`: an example.

    Raises:
        UnknownNameError: another engine.
        IncompatiblePromptError: the prompt is more than the engine carries, or of another backbone.
        UnsupportedBackboneError: the engine would not run this backbone's rows as we do.
        TemplateError: a field is missing.
        ConfigError: there is something in the folder.
        StorageError: the disk is full, or the folder may not be written.
    """
    if engine not in TITLES:
        raise unknown_name("engine", engine, TITLES)
    require_embeddable(prompt, engine)
    require_engine(backbone, engine)
    prompt.check(backbone.fingerprint, name=backbone.name, features=FEATURES)
    bound = BoundPrompt.of(backbone, prompt)
    shown = _example(prompt) if fields is None else fields
    requests = _requests(bound, backbone, shown, engine)
    soft = embed_tokens(backbone, bound, tuple(-1 - k for k in range(prompt.length)))
    files = {
        PROMPT: prompt.to_bytes(),
        SOFT: write_torch(soft),
        "README.md": readme(prompt, bound, backbone, engine, tuple(requests)).encode(),
        **{name: (json.dumps(body, ensure_ascii=False) + "\n").encode() for name, body in requests.items()},
    }
    with appearing(folder) as hidden:
        for name, data in files.items():
            write_bytes(hidden / name, data)


def _example(prompt: SoftPrompt) -> dict[str, str]:
    if isinstance(prompt.template, ChatTemplate):
        return {COLUMN: '[{"role":"user","content":"Hello"}]'}
    return {name: f"an example of {name}" for name in prompt.template.fields}


def _requests(
    bound: BoundPrompt, backbone: Backbone, fields: Mapping[str, str], engine: Engine
) -> dict[str, dict[str, Any]]:
    """The bodies to send, by the name of their file."""
    rows = embed_row(backbone, bound, PromptedModel(backbone).encode(fields, bound))
    name = REQUESTS[engine]
    if not isinstance(bound.readout, Text):
        tokens = choices_of(bound)[0].tokens
        return {name: vllm_choice(backbone.name, rows, tokens) if engine == "vllm" else sglang_choice(rows, tokens)}
    bounds = Bounds.of(bound)
    if engine == "sglang":
        return {name: sglang_generate(rows, bounds)}
    found = {name: vllm_completion(backbone.name, rows, bounds)}
    template = bound.template.template
    if isinstance(template, ChatTemplate) and not template.own_system:
        soft = embed_tokens(backbone, bound, tuple(token for token in bound.template.prefix if token < 0))
        found[CHAT] = vllm_chat(backbone.name, bound, fields, bounds, soft)
    return found
