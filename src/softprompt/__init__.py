"""Teach a frozen transformer a task in minutes and keep it as a few kilobytes.

>>> import softprompt as sp
>>> sp.Template("{bos}{soft}Text: {text}").soft_slots
1

Importing this package loads neither torch nor transformers: each name below is fetched when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone, load_backbone
    from softprompt.backbones.fingerprint import Fingerprint
    from softprompt.errors import SoftPromptError
    from softprompt.evaluation.evaluate import Evaluation, evaluate
    from softprompt.methods.classifier import PromptClassifier
    from softprompt.modeling.answers import Answer
    from softprompt.modeling.prompted_model import PromptedModel
    from softprompt.prompts.soft_prompt import SoftPrompt
    from softprompt.serving.catalog import Catalog
    from softprompt.serving.engine import Engine
    from softprompt.store.store import PromptStore
    from softprompt.tasks.load import load_task
    from softprompt.tasks.readout import LabelWords
    from softprompt.tasks.task import Example, Task
    from softprompt.tasks.template import Template
    from softprompt.training.train import train

_HOMES = {
    "Answer": "softprompt.modeling.answers",
    "Backbone": "softprompt.backbones.backbone",
    "Catalog": "softprompt.serving.catalog",
    "Engine": "softprompt.serving.engine",
    "Evaluation": "softprompt.evaluation.evaluate",
    "Example": "softprompt.tasks.task",
    "Fingerprint": "softprompt.backbones.fingerprint",
    "LabelWords": "softprompt.tasks.readout",
    "PromptClassifier": "softprompt.methods.classifier",
    "PromptStore": "softprompt.store.store",
    "PromptedModel": "softprompt.modeling.prompted_model",
    "SoftPrompt": "softprompt.prompts.soft_prompt",
    "SoftPromptError": "softprompt.errors",
    "Task": "softprompt.tasks.task",
    "Template": "softprompt.tasks.template",
    "evaluate": "softprompt.evaluation.evaluate",
    "load_backbone": "softprompt.backbones.backbone",
    "load_task": "softprompt.tasks.load",
    "train": "softprompt.training.train",
}

__all__ = [
    "Answer",
    "Backbone",
    "Catalog",
    "Engine",
    "Evaluation",
    "Example",
    "Fingerprint",
    "LabelWords",
    "PromptClassifier",
    "PromptStore",
    "PromptedModel",
    "SoftPrompt",
    "SoftPromptError",
    "Task",
    "Template",
    "__version__",
    "evaluate",
    "load_backbone",
    "load_task",
    "train",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(_unknown(name))
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def _unknown(name: str) -> str:
    from softprompt.registry import nearest

    hint = "".join(f"; did you mean `{known}`?" for known in nearest(name, __all__)[:1])
    return f"module `softprompt` has no attribute `{name}`{hint}"


def __dir__() -> list[str]:
    return sorted(__all__)
