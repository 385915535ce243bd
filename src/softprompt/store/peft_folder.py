"""Reading a folder that PEFT wrote: what it says it is, and its rows, nothing taken on trust."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from softprompt.errors import PromptFileError, StorageError
from softprompt.prompts.canonical import JSON, parse
from softprompt.prompts.header import MAX_FILE, refused
from softprompt.shapes import Float
from softprompt.store.rows import checked_rows

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
KEY = "prompt_embeddings"

_KINDS = ("PROMPT_TUNING", "P_TUNING")
_PICKLED = "adapter_model.bin"


class PeftFolder(NamedTuple):
    """What was found: the configuration as it stands, and the rows [S, D] in fp32."""

    config: Mapping[str, JSON]
    rows: Float[Tensor, "S D"]


def read_peft_folder(folder: Path) -> PeftFolder:
    """Read a folder of PEFT's prompt tuning (or p-tuning, which is saved alike) of a causal language model.

    Raises:
        PromptFileError: a file is missing, pickled, damaged or too large; another method or task; or rows that are
            not finite or not those that the configuration speaks of.
        StorageError: a file may not be read.
    """
    config = _read_config(folder)
    _check_kind(folder.name, config)
    rows = _read_rows(folder)
    stated = [config.get("num_virtual_tokens"), config.get("token_dim")]
    if stated != list(rows.shape):
        raise refused(
            folder.name,
            f"`{CONFIG}` speaks of {stated[0]} rows of {stated[1]} numbers and `{WEIGHTS}` has {[*rows.shape]}; "
            "copy both again",
        )
    return PeftFolder(config, rows)


def _read_config(folder: Path) -> Mapping[str, JSON]:
    path = folder / CONFIG
    if not path.exists():
        nested = sorted(inner.parent.name for inner in folder.glob(f"*/{CONFIG}"))
        hint = f"; it has one in `{nested[0]}/`: give that folder" if nested else ": give a folder that PEFT wrote"
        raise PromptFileError(f"`{folder}` has no `{CONFIG}`{hint}")
    try:
        config = parse(_read(path).decode("utf-8"))
    except ValueError as error:
        raise refused(folder.name, f"its `{CONFIG}` is not JSON ({error}); save it again") from error
    if not isinstance(config, dict):
        raise refused(folder.name, f"its `{CONFIG}` is not a JSON object; save it again")
    return config


def _check_kind(name: str, config: Mapping[str, JSON]) -> None:
    kind, task = config.get("peft_type"), config.get("task_type")
    if kind not in _KINDS:
        raise refused(
            name, f"it is `{kind}` of PEFT, and only {' and '.join(_KINDS)} are rows in front of the input; train those"
        )
    if task != "CAUSAL_LM":
        raise refused(name, f"its task is `{task}` of PEFT; only CAUSAL_LM answers with the backbone's own words")
    modules = config.get("num_transformer_submodules")
    if modules not in (None, 1):
        raise refused(name, f"it has rows for {modules} submodules (encoder and decoder); only one can be read")
    trained = config.get("modules_to_save")
    if trained:
        raise refused(name, f"it was trained together with `{trained[0]}`, which no prompt can hold; train it without")


def _read_rows(folder: Path) -> Tensor:
    path = folder / WEIGHTS
    if not path.exists():
        raise refused(folder.name, _no_weights(folder))
    try:
        tensors = load(_read(path))
    except (SafetensorError, ValueError) as error:
        raise refused(folder.name, f"its `{WEIGHTS}` is damaged ({error}); save or fetch it again") from error
    if set(tensors) != {KEY}:
        names = ", ".join(f"`{key}`" for key in sorted(tensors)[:3]) or "nothing"
        raise refused(folder.name, f"its `{WEIGHTS}` must hold `{KEY}` alone and holds {names}; save it again")
    return checked_rows(tensors[KEY], folder.name, KEY)


def _no_weights(folder: Path) -> str:
    if (folder / _PICKLED).exists():
        return (
            f"its rows are in `{_PICKLED}`, a pickled file, which could run code and is never opened; "
            "save it with PEFT again, safe_serialization=True"
        )
    return f"it has no `{WEIGHTS}`; copy the whole folder"


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_FILE:
            raise refused(path.name, f"it has {size:,} bytes, and a prompt has at most {MAX_FILE:,}; is it a model?")
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read `{path}`: {error.strerror or error}") from error
