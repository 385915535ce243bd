"""Managing the prompts of a running server: what the store does, with what the server knows of its backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from threading import Lock
from typing import TYPE_CHECKING, Any

from softprompt.errors import ConfigError, SoftPromptError, UnknownNameError, VersionConflictError
from softprompt.modeling.bound import FEATURES, BoundPrompt
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.server.bare import name_of
from softprompt.server.problems import Problem

if TYPE_CHECKING:
    from torch import Tensor

    from softprompt.backbones.backbone import Backbone
    from softprompt.serving.catalog import Catalog
    from softprompt.store.index import Listing
    from softprompt.store.names import Version
    from softprompt.store.store import PromptStore


class Management:
    """Lists, shows, takes in, tags and removes prompts; any thread may ask.

    Args:
        store: where they are kept.
        catalog: serves them.
        backbone: what they must fit.
        allow_other_weights: accept prompts trained on other weights of this architecture.
        forget: drops what is kept computed for the prompt of a digest.
    """

    def __init__(
        self,
        store: PromptStore,
        catalog: Catalog,
        backbone: Backbone,
        *,
        allow_other_weights: bool = False,
        forget: Callable[[str], None] = lambda digest: None,
    ) -> None:
        self.store, self._catalog, self._backbone = store, catalog, backbone
        self._other, self._forget = allow_other_weights, forget
        self._putting = Lock()

    def list(self, search: str = "") -> tuple[Listing, ...]:
        """Return one line a name, as `PromptStore.list`."""
        return self.store.list(search)

    def names(self) -> tuple[str, ...]:
        """Return every name of the store, in order; a cheaper question than `list`."""
        return self._catalog.names()

    def inspect(self, reference: str) -> dict[str, Any]:
        """Return all that a prompt says of itself, the sizes of its numbers, and the evaluations kept beside it.

        Raises:
            UnknownNameError, ConfigError, StorageError, PromptFileError: as `PromptStore.get`.
        """
        digest = self.store.resolve(reference)
        prompt = self.store.get(f"sha256:{digest}")
        told = {
            "object": "prompt",
            "digest": digest,
            "bytes": len(prompt.to_bytes()),
            "virtual_tokens": prompt.length,
            "tensors": {site: _measured(tensor) for site, tensor in prompt.tensors.items()},
            **prompt.to_json(),
            "evaluations": self.store.evaluations(digest),
        }
        if reference.startswith("sha256:"):
            return {"id": reference, **told}
        return {**version_json(self.store.version(reference)), **told}

    def upload(self, name: str, data: bytes, parent: str = "", tags: Sequence[str] = ()) -> tuple[Version, bool]:
        """Keep the bytes of a prompt file as the next version of a name, once everything about them is checked.

        Args:
            name: the prompt's name.
            data: the bytes.
            parent: what must be the latest version, as `v3` or its digest: of a name that is there it must be said, so
                that nobody replaces what he has not seen.
            tags: tags to move to the new version.

        Returns:
            The version, and whether it is new: bytes that are the latest version already stay that version.

        Raises:
            Problem: 409, the latest version is another.
            PromptFileError: the bytes break a rule of the format.
            IncompatiblePromptError: they are for another backbone.
            ConfigError: the name or a tag cannot be one.
            StorageError: the store cannot be written.
        """
        prompt = SoftPrompt.from_bytes(data, name)
        self._check(name, prompt)
        with self._putting:
            before = self._latest(name)
            if before is None or before.digest != prompt.digest:
                _check_parent(name, parent, before)
            version = self._put(prompt, name, tags, before)
        return version, before is None or before.number != version.number

    def load(self, reference: str) -> str:
        """Read a prompt, check it, keep it ready and return its digest.

        Raises:
            SoftPromptError: as `Catalog.find`.
        """
        return self._catalog.find(reference).digest

    def unload(self, reference: str) -> str:
        """Let go of what is kept ready of a prompt, and return its digest; its next request reads it again.

        Raises:
            UnknownNameError, ConfigError, StorageError: as `PromptStore.resolve`.
        """
        digest = self.store.resolve(reference)
        self._let_go(digest)
        return digest

    def remove(self, target: str, *, everything: bool = False) -> tuple[Version, ...]:
        """Remove a version, or with `everything` a name and all of its versions, and return what went.

        Raises:
            ConfigError: a bare name without `everything`; a tag, or a version that a tag stands on.
            UnknownNameError: no such name or version.
            StorageError: the store cannot be written.
        """
        if everything == ("@" in target):
            raise ConfigError(
                f"`{target}` is one version; leave `all` out"
                if everything
                else f"`{target}` has all of its versions; name one, `{target}@v1`, or say all=true"
            )
        gone = self.store.remove(target)
        for each in gone:
            self._let_go(each.digest)
        return gone

    def _let_go(self, digest: str) -> None:
        self._catalog.unload(digest)
        self._forget(digest)

    def _check(self, name: str, prompt: SoftPrompt) -> None:
        """Refuse what could not be served: the same that serving would refuse, before anything is kept."""
        if name == name_of(self._backbone):
            message = f"`{name}` is the base model's name here, so no prompt of that name could be asked; take another"
            raise Problem(409, message, param="name", code="name_taken")
        prompt.check(self._backbone.fingerprint, self._other, name=self._backbone.name, features=FEATURES)
        try:
            BoundPrompt.of(self._backbone, prompt)
        except SoftPromptError as error:
            raise type(error)(f"`{name}` cannot be served here: {error}") from error

    def _put(self, prompt: SoftPrompt, name: str, tags: Sequence[str], before: Version | None) -> Version:
        """Put the version that follows `before`; other servers and programs may write the same store meanwhile."""
        try:
            return self.store.put(prompt, name, tags=tags, after=before.number if before else 0)
        except VersionConflictError as error:
            raise Problem(409, str(error), param="parent", code="version_conflict") from error

    def _latest(self, name: str) -> Version | None:
        try:
            return self.store.version(name)
        except UnknownNameError:
            return None


def version_json(version: Version) -> dict[str, Any]:
    """Return a version as it is answered."""
    return {"id": str(version), "object": "prompt.version", **asdict(version)}


def listing_json(listing: Listing) -> dict[str, Any]:
    """Return a line of a list as it is answered."""
    return {"id": listing.name, "object": "prompt", **asdict(listing)}


def _check_parent(name: str, parent: str, latest: Version | None) -> None:
    """Refuse what would replace a version that its sender has not seen."""
    if latest is None and parent:
        message = f"parent is `{parent}`, and there is no `{name}` yet; leave parent out"
    elif latest is not None and not parent:
        message = f"there is a `{name}` already; say parent=v{latest.number} to put the next version of it"
    elif latest is not None and parent.removeprefix("sha256:") not in (f"v{latest.number}", latest.digest):
        message = f"parent is `{parent}`, and the latest `{name}` is v{latest.number}; look at that one first"
    else:
        return
    raise Problem(409, message, param="parent", code="version_conflict")


def _measured(tensor: Tensor) -> dict[str, Any]:
    """The shape of a tensor, and how long its rows are: a token that grew far beyond the others stands out."""
    norms = tensor.float().norm(dim=-1)
    lengths = {"min": norms.min(), "mean": norms.mean(), "max": norms.max()}
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "norms": {name: round(float(value), 6) for name, value in lengths.items()},
    }
