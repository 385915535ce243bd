"""What a user says of a prompt that another tool trained, and the prompt that comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, get_args

from softprompt.cli.task_flags import pattern
from softprompt.errors import ConfigError
from softprompt.registry import unknown_name

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone
    from softprompt.prompts.soft_prompt import SoftPrompt
    from softprompt.tasks.readout import LabelWords, Readout
    from softprompt.tasks.template import Template

_TITLES = {"peft": "is a folder of PEFT", "google": "is of Google's prompt-tuning", "tgis": "is of TGIS"}


class Foreign(NamedTuple):
    """The options of an import.

    Attributes:
        backbone: the one that the prompt was trained on.
        text: the text columns of a row.
        template: the pattern of a row, in place of the usual one.
        labels: `name` or `name=words` each.
        max_new_tokens: of an answer that is text.
    """

    backbone: str | None
    text: list[str]
    template: str | None
    labels: list[str]
    max_new_tokens: int | None

    @property
    def said(self) -> bool:
        """Whether anything of the task was given."""
        return bool(self.text or self.template or self.labels or self.max_new_tokens is not None)


def take(path: Path, format: str | None, given: Foreign) -> SoftPrompt:
    """Read a prompt of any format.

    Raises:
        ConfigError: a format's backbone, template or answers are missing, or labels and text are both asked for.
        UnknownNameError: another format.
        SoftPromptError: the file cannot be used; see `import_peft` and `import_foreign`.
    """
    from softprompt.prompts.soft_prompt import SoftPrompt
    from softprompt.store.foreign import FOREIGN, Format, format_of, import_foreign

    kind = format or format_of(path)
    if kind not in get_args(Format):
        raise unknown_name("format", kind, get_args(Format))
    if kind == "softprompt":
        return SoftPrompt.load(path)
    if not given.backbone:
        told = _TITLES.get(kind, "is of KoboldAI")
        raise ConfigError(f"`{path}` {told}; say with --backbone which one its prompt was trained on")
    if given.labels and given.max_new_tokens is not None:
        raise ConfigError("`--label` and `--max-new-tokens` were given; a prompt answers with labels or with text")
    if kind == "peft":
        return _from_peft(path, given)
    assert kind in FOREIGN
    backbone = _backbone(given)
    pattern = _pattern(given, backbone)
    readout = _readout(given, pattern)
    return import_foreign(path, backbone, template=_template(pattern), readout=readout, format=kind)  # type: ignore[arg-type]


def _from_peft(folder: Path, given: Foreign) -> SoftPrompt:
    """Read a PEFT folder; one of our own export needs neither template nor labels."""
    from softprompt.store.peft import import_peft

    backbone = _backbone(given)
    if not given.said:
        return import_peft(folder, backbone)
    if given.max_new_tokens is not None:
        raise ConfigError("`--max-new-tokens` was given, and a folder of PEFT is read by label words; give --label")
    pattern = _pattern(given, backbone)
    return import_peft(folder, backbone, template=_template(pattern), readout=_words(given, pattern))


def _backbone(given: Foreign) -> Backbone:
    from softprompt.backbones.backbone import load_backbone

    assert given.backbone
    return load_backbone(given.backbone, dtype="fp32")


def _pattern(given: Foreign, backbone: Backbone) -> str:
    """The pattern that was given, else the usual one with the rows before everything, where other tools put them."""
    from softprompt.tasks.template import Template

    if given.template:
        return pattern(given.template)
    usual = Template.default(given.text or ["text"], "label", kind=backbone.kind).pattern
    return "{soft}" + usual.replace("{soft}", "")


def _template(pattern: str) -> Template:
    from softprompt.tasks.template import Template

    return Template(pattern)


def _words(given: Foreign, pattern: str) -> LabelWords | None:
    from softprompt.tasks.readout import LabelWords

    words = {name: own or name for name, _, own in (each.partition("=") for each in given.labels)}
    spaced = not pattern.endswith((" ", "\n"))
    return LabelWords.from_labels(list(words), words, leading_space=spaced) if words else None


def _readout(given: Foreign, pattern: str) -> Readout | None:
    from softprompt.tasks.free_text import Text

    if given.max_new_tokens is None:
        return _words(given, pattern)
    return Text(given.max_new_tokens, lead="" if pattern.endswith((" ", "\n")) else " ")
