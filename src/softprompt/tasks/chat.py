"""Conversations, written by the tokenizer's own chat template, with the prompt at the start of the first user turn.

The template is given marks in place of the messages' words, and its result is cut at the marks. So no word of a
user ever meets the template, and every piece, the template's own words and each message, becomes tokens by itself,
by the rule of all templates (`tasks.template.TOKENISATION`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple, Protocol, runtime_checkable

from softprompt.errors import TemplateError
from softprompt.tasks.messages import Message, messages_of
from softprompt.tasks.template import Template, TokenizedTemplate, Tokenizer, TokenRow

_SHORT = 64
"""Turns of a conversation whose pieces are kept."""
_MARK = re.compile("\ue000([0-9]+)\ue001")


@runtime_checkable
class ChatTokenizer(Tokenizer, Protocol):
    """What a conversation asks of a tokenizer."""

    eos_token_id: int | None
    all_special_ids: list[int]

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any:
        """Return a conversation as one text."""
        ...


class ChatRow(NamedTuple):
    """A conversation as tokens, virtual token k written -1-k, and the spans (begin, end) of them to predict.

    `cut` counts the tokens that were removed from its messages to make it fit.
    """

    ids: tuple[int, ...]
    cut: int
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ChatTemplate(Template):
    """The pattern of a conversation: the backbone's chat template, the soft slot in front of the first user's words.

    Args:
        pattern: always `{soft}{messages}`: the conversation is the one field.
        max_tokens: longest row in tokens, virtual tokens included; `None` leaves it to the backbone.
        system: the system message of every conversation; `None`: none has one.
        own_system: each row brings a system message of its own, so that nothing in front of it is shared.

    Raises:
        TemplateError: another pattern, or `system` with `own_system`.

    >>> ChatTemplate(system="Be brief.").placement
    'prefix'
    """

    pattern: str = "{soft}{messages}"
    max_tokens: int | None = None
    system: str | None = None
    own_system: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pattern != "{soft}{messages}":
            raise TemplateError(
                f"the template of a conversation is the backbone's own, not `{self.pattern}`; leave the pattern out"
            )
        if self.own_system and self.system is not None:
            raise TemplateError("asked for one system message and for each row's own; choose one of them")

    def tokenize(self, tokenizer: Tokenizer, virtual_tokens: int) -> TokenizedChat:
        """Return this template in the tokens of one backbone, for a prompt of `virtual_tokens` (P >= 0).

        Raises:
            TemplateError: the tokenizer has no chat template, or one that leaves out messages.
        """
        if not getattr(tokenizer, "chat_template", None) or not isinstance(tokenizer, ChatTokenizer):
            raise TemplateError(
                "this backbone's tokenizer has no chat template to write messages with; use a backbone that was "
                "trained for conversations (its name often ends in -it, -instruct or -chat), or give the rows as the "
                "columns `input` and `target`"
            )
        return TokenizedChat(self, tokenizer, virtual_tokens)

    def to_json(self) -> dict[str, Any]:
        """Return the template as plain JSON."""
        shown = {"kind": "chat", "max_tokens": self.max_tokens}
        return {**shown, "system": self.system, "own_system": self.own_system}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ChatTemplate:
        """Rebuild a template from `to_json`."""
        return cls(
            max_tokens=data.get("max_tokens"), system=data.get("system"), own_system=data.get("own_system", False)
        )


def template_from_json(data: Mapping[str, Any]) -> Template:
    """Rebuild any template from its `to_json`: a conversation's, or a pattern.

    >>> template_from_json({"pattern": "{soft}{text}"}).fields
    ('text',)
    """
    return ChatTemplate.from_json(data) if data.get("kind") == "chat" else Template.from_json(data)


class _Piece(NamedTuple):
    """A part of a written conversation: the template's own words, or the place of message `turn`."""

    text: str
    turn: int | None


class TokenizedChat(TokenizedTemplate):
    """A chat template in the tokens of one backbone.

    Attributes:
        prefix: tokens of everything up to the soft slot and with it; none where each row has its own system message.
        lead: what the chat template puts between its invitation to answer and the answer; learned with the answer.
        stop: the tokens that end an answer, in their order; where the last of them comes, the answer has ended.
    """

    def __init__(self, template: ChatTemplate, tokenizer: ChatTokenizer, virtual_tokens: int) -> None:
        self.template: ChatTemplate = template
        self._tokenizer: ChatTokenizer = tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self._special = {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
        self._virtual = tuple(-1 - k for k in range(virtual_tokens))
        self._short = lru_cache(maxsize=256)(self._write)
        self.lead, self.stop = self._around()
        self.prefix: tuple[int, ...] = () if template.own_system else self._shared()
        self._overhead = len(self.prefix) or virtual_tokens

    def row(self, values: Mapping[str, str], limit: int | None = None) -> TokenRow:
        """Return the tokens of a conversation behind the prefix, up to where the next answer begins.

        The longest message gives way first, from its end, where `limit` asks for it.

        Args:
            values: the conversation in the column `messages`, as JSON.
            limit: most tokens for prefix and row together; the template's `max_tokens` may lower it.

        Raises:
            DataError: the conversation cannot be read, or has no user turn.
            TemplateError: its system message is another than the template's, the backbone's chat template refuses
                it, or even empty messages would not fit.
        """
        parts, cut, _ = self._fitted(self._conversation(values), limit)
        return TokenRow(tuple(token for part in parts for token in part), cut)

    def learned(
        self, values: Mapping[str, str], answer: str, limit: int | None = None, room: int | None = None
    ) -> ChatRow:
        """Return the tokens of a whole conversation behind the prefix, with the spans that training predicts.

        Those are the words of every assistant turn with what ends it; a turn that was cut is not among them. The
        tokens up to the answer are those of `row`.

        Args:
            values: the conversation before its last answer, in the column `messages`, as JSON.
            answer: the last answer.
            limit: most tokens for prefix and row, as for `row`.
            room: most tokens of the answer, behind them; it is cut from its end.
        """
        full = self.answer(answer)
        last = full if room is None else full[: max(1, room)]
        parts, cut, whole = self._fitted(self._conversation(values), limit)
        starts = [0, *accumulate(len(part) for part in parts)]
        spans = [
            (starts[i], starts[i + 1] + self._ending(parts[i + 1])) for i in range(len(parts) - 1) if whole[i]
        ]  # the part behind a message is the template's, and begins with what ends it
        ids = tuple(token for part in parts for token in part)
        return ChatRow(ids + last, cut + len(full) - len(last), (*spans, (len(ids), len(ids) + len(last))))

    def answer(self, text: str) -> tuple[int, ...]:
        """Return the tokens of an answer, with those that end it."""
        return (*self._encode(self.lead + text.strip()), *self.stop)

    def _conversation(self, values: Mapping[str, str]) -> list[Message]:
        """The messages of a row with the template's system message, and no other, in front."""
        messages = messages_of(values)
        own = messages[0].text if messages[0].role == "system" else None
        if self.template.own_system:
            return messages
        if own is not None and own != self.template.system:
            advice = "without one; leave it out"
            if self.template.system is not None:
                advice = f"with `{self.template.system}`; use it"
            raise TemplateError(f"the row has the system message `{own}`, and the prompt was trained {advice}")
        rest = messages[1:] if own is not None else messages
        return rest if self.template.system is None else [Message("system", self.template.system), *rest]

    def _fitted(self, messages: Sequence[Message], limit: int | None) -> tuple[list[list[int]], int, list[bool]]:
        """The parts of a row in tokens, how many were cut, and which parts are an assistant's words in full."""
        pieces = self._written(tuple(message.role for message in messages))
        first = next(i for i, message in enumerate(messages) if message.role == "user")
        at = next(i for i, piece in enumerate(pieces) if piece.turn == first)
        if self.template.own_system:
            shown, soft = pieces, at
        else:
            shown, soft = pieces[at:], -1
        texts = [self._encode(messages[p.turn].text if p.turn is not None else p.text) for p in shown]
        free = [i for i, p in enumerate(shown) if p.turn is not None]
        lengths = [len(text) for text in texts]
        fields = [texts[i] for i in free]
        cut = self._shorten(fields, self._room(limit, sum(lengths) - sum(lengths[i] for i in free)))
        for i, field in zip(free, fields, strict=True):
            texts[i] = field
        whole = [
            p.turn is not None and messages[p.turn].role == "assistant" and len(texts[i]) == lengths[i]
            for i, p in enumerate(shown)
        ]
        if soft >= 0:
            texts[soft] = [*self._virtual, *texts[soft]]
        return texts, cut, whole

    def _room(self, limit: int | None, written: int) -> int | None:
        """What is left of the limits for prefix and messages, with `written` tokens of the template in the row."""
        bounds = [n for n in (limit, self.template.max_tokens) if n is not None]
        return min(bounds) - written if bounds else None

    def _shared(self) -> tuple[int, ...]:
        """The tokens in front of the first user's words, which no row changes, and the virtual tokens."""
        system = self.template.system
        pieces = self._written(("user",) if system is None else ("system", "user"))
        user = 0 if system is None else 1
        at = next(i for i, piece in enumerate(pieces) if piece.turn == user)
        texts = (system if piece.turn is not None else piece.text for piece in pieces[:at])
        return (*(token for text in texts for token in self._encode(text or "")), *self._virtual)

    def _written(self, roles: tuple[str, ...]) -> tuple[_Piece, ...]:
        """Write a conversation; what is kept of short ones is bounded, and long ones are not kept."""
        return self._short(roles) if len(roles) <= _SHORT else self._write(roles)

    def _write(self, roles: tuple[str, ...]) -> tuple[_Piece, ...]:
        """Write a conversation of these roles with the tokenizer's template, and cut it into pieces."""
        text = self._rendered(roles, answering=True)
        pieces, end = [], 0
        for found in _MARK.finditer(text):
            pieces += [_Piece(text[end : found.start()], None), _Piece("", int(found[1]))]
            end = found.end()
        pieces.append(_Piece(text[end:], None))
        places = [piece.turn for piece in pieces if piece.turn is not None]
        if places != list(range(len(roles))):
            raise TemplateError(
                f"the chat template of this backbone does not write the turns {', '.join(roles)} once each and in "
                "their order; leave out the system message, or use another backbone"
            )
        return tuple(pieces)

    def _rendered(self, roles: Sequence[str], *, answering: bool) -> str:
        marked = [{"role": role, "content": f"\ue000{i}\ue001"} for i, role in enumerate(roles)]
        try:
            text = self._tokenizer.apply_chat_template(marked, tokenize=False, add_generation_prompt=answering)
        except Exception as error:  # a template is a program of the model's makers, and raises what it likes
            raise TemplateError(
                f"the chat template of this backbone refuses the turns {', '.join(roles)}: {error}; "
                "give turns as it wants them"
            ) from error
        return str(text)

    def _around(self) -> tuple[str, tuple[int, ...]]:
        """What the template puts in front of an answer and behind it, the latter up to the first special token."""
        asked = self._rendered(("user",), answering=True)
        before, _, behind = self._rendered(("user", "assistant"), answering=False).rpartition("\ue0001\ue001")
        lead = before.removeprefix(asked) if before.startswith(asked) else ""
        end = self._encode(behind)
        if count := self._ending(end):
            return lead, tuple(end[:count])
        if self._tokenizer.eos_token_id is None:
            raise TemplateError("this backbone's chat template puts nothing behind an answer to end it; use another")
        return lead, (self._tokenizer.eos_token_id,)

    def _ending(self, behind: Sequence[int]) -> int:
        """How many of the tokens behind an answer belong to its end: up to the first special one, none without."""
        return next((i + 1 for i, token in enumerate(behind) if token in self._special), 0)

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False) if text else []
