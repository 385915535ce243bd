"""`/v1/prompts`: list, inspect, load, unload, upload, tag and delete prompts, for keys that may."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from softprompt.errors import UnknownNameError
from softprompt.prompts.header import MAX_FILE
from softprompt.registry import unknown_name
from softprompt.server.keys import Caller, caller
from softprompt.server.management import Management, listing_json, version_json
from softprompt.server.reading import body_of

logger = logging.getLogger(__name__)
T = TypeVar("T")

PATH = "/v1/prompts"
PAGE = 100
"""Prompts on one page of a list, unless another number is asked for."""


async def manager(by: Annotated[Caller, Depends(caller)]) -> Caller:
    """Return who sent a request, if that caller may manage prompts.

    Raises:
        Problem: 401, 403 or 429.
    """
    by.may_manage()
    return by


async def management(request: Request) -> Management:
    """Return what manages the prompts of the application (`app.state.management`)."""
    found: Management = request.app.state.management
    return found


By = Annotated[Caller, Depends(manager)]
Prompts = Annotated[Management, Depends(management)]
router = APIRouter(prefix=PATH, tags=["prompts"])


@router.get("")
def list_prompts(
    by: By,
    prompts: Prompts,
    search: str = "",
    after: str = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = PAGE,
) -> dict[str, Any]:
    """List prompts by name, those in which `search` stands, from the one behind `after` on."""
    found = [each for each in prompts.list(search) if each.name > after and by.key.fits(each.name)]
    page = [listing_json(each) for each in found[:limit]]
    return {"object": "list", "data": page, "has_more": len(found) > limit}


@router.get("/{reference}")
def inspect_prompt(reference: str, by: By, prompts: Prompts) -> dict[str, Any]:
    """Return all that a prompt says of itself, the norms of its rows, and the evaluations kept beside it."""
    return _of(by, prompts, reference, lambda: prompts.inspect(reference))


@router.get("/{name}/versions")
def list_versions(name: str, by: By, prompts: Prompts) -> dict[str, Any]:
    """List the versions of a name, newest first."""
    found = _of(by, prompts, name, lambda: prompts.store.log(name))
    return {"object": "list", "data": [version_json(version) for version in found]}


@router.put("/{name}", status_code=201)
async def upload_prompt(
    name: str,
    request: Request,
    response: Response,
    by: By,
    prompts: Prompts,
    parent: str = "",
    tag: Annotated[list[str] | None, Query()] = None,
) -> dict[str, Any]:
    """Keep the prompt file in the body as the next version of a name; `parent` says what must be the latest one."""
    by.may_use(name, "name")
    data = await body_of(request, MAX_FILE)
    version, new = await run_in_threadpool(prompts.upload, name, data, parent, tag or ())
    response.status_code = 201 if new else 200
    return _changed(by, "uploaded", version)


@router.post("/{reference}/load")
def load_prompt(reference: str, by: By, prompts: Prompts) -> dict[str, Any]:
    """Read a prompt, check it and keep it ready."""
    digest = _of(by, prompts, reference, lambda: prompts.load(reference))
    return {"id": reference, "object": "prompt", "digest": digest, "ready": True}


@router.post("/{reference}/unload")
def unload_prompt(reference: str, by: By, prompts: Prompts) -> dict[str, Any]:
    """Let go of what is kept ready of a prompt; its next request reads it again."""
    digest = _of(by, prompts, reference, lambda: prompts.unload(reference))
    return {"id": reference, "object": "prompt", "digest": digest, "ready": False}


@router.put("/{reference}/tags/{tag}")
def put_tag(reference: str, tag: str, by: By, prompts: Prompts) -> dict[str, Any]:
    """Let a tag stand on a version, wherever it stood before."""
    return _changed(by, f"tagged {tag}", _of(by, prompts, reference, lambda: prompts.store.tag(reference, tag)))


@router.delete("/{name}/tags/{tag}", status_code=204)
def delete_tag(name: str, tag: str, by: By, prompts: Prompts) -> None:
    """Take a tag away; its version stays."""
    _of(by, prompts, name, lambda: prompts.store.untag(name, tag))
    logger.info("untagged %s@%s", name, tag, extra={"key": by.name})


@router.delete("/{reference}")
def delete_prompt(
    reference: str, by: By, prompts: Prompts, everything: Annotated[bool, Query(alias="all")] = False
) -> dict[str, Any]:
    """Remove a version; with `all=true` a name, its versions and its tags."""
    gone = _of(by, prompts, reference, lambda: prompts.remove(reference, everything=everything))
    return {"object": "list", "data": [_changed(by, "removed", version) for version in gone]}


def _of(by: Caller, prompts: Management, reference: str, act: Callable[[], T]) -> T:
    """Act on what a reference names, if the caller may know of it; near names are offered among those it may."""
    by.may_use(reference, "name")
    try:
        return act()
    except UnknownNameError:
        name = reference.partition("@")[0]
        known = prompts.names()
        if name in known or reference.startswith("sha256:"):
            raise
        raise unknown_name("prompt", name, by.allowed(known)) from None


def _changed(by: Caller, what: str, version: Any) -> dict[str, Any]:
    """Log who changed what, and return the version."""
    logger.info("%s %s", what, version, extra={"key": by.name, "digest": version.digest[:12]})
    return version_json(version)
