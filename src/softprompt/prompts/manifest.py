"""The JSON inside a prompt file: what it must say, and what may be there without being understood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from softprompt.prompts.canonical import JSON, canonical, parse
from softprompt.prompts.header import Header, refused
from softprompt.prompts.sites import FEATURES, check_together, features_of
from softprompt.tasks.template import TOKENISATION

FORMAT = 1
MAX_MANIFEST = 512 * 2**10


class _Closed(BaseModel):
    """A part whose keys are all known: a later version's addition is a feature or a key beside it."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class TemplateJson(_Closed):
    """`Template.to_json()`."""

    pattern: str
    max_tokens: int | None = None


class ReadoutJson(_Closed):
    """`LabelWords.to_json()`."""

    kind: Literal["label-words"]
    labels: list[str]
    words: list[str]
    scoring: str = "trie"


class FingerprintJson(_Closed):
    """`Fingerprint.to_json()`."""

    architecture: str
    tokenizer: str
    weights: str
    embedding_scale: str


class Manifest(BaseModel):
    """Everything about a prompt but its numbers; keys that are not known here are kept."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    format: Literal[1] = 1
    requires: list[str] = Field(default_factory=list)
    template: TemplateJson
    tokenization: str = TOKENISATION
    readout: ReadoutJson
    decoding: dict[str, Any] = Field(default_factory=dict)
    temperature: Annotated[float, Field(gt=0)] = 1.0
    abstain: Annotated[float, Field(ge=0, le=1)] | None = None
    fingerprint: FingerprintJson
    provenance: dict[str, Any] = Field(default_factory=dict)

    @property
    def extra(self) -> dict[str, JSON]:
        """The optional keys that this version does not know."""
        return dict(self.model_extra or {})


def read_manifest(header: Header, name: str) -> Manifest:
    """Return the manifest of a file, checked by itself and against the file's tensors.

    Raises:
        PromptFileError: not JSON, another format, a feature that is not known, or a key missing or of the wrong kind.
    """
    found = _parse(header.manifest, name)
    _check_versions(found, name)
    try:
        manifest = Manifest.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise refused(name, f"its manifest is wrong at `{where}` ({first['msg'].lower()})") from error
    reason = check_features(manifest.requires, header.entries) or check_together(
        {site: entry.shape for site, entry in header.entries.items()}, len(manifest.readout.labels)
    )
    if reason:
        raise refused(name, reason)
    return manifest


def write_manifest(manifest: Manifest, name: str) -> str:
    """Return a manifest as canonical text.

    Raises:
        PromptFileError: something in it is not JSON, or it is larger than a file may hold.
    """
    try:
        text = canonical(manifest.model_dump())
    except ValueError as error:
        raise refused(name, f"what it says of itself is not plain JSON ({error})") from error
    if len(text.encode()) > MAX_MANIFEST:
        raise refused(name, f"what it says of itself takes {len(text.encode()):,} bytes of at most {MAX_MANIFEST:,}")
    return text


def check_features(required: Sequence[str], sites: Sequence[str] | dict[str, Any]) -> str | None:
    """Return why these features cannot be met or do not cover the tensors at `sites`, or None."""
    unknown = sorted(set(required) - FEATURES)
    if unknown:
        names = ", ".join(f"`{feature}`" for feature in unknown)
        return f"it requires {names}, which this version of softprompt does not know; use a newer one"
    missing = sorted(features_of(sites) - set(required))
    if missing:
        return f"its tensors need the feature `{missing[0]}`, which it does not say it requires"
    return None


def name_of(value: JSON) -> str | None:
    """Return what an entry of the provenance is called: it is a name, or an object that has one.

    >>> name_of("tiny"), name_of({"name": "tiny"}), name_of({})
    ('tiny', 'tiny', None)
    """
    found = value.get("name") if isinstance(value, dict) else value
    return found if isinstance(found, str) else None


def _parse(text: str, name: str) -> dict[str, JSON]:
    size = len(text.encode("utf-8", "replace"))
    if size > MAX_MANIFEST:
        raise refused(name, f"its manifest has {size:,} bytes of at most {MAX_MANIFEST:,}")
    try:
        found = parse(text)
        canonical(found)  # what could not be written back is not read either
    except ValueError as error:
        raise refused(name, f"its manifest is not plain JSON ({error})") from error
    if not isinstance(found, dict):
        raise refused(name, "its manifest is not a JSON object")
    return found


def _check_versions(found: dict[str, JSON], name: str) -> None:
    """Asked before the schema, so that a file of another time is told from a damaged one."""
    if "format" not in found or type(found["format"]) is not int or found["format"] != FORMAT:
        raise refused(name, f"it is of format {found.get('format')!r}; this version of softprompt reads {FORMAT}")
    required = found.get("requires")
    if isinstance(required, list) and all(isinstance(item, str) for item in required):
        reason = check_features(required, [])
        if reason:
            raise refused(name, reason)
    if found.get("tokenization") != TOKENISATION:
        rule = found.get("tokenization")
        raise refused(name, f"its tokenisation rule is {rule!r}; this version of softprompt knows `{TOKENISATION}`")
