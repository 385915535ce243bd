"""A prompt of the store as a folder for another tool."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from softprompt.errors import ConfigError
from softprompt.registry import unknown_name

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone
    from softprompt.prompts.soft_prompt import SoftPrompt


LM_EVAL = "lm-eval"


class Judging(NamedTuple):
    """What `lm-eval` is to judge: the prompt's name, and where labelled rows are."""

    name: str
    data: str | None
    label: str | None


def to_peft(prompt: SoftPrompt, backbone: str | None, folder: Path) -> None:
    """Write a folder that PEFT reads.

    Raises:
        ConfigError: nothing says which backbone the prompt was trained on.
        SoftPromptError: as for `export_peft`.
    """
    from softprompt.store.peft import export_peft

    export_peft(prompt, _backbone(prompt, backbone, "fp32"), folder)


def to_engine(prompt: SoftPrompt, backbone: str | None, folder: Path, engine: str, fields: Sequence[str]) -> None:
    """Write a folder for vLLM or SGLang; `fields` are the row of its request, as name=text.

    Raises:
        ConfigError: nothing says which backbone the prompt was trained on; or a field without `=`.
        UnknownNameError: another engine.
        SoftPromptError: as for `export_for`.
    """
    from softprompt.serving.embedding import TITLES
    from softprompt.serving.export import export_for

    if engine not in TITLES:
        raise unknown_name("engine", engine, [*TITLES, LM_EVAL])
    row = {name: text for name, _, text in map(_named, fields)} or None
    export_for(prompt, _backbone(prompt, backbone, None), folder, engine, row)  # type: ignore[arg-type]


def to_lm_eval(prompt: SoftPrompt, backbone: str | None, folder: Path, judging: Judging) -> None:
    """Write a folder that `lm-eval` runs, and print the command.

    Raises:
        ConfigError: nothing says which backbone the prompt was trained on.
        SoftPromptError: as for `export_lm_eval`, and for reading the rows.
    """
    from softprompt.cli.evaluate import choose_rows
    from softprompt.progress import say
    from softprompt.serving.lm_eval import export_lm_eval
    from softprompt.serving.lm_eval_readme import command

    chosen = None if judging.data is None else choose_rows(prompt, judging.data, "test", judging.label)
    if chosen is not None:
        say(chosen.origin)
    loaded = _backbone(prompt, backbone, "fp32")
    told = export_lm_eval(prompt, loaded, folder, chosen.rows if chosen else (), name=judging.name)
    if told.other:
        say(f"of {told.other:,} of {told.rows:,} rows lm-eval makes other tokens than softprompt; the README says why")
    print(f"cd {folder} && {command(prompt, loaded, told)}")


def _named(field: str) -> tuple[str, str, str]:
    if "=" not in field:
        raise ConfigError(f"`--field {field}` has no `=`; write name=text, for instance text='a gripping film'")
    return field.partition("=")


def _backbone(prompt: SoftPrompt, asked: str | None, dtype: str | None) -> Backbone:
    from softprompt.backbones.backbone import load_backbone
    from softprompt.prompts.manifest import name_of

    name = asked or name_of(prompt.provenance.get("backbone"))
    if not name:
        raise ConfigError("the prompt does not say which backbone it was trained on; give --backbone")
    return load_backbone(name, dtype=dtype)
