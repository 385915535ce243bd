"""POST /v1/completions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from softprompt.modeling.bound import BoundPrompt
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.server.answering import Growing, Order
from softprompt.server.context import Context, context_of
from softprompt.server.keys import Caller, caller
from softprompt.server.models import Model, Models, models_of
from softprompt.server.problems import Problem
from softprompt.server.reading import described, form_of
from softprompt.server.rows import check_room, row_of
from softprompt.server.sampling import asks_of
from softprompt.server.schema import CompletionForm
from softprompt.server.streaming import answered
from softprompt.server.telling import FINISH, beside, completion_logprobs

router = APIRouter(tags=["answers"])


@dataclass(frozen=True)
class CompletionShape:
    """Answers as texts.

    Attributes:
        told: how many of the likeliest tokens are told at each place; `None`: no log-probabilities.
        tokenizer: the backbone's.
    """

    told: int | None
    tokenizer: Any
    prefix: str = "cmpl"
    whole: str = "text_completion"
    part: str = "text_completion"

    def choice(self, answer: Growing) -> dict[str, Any]:
        """Return a text in one."""
        return self.delta(answer)

    def delta(self, answer: Growing) -> dict[str, Any]:
        """Return what has come of a text."""
        text, tokens = answer.fresh()
        choice: dict[str, Any] = {"index": answer.index, "text": text, "logprobs": None, "finish_reason": None}
        if self.told is not None:
            choice["logprobs"] = completion_logprobs(tokens, self.told, self.tokenizer, answer.said)
            answer.said += sum(len(token.text) for token in tokens)
        if answer.ended is not None:
            choice |= {"finish_reason": FINISH[answer.ended.reason], **beside(answer.ended.answer)}
        return choice


@router.post("/v1/completions", summary="Go on with a text, or answer one", openapi_extra=described(CompletionForm))
async def completions(request: Request, by: Annotated[Caller, Depends(caller)]) -> Response:
    """Answer as OpenAI's endpoint does."""
    form = await form_of(request, CompletionForm)
    context, models = context_of(request), models_of(request)

    def plan() -> Order:
        return _plan(form, by, context, models)

    shape = CompletionShape(form.told_tokens, context.backbone.tokenizer)
    return await answered(request, by, plan, shape, stream=bool(form.stream), usage=form.tells_usage)


def _plan(form: CompletionForm, by: Caller, context: Context, models: Models) -> Order:
    model = models.find(form.model, by)
    rows = _bare(form, model, models) if model.prompt is None else _prompted(form, model, model.prompt, context)
    return Order(model, asks_of(form, model, rows, context.settings), form.count)


def _bare(form: CompletionForm, model: Model, models: Models) -> list[tuple[SoftPrompt | BoundPrompt, dict[str, str]]]:
    if form.fields:
        raise Problem(400, f"`{model.id}` is the base model and has no fields", param="fields", code="invalid_value")
    return [models.bare.text(text, form.most_tokens) for text in form.texts or [""]]


def _prompted(
    form: CompletionForm, model: Model, prompt: SoftPrompt, context: Context
) -> list[tuple[SoftPrompt | BoundPrompt, dict[str, str]]]:
    if model.chats:
        message = f"`{model.id}` was trained on conversations; ask it at /v1/chat/completions"
        raise Problem(400, message, param="model", code="wrong_endpoint")
    texts: list[str | None] = [*form.texts] or [None]
    rows = [row_of(model, text, form.fields, "fields" if form.fields else "prompt") for text in texts]
    for row in rows:
        check_room(model, row, context.backbone, "prompt")
    return [(prompt, row) for row in rows]
