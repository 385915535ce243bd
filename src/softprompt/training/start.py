"""Where a run starts from: the first values of the prompt, and the text they say."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from softprompt.backbones.backbone import Backbone
from softprompt.errors import ConfigError
from softprompt.prompts import initializers
from softprompt.prompts.initializers import Initial
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.readout import Readout
from softprompt.tasks.template import Template
from softprompt.training.config import TrainConfig

NAMED = 20
"""Labels named in the initial text at most; the rest would not fit in the prompt anyhow."""


def initial_text(config: TrainConfig, template: Template, readout: Readout) -> str:
    """Return the text that the prompt starts from, which is also the hard prompt it is compared with.

    >>> from softprompt.tasks.readout import LabelWords
    >>> words = LabelWords.from_labels(["ham", "spam"])
    >>> initial_text(TrainConfig(), Template.default(["text"], "label"), words)
    'Classify the text as ham or spam. '
    """
    if config.init_text:
        return config.init_text
    fields = " and the ".join(name.replace("_", " ") for name in template.fields)
    return _TASKS.get(readout.kind, _TASKS["label-words"]).format(
        fields=fields,
        words=_listed([word.strip() for word in readout.words[:NAMED]], "or"),
        all=_listed([word.strip(" ?:") for word in readout.words[:NAMED]], "and"),
    )


_TASKS = {
    "label-words": "Classify the {fields} as {words}. ",
    "yes-no": "Say which of these the {fields} is: {all}. ",
    "scalar": "Rate the {fields} from {words}. ",
    "token-tags": "Tag each word of the {fields} as {words}. ",
    "text": "Read the {fields} and write a good, correct and complete answer to it. ",
}


def _listed(words: Sequence[str], last: str) -> str:
    """`a, b or c`; nothing for no words."""
    return f" {last} ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def first_values(
    backbone: Backbone, config: TrainConfig, template: Template, readout: Readout, other: SoftPrompt | None = None
) -> Initial:
    """Return the first values [P, D] that the settings ask for.

    Raises:
        ConfigError: `init=prompt` without a prompt to start from.
        IncompatiblePromptError: the other prompt was trained on another backbone.
    """
    generator = torch.Generator().manual_seed(config.seed)
    length = config.virtual_tokens
    if config.init == "prompt":
        if other is None:
            raise ConfigError("init is `prompt` and no prompt was given; name one with init_prompt")
        return initializers.from_prompt(backbone, length, other)
    if config.init in (None, "text"):
        return initializers.from_text(backbone, length, initial_text(config, template, readout))
    if config.init == "labels":
        return initializers.from_labels(backbone, length, readout.words, generator)
    if config.init == "vocabulary":
        return initializers.from_vocabulary(backbone, length, generator)
    return initializers.from_random(backbone, length, generator)
