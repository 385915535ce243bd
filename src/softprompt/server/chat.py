"""POST /v1/chat/completions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from softprompt.server.answering import Growing, Order
from softprompt.server.context import Context, context_of
from softprompt.server.keys import Caller, caller
from softprompt.server.models import Models, models_of
from softprompt.server.problems import Problem
from softprompt.server.reading import described, form_of
from softprompt.server.rows import chat_row, check_room, conversation
from softprompt.server.sampling import asks_of
from softprompt.server.schema import ChatForm
from softprompt.server.streaming import answered
from softprompt.server.telling import FINISH, beside, chat_logprobs

router = APIRouter(tags=["answers"])


@dataclass(frozen=True)
class ChatShape:
    """Answers as an assistant's messages.

    Attributes:
        logprobs: tell the log-probability of each token.
        tokenizer: the backbone's.
    """

    logprobs: bool
    tokenizer: Any
    prefix: str = "chatcmpl"
    whole: str = "chat.completion"
    part: str = "chat.completion.chunk"

    def choice(self, answer: Growing) -> dict[str, Any]:
        """Return a message in one."""
        assert answer.ended is not None, "a choice is an answer that has ended"
        text, tokens = answer.fresh()
        told = chat_logprobs(tokens, self.tokenizer) if self.logprobs else None
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": answer.index, "message": message, "logprobs": told}
        return {**choice, "finish_reason": FINISH[answer.ended.reason], **beside(answer.ended.answer)}

    def delta(self, answer: Growing) -> dict[str, Any]:
        """Return what has come of a message."""
        text, tokens = answer.fresh()
        delta = {"content": text} if answer.begun else {"role": "assistant", "content": text}
        answer.begun = True
        choice: dict[str, Any] = {"index": answer.index, "delta": delta, "finish_reason": None}
        if self.logprobs:
            choice["logprobs"] = chat_logprobs(tokens, self.tokenizer)
        if answer.ended is not None:
            choice |= {"finish_reason": FINISH[answer.ended.reason], **beside(answer.ended.answer)}
        return choice


@router.post("/v1/chat/completions", summary="Answer a conversation", openapi_extra=described(ChatForm))
async def chat(request: Request, by: Annotated[Caller, Depends(caller)]) -> Response:
    """Answer as OpenAI's endpoint does."""
    form = await form_of(request, ChatForm)
    context, models = context_of(request), models_of(request)
    shape = ChatShape(form.told_tokens is not None, context.backbone.tokenizer)

    def plan() -> Order:
        return _plan(form, by, context, models)

    return await answered(request, by, plan, shape, stream=bool(form.stream), usage=form.tells_usage)


def _plan(form: ChatForm, by: Caller, context: Context, models: Models) -> Order:
    model = models.find(form.model, by)
    if model.prompt is not None:
        row = chat_row(model, form.messages, form.fields)
        check_room(model, row, context.backbone, "messages")
        return Order(model, asks_of(form, model, [(model.prompt, row)], context.settings), form.count)
    if form.fields:
        raise Problem(400, f"`{model.id}` is the base model and has no fields", param="fields", code="invalid_value")
    asked = models.bare.chat(conversation(form.messages), form.most_tokens)
    return Order(model, asks_of(form, model, [asked], context.settings), form.count)
