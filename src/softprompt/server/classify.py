"""POST /v1/classify: what prompts that do not write say of rows; all rows and prompts of a request share passes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from softprompt.server.answering import Order, answers_of, json_bytes
from softprompt.server.context import context_of
from softprompt.server.keys import Caller, caller
from softprompt.server.models import Model, Models, models_of
from softprompt.server.problems import Problem
from softprompt.server.reading import described, form_of
from softprompt.server.rows import row_of
from softprompt.server.schema import ClassifyForm
from softprompt.server.settings import Settings
from softprompt.server.telling import answer_data
from softprompt.serving.asking import Ask

router = APIRouter(tags=["answers"])


@router.post("/v1/classify", summary="Labels, numbers and tags of many rows", openapi_extra=described(ClassifyForm))
async def classify(request: Request, by: Annotated[Caller, Depends(caller)]) -> Response:
    """Answer every row with every prompt that it is for."""
    form = await form_of(request, ClassifyForm)
    settings, models = context_of(request).settings, models_of(request)
    if form.asked > settings.max_rows:
        message = f"{form.asked} answers at once; this server gives at most {settings.max_rows}, so send fewer rows"
        raise Problem(413, message, param="input", code="too_many_rows")
    questions = form.questions()
    once = {(number, name): row for number, name, row in questions}  # the same prompt twice for a row is asked once
    _check_size(once, settings)
    found: dict[str, Model] = {}

    def plan() -> Order:
        for reference in dict.fromkeys(name for _, name in once):
            found[reference] = _reading(models, reference, by)
        asks = [_ask(found[name], row, number, settings) for (number, name), row in once.items()]
        return Order(next(iter(found.values())), asks)

    order, answers = await answers_of(request, by, plan)
    try:
        told = dict(zip(once, await answers.all(), strict=True))
    finally:
        answers.close()
    data: list[dict[str, Any]] = []
    for number, name, _ in questions:
        row = told[number, name]
        assert row.ended is not None, "all answers have ended"
        model = found[name]
        kind = model.prompt.readout.kind if model.prompt is not None else ""
        data.append({"index": number, "model": model.id, "kind": kind, **answer_data(row.ended.answer)})
    head = {"id": f"classify-{uuid.uuid4().hex}", "object": "list", "created": int(time.time())}
    body = {**head, "model": order.model.id if len(found) == 1 else None, "data": data, "usage": answers.usage()}
    return Response(json_bytes(body), media_type="application/json")


def _check_size(once: Mapping[tuple[int, str], str | Mapping[str, str]], settings: Settings) -> None:
    """Refuse long rows for many prompts: each prompt encodes each row anew, and cuts it only then.

    Raises:
        Problem: 413, with both sizes.
    """
    size = sum(len(row) if isinstance(row, str) else sum(map(len, row.values())) for row in once.values())
    if size > settings.max_body:
        message = (
            f"the texts have {size:,} characters, counted once for each prompt that reads them; this server reads at "
            f"most {settings.max_body:,} in one request, so send shorter rows, or fewer prompts at once"
        )
        raise Problem(413, message, param="input", code="input_too_large")


def _reading(models: Models, reference: str, by: Caller) -> Model:
    """A model whose answers are read, not written."""
    model = models.find(reference, by)
    if model.writes:
        way = "/v1/chat/completions" if model.chats else "/v1/completions"
        message = f"`{model.id}` writes text and does not classify; ask it at {way}"
        raise Problem(400, message, param="model", code="wrong_endpoint")
    return model


def _ask(model: Model, row: Any, number: int, settings: Settings) -> Ask:
    assert model.prompt is not None, "the base model does not classify"
    text, fields = (row, None) if isinstance(row, str) else (None, row)
    filled = row_of(model, text, fields, f"input.{number}")
    return Ask(
        model.prompt,
        filled,
        name=model.name,
        deadline=settings.deadline,
        allow_other_weights=settings.allow_other_weights,
    )
