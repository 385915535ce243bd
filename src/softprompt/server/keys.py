"""Who calls: the key of a request, and what it may do."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from starlette.requests import Request

from softprompt.errors import ConfigError
from softprompt.server.keyring import Key, Keyring, default_path
from softprompt.server.limits import Limiter
from softprompt.server.logs import Record, record_of
from softprompt.server.problems import Problem
from softprompt.server.settings import LOOPBACK, Settings

logger = logging.getLogger(__name__)

ANYBODY = "anybody"
"""What a caller is called where no keys are kept."""
_SCHEME = "bearer"
_MANAGE = "use one that was made with `softprompt keys add NAME --manage`"
_NO_KEYS = (
    "this server keeps no keys, so nobody may manage its prompts; make one with `softprompt keys add NAME --manage`, "
    "or start the server with --allow-manage on this machine"
)


@dataclass(frozen=True)
class Caller:
    """Whoever sent a request; a dependency of every endpoint: `Annotated[Caller, Depends(caller)]`.

    Ask `may_use` before a name is looked up, and offer near names among `allowed` only: so nobody learns what is there.

    Args:
        key: its key.
        limiter: counts what it takes.
        record: what is logged of its request.
    """

    key: Key
    limiter: Limiter = field(default_factory=Limiter, repr=False)
    record: Record = field(default_factory=Record, repr=False)

    @property
    def name(self) -> str:
        """What its key is called."""
        return self.key.name

    def may_use(self, reference: str, param: str | None = "model") -> None:
        """Return if it may use the prompt, or the bare backbone, that `reference` names, there or not.

        Raises:
            Problem: 404, the same words whether there is such a prompt or not.
        """
        if not self.key.fits(reference):
            message = f"there is no model `{reference}` for the key `{self.name}`; GET /v1/models lists those there are"
            raise Problem(404, message, type="invalid_request_error", param=param, code="model_not_found")

    def allowed(self, names: Iterable[str]) -> list[str]:
        """Return those of `names` that it may know of."""
        return [name for name in names if self.key.fits(name)]

    def may_manage(self) -> None:
        """Return if it may manage prompts.

        Raises:
            Problem: 403.
        """
        if not self.key.manage:
            message = _NO_KEYS if self.name == ANYBODY else f"the key `{self.name}` may not manage prompts; {_MANAGE}"
            raise Problem(403, message, type="permission_error", code="not_allowed")

    def may_watch(self) -> None:
        """Return if it may read the metrics.

        Raises:
            Problem: 403.
        """
        if not (self.key.watch or (self.key.manage and "*" in self.key.prompts)):  # they name every busy prompt
            message = f"the key `{self.name}` may not read metrics; make one with `softprompt keys add NAME --watch`"
            raise Problem(403, message, type="permission_error", code="not_allowed")

    def spent(self, model: str, prompt_tokens: int, completion_tokens: int) -> None:
        """Count what a request took, towards the key's tokens a minute and in the log; call it once at the end."""
        self.limiter.spend(self.key, prompt_tokens + completion_tokens)
        self.record.model = model
        self.record.prompt_tokens += prompt_tokens
        self.record.completion_tokens += completion_tokens


class Door:
    """Lets callers in: by the file of keys, or, where there is none, anybody on this machine.

    Args:
        keyring: the keys; `None`: none are kept.
        manage: whether anybody may manage prompts where no keys are kept.
        local: without keys, only requests to this machine by its own names are answered.
        limiter: counts what each key takes.
    """

    def __init__(
        self,
        keyring: Keyring | None = None,
        *,
        manage: bool = False,
        local: bool = False,
        limiter: Limiter | None = None,
    ) -> None:
        self.keyring = keyring
        self._local = local or manage
        self._anybody = Key(ANYBODY, "", manage=manage, watch=True)
        self._limiter = limiter or Limiter()

    @classmethod
    def of(cls, settings: Settings) -> Door:
        """Return the door that the settings ask for.

        Raises:
            ConfigError: others reach the address and there are no keys; or what is asked for contradicts itself.
            StorageError: the file of keys may not be read.
        """
        path = _keys_file(settings)
        if path is not None:
            return cls(Keyring(path))
        if not settings.loopback and not settings.anonymous:
            raise ConfigError(
                f"other machines reach `{settings.host}` and there are no keys, so anybody could use the prompts; "
                "make one with `softprompt keys add NAME`, or say --anonymous"
            )
        if settings.allow_manage and not settings.loopback:
            raise ConfigError(
                f"--allow-manage lets anybody change the prompts, and other machines reach `{settings.host}`; "
                "make a key with `softprompt keys add NAME --manage` instead"
            )
        return cls(manage=settings.allow_manage, local=settings.loopback)

    def __str__(self) -> str:
        """Say who is let in."""
        if self.keyring is not None:
            return f"to the {len(self.keyring)} keys of {self.keyring.path}"
        return f"to anybody, without a key{', the management of prompts too' if self._anybody.manage else ''}"

    def admit(self, request: Request) -> Caller:
        """Return who sent a request, counted.

        Raises:
            Problem: 401 without a key that is known; 403 where a page of another host may be behind it; 429 if the
                key has had what it may have a minute.
        """
        record = record_of(request.scope)
        caller = Caller(self._key(request), self._limiter, record)
        record.key = caller.name
        halted = self._limiter.enter(caller.key)
        if halted is not None:
            raise _too_many(caller.key, *halted)
        return caller

    def _key(self, request: Request) -> Key:
        if self.keyring is None:
            if self._local:
                _check_page(request)
            return self._anybody
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        key = self.keyring.find(given.strip()) if scheme.lower() == _SCHEME and given.strip() else None
        if key is None:
            raise _unknown(request, given=bool(given.strip()))
        return key


async def caller(request: Request) -> Caller:
    """Return who sent a request, by the `Door` of the application (`app.state.door`).

    Raises:
        Problem: 401, 403 or 429, as `Door.admit` says.
    """
    door: Door = request.app.state.door
    return door.admit(request)


def _keys_file(settings: Settings) -> Path | None:
    """The file that was named, which must be there; else the usual one, if it is."""
    if settings.keys is None:
        return default_path() if default_path().exists() else None
    path = settings.keys.expanduser()
    if not path.exists():
        raise ConfigError(f"there is no file of keys `{path}`; make it with `softprompt keys add NAME --keys {path}`")
    return path


def _check_page(request: Request) -> None:
    """Refuse a web page whose host name was led to this machine (DNS rebinding), and one that would change something.

    Pages that `--cors` names may ask; what changes prompts needs no answer to do harm, so none may do that.
    """
    host = (request.url.hostname or "").strip("[]").rstrip(".")
    if host not in LOOPBACK:
        message = f"without keys this server answers to {', '.join(LOOPBACK)} only, not to `{host}`"
        raise Problem(403, message, type="permission_error", code="not_allowed")
    origin = request.headers.get("origin")
    if origin is not None and request.method != "GET" and request.url.path.startswith("/v1/prompts"):
        own = (urlsplit(origin).hostname or "").strip("[]").rstrip(".")
        if own not in LOOPBACK:
            message = f"without keys no page of another origin changes prompts here, and this one is of `{origin}`"
            raise Problem(403, message, type="permission_error", code="not_allowed")


def _unknown(request: Request, *, given: bool) -> Problem:
    peer = request.client.host if request.client else "?"
    logger.warning("refused a call with %s", "an unknown key" if given else "no key", extra={"client": peer})
    message = (
        "this key is not known here; check it, or ask whoever runs the server for one"
        if given
        else "a key is needed; send it as `Authorization: Bearer sp-…`"
    )
    headers = {"WWW-Authenticate": "Bearer"}
    return Problem(401, message, type="authentication_error", code="invalid_api_key", headers=headers)


def _too_many(key: Key, what: str, seconds: float) -> Problem:
    wait = max(1, math.ceil(seconds))
    limit = key.requests_per_minute if what == "requests" else key.tokens_per_minute
    message = f"the key `{key.name}` may take {limit:g} {what} a minute and has taken them; try again in {wait} s"
    headers = {"Retry-After": str(wait)}
    return Problem(429, message, type="rate_limit_error", code="rate_limit_exceeded", headers=headers)
