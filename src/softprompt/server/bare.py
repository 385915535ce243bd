"""The base model without any prompt: its name, and how texts and conversations are put to it."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from softprompt.backbones.backbone import Backbone
from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.server.problems import Problem
from softprompt.tasks.chat import ChatTemplate
from softprompt.tasks.free_text import MAX_NEW_TOKENS, Text
from softprompt.tasks.messages import COLUMN
from softprompt.tasks.template import Template

COMPLETION_TOKENS = 16
"""Most tokens of a completion that does not say; OpenAI's number."""


class Bare:
    """Puts texts and conversations to the base model as they are.

    Args:
        backbone: the resident model.
        most: tokens of an answer, whatever is asked for.
    """

    def __init__(self, backbone: Backbone, most: int) -> None:
        self.name = name_of(backbone)
        self._model, self._most = PromptedModel(backbone), min(most, MAX_NEW_TOKENS)
        self._text = Template("{text}{sep}" if backbone.kind == "encoder-decoder" else "{bos}{text}")
        self._bound = lru_cache(maxsize=64)(self._bind)

    @property
    def chats(self) -> bool:
        """Whether the tokenizer has a template to write conversations with."""
        return bool(getattr(self._model.backbone.tokenizer, "chat_template", None))

    def text(self, text: str, tokens: int | None) -> tuple[BoundPrompt, dict[str, str]]:
        """Return how a text is gone on with, by at most `tokens`, and the row to answer.

        Raises:
            Problem: 400: there is no text, or no room for it and its answer.
            UnsupportedBackboneError: the base model writes no text.
        """
        if not text:
            raise Problem(400, "`prompt` is missing or empty; the base model goes on with a text", param="prompt")
        row = {"text": text}
        return self._bound(False, self._room(False, row, tokens or COMPLETION_TOKENS, "prompt")), row

    def chat(self, conversation: str, tokens: int | None) -> tuple[BoundPrompt, dict[str, str]]:
        """Return how a conversation is answered, by at most `tokens` (by default as many as fit), and the row.

        Raises:
            Problem: 400: the base model has no chat template, or no room for the conversation and its answer.
            TemplateError: its chat template refuses the turns.
        """
        if not self.chats:
            message = (
                f"`{self.name}` has no chat template, so it cannot be chatted with as it is; use /v1/completions, or "
                "one of its prompts (GET /v1/models)"
            )
            raise Problem(400, message, param="model", code="no_chat_template")
        row = {COLUMN: conversation}
        return self._bound(True, self._room(True, row, tokens, "messages")), row

    def _room(self, chat: bool, row: dict[str, str], tokens: int | None, param: str) -> int:
        """How many tokens the answer may have; rows are not cut here, where nobody was trained on cut ones."""
        backbone, wanted = self._model.backbone, min(tokens or self._most, self._most)
        if backbone.max_positions is None or backbone.kind == "encoder-decoder":
            room, length = self._most, 0
        else:
            length = length_of(self._bound(chat, 1), row)
            room = backbone.max_positions - length
        if room < (wanted if tokens else 1):
            raise too_long(self.name, backbone.max_positions, length, tokens or 1, param)
        return min(wanted, room)

    def _bind(self, chat: bool, tokens: int) -> BoundPrompt:
        template: Template = ChatTemplate(own_system=True) if chat else self._text
        bound = self._model.bare(template, Text(tokens, lead=""))
        return replace(bound, key=f"bare {template.pattern}")  # what stands in front of the row is always the same


def length_of(bound: BoundPrompt, row: dict[str, str]) -> int:
    """Return how many tokens a row has, the prompt and all words of the template counted."""
    return len(bound.template.prefix) + len(bound.template.row(row).ids)


def too_long(name: str, limit: int | None, length: int, answer: int, param: str) -> Problem:
    """Return the error for a row that leaves no room for its answer."""
    message = (
        f"`{name}` has room for {limit or 0:,} tokens, and this is {length:,} and {answer:,} for the answer; shorten "
        f"`{param}` or ask for fewer tokens"
    )
    return Problem(400, message, param=param, code="context_length_exceeded")


def name_of(backbone: Backbone) -> str:
    """Return the name that the base model is asked for by: of a folder or a file, without where it lies."""
    path = Path(backbone.name)
    if path.suffix == ".gguf":
        return path.stem
    return path.name if path.is_absolute() or path.exists() else backbone.name
