"""A client of a vLLM or SGLang server that runs elsewhere: rows are embedded here, with our template, and sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from http.client import HTTPException
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from torch import Tensor

from softprompt.backbones.backbone import Backbone
from softprompt.errors import ConfigError, RemoteError
from softprompt.modeling.answers import Answer, TextAnswer, answer
from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.modeling.readings import EncodedRow
from softprompt.modeling.sampling import Sampling
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.registry import unknown_name
from softprompt.serving.choices import Choice, choices_of, read_choices
from softprompt.serving.embedding import TITLES, Engine, embed_tokens, require_embeddable, require_engine
from softprompt.serving.payloads import Bounds, sglang_choice, sglang_generate, vllm_choice, vllm_completion
from softprompt.tasks.free_text import Text

_MOST_ANSWER = 64 * 2**20
_TOLD = 300

T = TypeVar("T")


class RemoteModel:
    """A server of vLLM or SGLang that answers with our prompts.

    Its server must be started so that it takes embedded rows: `vllm serve ... --enable-prompt-embeds`, or SGLang with
    `--disable-radix-cache`. Send to a server that you trust and that trusts you.

    Args:
        url: where it listens, for instance `http://127.0.0.1:8000`.
        backbone: the same model here, which gives tokenizer and embeddings.
        engine: `vllm` or `sglang`.
        model: what the server calls its model; `None`: the backbone's name.
        key: a bearer key, if it asks for one.
        timeout: seconds to wait for an answer.

    Raises:
        ConfigError: a URL that is not http or https.
        UnknownNameError: another engine.
        UnsupportedBackboneError: the engine would not run this backbone's rows as we do.
    """

    def __init__(
        self,
        url: str,
        backbone: Backbone,
        *,
        engine: Engine = "vllm",
        model: str | None = None,
        key: str | None = None,
        timeout: float = 60.0,
    ) -> None:
        if engine not in TITLES:
            raise unknown_name("engine", engine, TITLES)
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"the server is `{url}`; give a URL that begins with http:// or https://")
        require_engine(backbone, engine)
        self._url, self._engine, self._key, self._timeout = url.rstrip("/"), engine, key, timeout
        self._name = model or backbone.name
        self._model = PromptedModel(backbone)

    def answer(
        self,
        fields: Mapping[str, str],
        prompt: SoftPrompt,
        *,
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
    ) -> Answer:
        """Answer one row: a text that the server writes, or the label that its probabilities speak for.

        Args:
            fields: the row's columns.
            prompt: a prompt of rows at the input, read out as text or by label words.
            sampling: how the tokens of a text are chosen; by default the likeliest one.
            max_tokens: most tokens of a text.

        Raises:
            IncompatiblePromptError: the prompt is of another backbone, or more than the engine carries.
            TemplateError: the row lacks a field of the prompt's template.
            RemoteError: the server is not there, refuses, or answers in another form.
        """
        require_embeddable(prompt, self._engine)
        bound = self._model.bind(prompt)
        row = self._model.encode(fields, bound)
        if not isinstance(prompt.readout, Text):
            return self._label(prompt, bound, row)
        bounds = Bounds.of(bound, max_tokens)
        text, finished = self._written(self._embedded(bound, row), bounds, sampling)
        return TextAnswer(bounds.answer(text), None, {}, cut=row.cut, finished=finished)

    def _label(self, prompt: SoftPrompt, bound: BoundPrompt, row: EncodedRow) -> Answer:
        found = [self._told(bound, row, choice) for choice in choices_of(bound)]
        scores = read_choices(bound, found)
        return answer(prompt.readout, prompt.temperature, scores, row.cut, abstain=prompt.abstain)

    def _embedded(self, bound: BoundPrompt, row: EncodedRow, behind: tuple[int, ...] = ()) -> Tensor:
        return embed_tokens(self._model.backbone, bound, (*bound.template.prefix, *row.ids, *behind))

    def _written(self, rows: Tensor, bounds: Bounds, sampling: Sampling | None) -> tuple[str, bool]:
        """A text, and whether it ended by itself."""
        if self._engine == "vllm":
            found = self._post("/v1/completions", vllm_completion(self._name, rows, bounds, sampling))
            (choice,) = self._part(found, lambda body: body["choices"])
            return str(choice["text"]), choice.get("finish_reason") == "stop"
        found = self._post("/generate", sglang_generate(rows, bounds, sampling))
        text, reason = self._part(found, lambda body: (str(body["text"]), body["meta_info"]["finish_reason"]["type"]))
        return text, reason == "stop"

    def _told(self, bound: BoundPrompt, row: EncodedRow, choice: Choice) -> dict[int, float]:
        """The log-probabilities of one choice's tokens."""
        rows = self._embedded(bound, row, choice.behind)
        if self._engine == "vllm":
            found = self._post("/v1/completions", vllm_choice(self._name, rows, choice.tokens))
            told = self._part(found, lambda body: body["choices"][0]["logprobs"]["top_logprobs"][0])
            return self._part(told, lambda each: {int(k.removeprefix("token_id:")): float(v) for k, v in each.items()})
        found = self._post("/generate", sglang_choice(rows, choice.tokens))
        told = self._part(found, lambda body: body["meta_info"]["output_token_ids_logprobs"][0])
        return self._part(told, lambda each: {int(token): float(logp) for logp, token, *_ in each})

    def _part(self, body: Any, take: Callable[[Any], T]) -> T:
        """Take what is needed out of an answer."""
        try:
            return take(body)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise RemoteError(
                f"the server at {self._url} answered in another form than {TITLES[self._engine]}'s "
                f"({json.dumps(body, default=str)[:_TOLD]}); check its URL and version"
            ) from error

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        asked = Request(self._url + path, json.dumps(body).encode(), headers, method="POST")  # noqa: S310 - checked above
        try:
            with urlopen(asked, timeout=self._timeout) as reply:  # noqa: S310
                data = reply.read(_MOST_ANSWER)
        except HTTPError as error:
            told = error.read(_TOLD).decode("utf-8", "replace")
            raise RemoteError(f"the server at {self._url} refused the request ({error.code}): {told}") from error
        except (URLError, HTTPException, OSError) as error:
            reason = getattr(error, "reason", error)
            raise RemoteError(f"the server at {self._url} cannot be reached ({reason}); is it running?") from error
        try:
            return json.loads(data)
        except ValueError as error:
            raise RemoteError(
                f"the server at {self._url} answered no JSON ({data[:_TOLD].decode('utf-8', 'replace')}); check its URL"
            ) from error
