"""What other engines are sent: requests of vLLM's and SGLang's HTTP servers, and vLLM's tensors.

vLLM takes a tensor as the base64 of a file that PyTorch saves, SGLang as lists of JSON numbers. Both are sent the
whole row embedded, except in vLLM's conversations, where the server writes the chat template around our rows.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from softprompt.errors import ConfigError
from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.sampling import Sampling
from softprompt.modeling.text import TextReading
from softprompt.shapes import Float
from softprompt.store.torch_file import write_torch
from softprompt.tasks.chat import ChatTemplate
from softprompt.tasks.messages import messages_of

MOST_CHOICES = 128
"""Tokens whose log-probabilities vLLM tells at once."""


class Bounds(NamedTuple):
    """Where a written answer ends.

    Attributes:
        max_tokens: after so many tokens.
        stop: before these texts.
        stop_tokens: at these tokens.
        lead: what it begins with that is no part of it.
    """

    max_tokens: int
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    lead: str = ""

    @classmethod
    def of(cls, bound: BoundPrompt, max_tokens: int | None = None) -> Bounds:
        """Return those of a prompt that is read out as text; `max_tokens` may lower the most.

        Raises:
            ConfigError: its answers are chosen, not written; or `max_tokens` is below 1.
        """
        reading = bound.reading
        if not isinstance(reading, TextReading):
            raise ConfigError("text was asked of a prompt whose answers are chosen, not written; score its labels")
        if max_tokens is not None and max_tokens < 1:
            raise ConfigError(f"max_tokens is {max_tokens}; an answer has at least 1 token")
        most = reading.readout.max_new_tokens
        least = most if max_tokens is None else min(most, max_tokens)
        return cls(least, reading.readout.stop, tuple(sorted(reading.ends)), reading.lead)

    def answer(self, text: str) -> str:
        """Return the answer in a text that an engine wrote."""
        for stop in self.stop:
            text = text.partition(stop)[0]
        return text.removeprefix(self.lead).strip()


def encode_rows(rows: Float[Tensor, "T D"]) -> str:
    """Return rows as vLLM takes them over HTTP: base64 of the file that `torch.save` would write."""
    return b64encode(write_torch(rows)).decode("ascii")


def vllm_completion(
    model: str, rows: Float[Tensor, "T D"], bounds: Bounds, sampling: Sampling | None = None
) -> dict[str, Any]:
    """Return the body of `POST /v1/completions` that has vLLM write behind a whole embedded row.

    Args:
        model: what the server calls the backbone.
        rows: everything in front of the answer.
        bounds: where the answer ends.
        sampling: how tokens are chosen; by default the likeliest one.
    """
    return {
        "model": model,
        "prompt": None,
        "prompt_embeds": encode_rows(rows),
        "max_tokens": bounds.max_tokens,
        "stop": [*bounds.stop],
        "stop_token_ids": [*bounds.stop_tokens],
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
        **_chosen(sampling or Sampling(), "seed", all_tokens=0),
    }


def vllm_choice(model: str, rows: Float[Tensor, "T D"], tokens: Sequence[int]) -> dict[str, Any]:
    """Return the body of `POST /v1/completions` that has vLLM tell how likely each of `tokens` comes next.

    Raises:
        ConfigError: more tokens than vLLM tells at once.
    """
    return {
        "model": model,
        "prompt": None,
        "prompt_embeds": encode_rows(rows),
        "max_tokens": 1,
        "temperature": 0.0,
        "logprobs": 1,
        "logprob_token_ids": check_choices(tokens),
        "return_tokens_as_token_ids": True,
    }


def vllm_chat(
    model: str,
    bound: BoundPrompt,
    fields: Mapping[str, str],
    bounds: Bounds,
    soft: Float[Tensor, "P D"],
    sampling: Sampling | None = None,
) -> dict[str, Any]:
    """Return the body of `POST /v1/chat/completions`: the prompt's rows, and nothing else, at the first user's turn.

    The server writes its own chat template around them. It makes tokens of the whole text, where a prompt was trained
    on the template's words and each message by themselves: where those differ, send `vllm_completion` instead.

    Args:
        model: what the server calls the backbone.
        bound: a prompt of conversations.
        fields: the conversation, in the column `messages`.
        bounds: where the answer ends.
        soft: the prompt's virtual tokens, in the dtype to send.
        sampling: how tokens are chosen; by default the likeliest one.

    Raises:
        ConfigError: the prompt was not trained on conversations.
        DataError: the conversation cannot be read.
    """
    template = bound.template.template
    if not isinstance(template, ChatTemplate):
        raise ConfigError(
            f"the prompt's template is `{template.pattern}`, not a conversation, and vLLM's chat writes another; "
            "send its rows embedded, to /v1/completions"
        )
    body = vllm_completion(model, soft, bounds, sampling)
    part = {"type": "prompt_embeds", "data": body.pop("prompt_embeds")}
    del body["prompt"]
    return {**body, "messages": _with_part(template, fields, part)}


def sglang_generate(rows: Float[Tensor, "T D"], bounds: Bounds, sampling: Sampling | None = None) -> dict[str, Any]:
    """Return the body of SGLang's `POST /generate` that has it write behind a whole embedded row.

    The server must run with `--disable-radix-cache`, for its cache knows rows by their tokens.
    """
    settings = {
        "max_new_tokens": bounds.max_tokens,
        "stop": [*bounds.stop],
        "stop_token_ids": [*bounds.stop_tokens],
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
        **_chosen(sampling or Sampling(), "sampling_seed", all_tokens=-1),
    }
    return {"input_embeds": rows.float().tolist(), "sampling_params": settings}


def check_sampling(sampling: Sampling) -> None:
    """Return if an engine that is given embedded rows can choose tokens as is asked.

    Raises:
        ConfigError: a repetition penalty, which counts tokens that such an engine does not see.
    """
    if sampling.repetition_penalty != 1:
        raise ConfigError(
            f"repetition_penalty is {sampling.repetition_penalty}, which counts the row's tokens, and an engine that "
            "is given embedded rows does not know them; leave it at 1, or use softprompt itself"
        )


def check_choices(tokens: Sequence[int]) -> list[int]:
    """Return tokens whose log-probabilities vLLM tells at once.

    Raises:
        ConfigError: there are more than it tells.
    """
    if len(tokens) > MOST_CHOICES:
        raise ConfigError(
            f"{len(tokens)} labels part at one token, and vLLM tells the probabilities of {MOST_CHOICES} at once; give "
            "labels other words, or use softprompt"
        )
    return [*tokens]


def sglang_choice(rows: Float[Tensor, "T D"], tokens: Sequence[int]) -> dict[str, Any]:
    """Return the body of SGLang's `POST /generate` that has it tell how likely each of `tokens` comes next."""
    return {
        "input_embeds": rows.float().tolist(),
        "sampling_params": {"max_new_tokens": 1, "temperature": 0.0},
        "return_logprob": True,
        "token_ids_logprob": [*tokens],
    }


def _chosen(sampling: Sampling, seed: str, *, all_tokens: int) -> dict[str, Any]:
    """How tokens are chosen; what changes nothing is left out."""
    check_sampling(sampling)
    found: dict[str, Any] = {"temperature": sampling.temperature}
    if not sampling.greedy:
        found |= {"top_p": sampling.top_p, "top_k": sampling.top_k or all_tokens, "min_p": sampling.min_p}
        found |= {seed: sampling.seed}
    return found


def _with_part(template: ChatTemplate, fields: Mapping[str, str], part: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A conversation with the prompt's part in front of the first user's words, and the prompt's system message."""
    messages = messages_of(fields)
    out: list[dict[str, Any]] = [{"role": each.role, "content": each.text} for each in messages]
    if out[0]["role"] != "system" and template.system is not None:
        out.insert(0, {"role": "system", "content": template.system})
    first = next(each for each in out if each["role"] == "user")
    first["content"] = [dict(part), {"type": "text", "text": first["content"]}]
    return out
