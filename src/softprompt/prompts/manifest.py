"""The JSON inside a prompt file: what it must say, and what may be there without being understood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError
from pydantic_core import ErrorDetails

from softprompt.errors import TemplateError
from softprompt.prompts.canonical import JSON, canonical, parse
from softprompt.prompts.header import Header, refused
from softprompt.prompts.sites import FEATURES, check_together, features_of
from softprompt.tasks.template import SLOT_FEATURES, TOKENISATION, slots_required

FORMAT = 1
MAX_MANIFEST = 512 * 2**10


class _Closed(BaseModel):
    """A part whose keys are all known: a later version's addition is a feature or a key beside it."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class TemplateJson(_Closed):
    """`Template.to_json()`."""

    pattern: str
    max_tokens: int | None = None


class ChatTemplateJson(_Closed):
    """`ChatTemplate.to_json()`."""

    kind: Literal["chat"]
    max_tokens: int | None = None
    system: str | None = None
    own_system: bool = False


class LabelWordsJson(_Closed):
    """`LabelWords.to_json()`."""

    kind: Literal["label-words"]
    labels: list[str]
    words: list[str]
    scoring: str = "trie"

    @property
    def outputs(self) -> int:
        """How many rows a learned head has."""
        return len(self.labels)


class YesNoJson(_Closed):
    """`YesNo.to_json()`."""

    kind: Literal["yes-no"]
    labels: list[str]
    words: list[str]
    yes: str
    no: str

    @property
    def outputs(self) -> int:
        """A row for each label."""
        return len(self.labels)


class ScalarJson(_Closed):
    """`Scalar.to_json()`."""

    kind: Literal["scalar"]
    low: float
    high: float
    words: Annotated[list[str], Field(min_length=2, max_length=2)]

    @property
    def labels(self) -> list[str]:
        """None: the answer is a number."""
        return []

    @property
    def outputs(self) -> int:
        """A row for each of the two words."""
        return 2


class TextJson(_Closed):
    """`Text.to_json()`."""

    kind: Literal["text"]
    max_new_tokens: int
    stop: list[str]
    lead: str

    @property
    def labels(self) -> list[str]:
        """None: the answer is text."""
        return []

    @property
    def outputs(self) -> int:
        """None: there is no learned head over a vocabulary."""
        return 0


class TokenTagsJson(_Closed):
    """`TokenTags.to_json()`."""

    kind: Literal["token-tags"]
    tags: list[str]
    words: list[str]
    column: str

    @property
    def labels(self) -> list[str]:
        """The tags."""
        return self.tags

    @property
    def outputs(self) -> int:
        """A row for each tag."""
        return len(self.tags)


def _written(data: Any) -> str:
    """Tell a conversation's template from a pattern: the one says its kind, the other never did."""
    return "chat" if (isinstance(data, dict) and "kind" in data) or isinstance(data, ChatTemplateJson) else "pattern"


AnyTemplateJson = Annotated[
    Annotated[TemplateJson, Tag("pattern")] | Annotated[ChatTemplateJson, Tag("chat")], Discriminator(_written)
]
ReadoutJson = Annotated[LabelWordsJson | YesNoJson | ScalarJson | TextJson | TokenTagsJson, Field(discriminator="kind")]
WRITTEN_FEATURES = SLOT_FEATURES | {"chat", "scalar", "text", "token-tags", "yes-no"}
"""Features of templates and readouts that came after label words; a file with such a one requires it by name."""


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
    template: AnyTemplateJson
    tokenization: str = TOKENISATION
    readout: ReadoutJson
    decoding: dict[str, Any] = Field(default_factory=dict)
    temperature: Annotated[float, Field(gt=0)] = 1.0
    abstain: Annotated[float, Field(ge=0, le=1)] | None = None
    fingerprint: FingerprintJson
    provenance: dict[str, Any] = Field(default_factory=dict)

    @property
    def features(self) -> frozenset[str]:
        """The features that template and readout call for, as their tensors do for theirs."""
        written = frozenset({"chat"})
        if isinstance(self.template, TemplateJson):
            try:
                written = slots_required(self.template.pattern)
            except TemplateError:  # said where the template is made
                written = frozenset()
        return WRITTEN_FEATURES & {*written, self.readout.kind}

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
        raise refused(name, f"its manifest is wrong at `{_place(first)}` ({first['msg'].lower()})") from error
    reason = (
        check_features(manifest.requires, header.entries)
        or _missing(manifest)
        or check_together({site: entry.shape for site, entry in header.entries.items()}, manifest.readout.outputs)
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
    unknown = sorted(set(required) - FEATURES - WRITTEN_FEATURES)
    if unknown:
        names = ", ".join(f"`{feature}`" for feature in unknown)
        return f"it requires {names}, which this version of softprompt does not know; use a newer one"
    missing = sorted(features_of(sites) - set(required))
    if missing:
        return f"its tensors need the feature `{missing[0]}`, which it does not say it requires"
    return None


def _missing(manifest: Manifest) -> str | None:
    missing = sorted(manifest.features - set(manifest.requires))
    return f"it needs the feature `{missing[0]}`, which it does not say it requires" if missing else None


def _place(error: ErrorDetails) -> str:
    """Name where a manifest is wrong as its keys do: without the tags by which pydantic tells unions apart."""
    parts = [str(part) for part in error["loc"]]
    if len(parts) > 1 and parts[0] in ("template", "readout"):
        del parts[1]
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        parts.append("kind")
    return ".".join(parts) or "the whole"


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
