"""`VllmEngine`: requests of any prompts, answered by a vLLM engine in this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softprompt.backbones.backbone import Backbone
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.modeling.text import TextReading
from softprompt.serving.asking import Ask, Listener
from softprompt.serving.choices import choices_of
from softprompt.serving.embedding import require_embeddable, require_engine
from softprompt.serving.engine import Engine
from softprompt.serving.observing import Observer
from softprompt.serving.payloads import check_choices, check_sampling
from softprompt.serving.ticket import Request
from softprompt.serving.vllm_passes import VllmPasses
from softprompt.serving.vllm_seam import InProcess, Stepping


class VllmEngine(Engine):
    """Answers requests with any number of prompts over a vLLM engine.

    Rows are embedded here, by the same model on the CPU (which also gives tokenizer and fingerprint), and handed to
    vLLM whole; its prefix cache knows a prompt by the bytes of its rows, so that a prompt whose length is a multiple
    of its block size (16) is computed once. What comes back are tokens and log-probabilities, of which texts, stops
    and label probabilities are made as our own engine makes them.

    Prompts of keys and values, learned rows, answers that are neither label words nor text, and repetition penalties
    are refused.

    Args:
        backbone: the model that vLLM runs, on the CPU.
        engine: takes embedded rows; `None`: vLLM, started here with `options`.
        rows: most rows of a pass, and most rows in flight.
        step_tokens: most tokens of new rows at a time.
        queue: most requests that may wait.
        observer: is told of everything that happens.
        options: further arguments of vLLM's `EngineArgs`; its dtype is by default that of the backbone.

    Raises:
        MissingExtraError: vLLM is not installed.
        UnsupportedBackboneError: vLLM would not run this backbone's rows as we do.
        ConfigError: a number out of range.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        engine: Stepping | None = None,
        rows: int = 256,
        step_tokens: int = 8192,
        queue: int = 1024,
        observer: Observer | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        require_engine(backbone, "vllm")
        if engine is None:
            dtype = str(backbone.dtype).removeprefix("torch.")
            engine = InProcess(backbone.name, **{"dtype": dtype, **(options or {})})
        super().__init__(
            PromptedModel(backbone),
            rows=rows,
            step_tokens=step_tokens,
            queue=queue,
            observer=observer,
            passes=VllmPasses(backbone, engine, rows, step_tokens),
        )

    def submit(self, ask: Ask, listener: Listener | None = None) -> Request:
        """Take a request in and return at once; see `Engine.submit`.

        Raises:
            IncompatiblePromptError: its prompt is more than vLLM carries.
        """
        require_embeddable(ask.prompt, "vllm")
        return super().submit(ask, listener)

    def _request(self, ask: Ask, listener: Listener | None) -> Request:
        request = super()._request(ask, listener)
        if isinstance(request.bound.reading, TextReading):
            check_sampling(ask.sampling)
        else:
            for choice in choices_of(request.bound):
                check_choices(choice.tokens)
        return request
