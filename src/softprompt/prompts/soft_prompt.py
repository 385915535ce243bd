"""What is kept of a training: a few virtual tokens, and all that is needed to use them right."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from softprompt.backbones.fingerprint import Fingerprint
from softprompt.durable import write_bytes
from softprompt.errors import IncompatiblePromptError, SoftPromptError
from softprompt.prompts import sites
from softprompt.prompts.canonical import JSON, canonical, parse
from softprompt.prompts.file import check_finite, decode, dtype_name, encode
from softprompt.prompts.header import read_bytes, refused
from softprompt.prompts.manifest import Manifest, check_features, name_of
from softprompt.tasks.chat import template_from_json
from softprompt.tasks.kinds import features_of
from softprompt.tasks.readout import Readout, readout_from_json
from softprompt.tasks.template import Template

_WHAT = {
    "architecture": "another architecture",
    "tokenizer": "another tokenizer",
    "embedding_scale": "another convention for the scale of embedded tokens",
    "weights": "other weights of the same architecture",
}


@dataclass(frozen=True, eq=False)
class SoftPrompt:
    """One trained prompt, an immutable value with one sequence of bytes and so one digest.

    Prompt tuning: Lester et al. 2021, arXiv 2104.08691; keys and values per layer: Li & Liang 2021, arXiv 2101.00190.

    Args:
        tensors: the numbers by site, for instance `{"input": rows}` with rows [P, D]; copied to the CPU.
        template: the pattern of a row.
        readout: what reads answers out of the model.
        fingerprint: the backbone it was trained on.
        temperature: above 0; log-probabilities are divided by it.
        abstain: 0 to 1; an answer less probable than this is an abstention. `None`: never.
        provenance: how it came about, as plain JSON; no time, host or path, so that equal trainings are equal bytes.
        requires: features without which the prompt means something else; those of its tensors are added.
        extra: optional keys of a file that this version does not know, kept as they are.
        decoding: defaults for generated text, as plain JSON.

    Raises:
        PromptFileError: a shape, a dtype or a value that no prompt can have.

    >>> import torch
    >>> from softprompt.tasks.readout import LabelWords
    >>> words = LabelWords.from_labels(["ham", "spam"])
    >>> backbone = Fingerprint("a", "b", "c", "module")
    >>> prompt = SoftPrompt({"input": torch.zeros(20, 640)}, Template("{bos}{soft}{text}"), words, backbone)
    >>> prompt.length, SoftPrompt.from_bytes(prompt.to_bytes()).digest == prompt.digest
    (20, True)
    """

    tensors: Mapping[str, Tensor]
    template: Template
    readout: Readout
    fingerprint: Fingerprint
    temperature: float = 1.0
    abstain: float | None = None
    provenance: Mapping[str, JSON] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    extra: Mapping[str, JSON] = field(default_factory=dict)
    decoding: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        own = {site: self.tensors[site].detach().to("cpu", copy=True).contiguous() for site in sorted(self.tensors)}
        needed = sites.features_of(own) | features_of(self.readout, self.template) | set(self.requires)
        object.__setattr__(self, "tensors", MappingProxyType(own))
        object.__setattr__(self, "requires", tuple(sorted(needed)))
        for name in ("provenance", "extra", "decoding"):
            object.__setattr__(self, name, _plain(name, getattr(self, name)))
        self._check()

    @property
    def length(self) -> int:
        """P, the number of virtual tokens."""
        return sites.length(self._shapes)

    @cached_property
    def digest(self) -> str:
        """The sha256 of `to_bytes()`, in hex: the prompt's name wherever it goes."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def has_rows(self) -> bool:
        """Whether it has a light head: learned rows, by which its answers are read."""
        return "readout.weight" in self.tensors

    def alone(self) -> SoftPrompt:
        """Return the same virtual tokens without the learned rows, read by the words of the answers instead.

        The temperature was fitted to the rows, so it is 1 here.
        """
        kept = {site: tensor for site, tensor in self.tensors.items() if not site.startswith("readout.")}
        requires = tuple(feature for feature in self.requires if feature != "learned-rows")
        return replace(self, tensors=kept, requires=requires, temperature=1.0, abstain=None)

    def to_bytes(self) -> bytes:
        """Return the prompt as the bytes of its file, the same in every process."""
        return encode(self.tensors, self._manifest())

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "prompt") -> SoftPrompt:
        """Read a prompt from the bytes of its file, every rule of the format checked first.

        Args:
            data: the bytes.
            name: what to call them in an error.

        Raises:
            PromptFileError: corrupt, truncated, oversized, not finite or not understood.
        """
        tensors, manifest = decode(data, name)
        try:
            return cls(
                tensors=tensors,
                template=template_from_json(manifest.template.model_dump()),
                readout=readout_from_json(manifest.readout.model_dump()),
                fingerprint=Fingerprint.from_json(manifest.fingerprint.model_dump()),
                temperature=manifest.temperature,
                abstain=manifest.abstain,
                provenance=manifest.provenance,
                requires=tuple(manifest.requires),
                extra=manifest.extra,
                decoding=manifest.decoding,
            )
        except SoftPromptError as error:
            raise refused(name, str(error)) from error

    def to_json(self) -> dict[str, JSON]:
        """Return everything but the numbers as plain JSON, as the file holds it."""
        found: dict[str, JSON] = self._manifest().model_dump()
        return found

    def save(self, path: str | Path) -> None:
        """Write the prompt at `path`, whole or not at all; an earlier file there is replaced.

        Raises:
            StorageError: the disk is full, or the folder may not be written.
        """
        write_bytes(Path(path), self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> SoftPrompt:
        """Read the prompt at `path`; any file name will do.

        Raises:
            PromptFileError: no such file, or it breaks a rule of the format; the message says which.
            StorageError: it may not be read.
        """
        return cls.from_bytes(read_bytes(Path(path)), Path(path).name)

    def check(
        self, given: Fingerprint, allow_other_weights: bool = False, *, name: str = "", features: Collection[str] = ()
    ) -> str | None:
        """Ask whether the prompt may be used with a backbone.

        Args:
            given: the fingerprint of that backbone.
            allow_other_weights: accept other weights of the same architecture, a quantised copy for instance.
            name: what to call that backbone in a message.
            features: what the caller computes beyond rows at the input; a prompt that needs more is refused.

        Returns:
            A sentence to say when other weights were allowed, else None.

        Raises:
            IncompatiblePromptError: another architecture, tokenizer or embedding scale; other weights, unless
                allowed; or a feature that the caller does not compute.
        """
        missing = sorted(set(self.requires) - set(features))
        if missing:
            raise IncompatiblePromptError(
                f"the prompt needs `{missing[0]}`, which this use of it does not compute; "
                "train one without, or use a newer version of softprompt"
            )
        difference = self.fingerprint.differs(given)
        if difference is None:
            return None
        story = self._difference(difference, given, name)
        if difference == "weights" and allow_other_weights:
            return f"{story}: allowed as asked, but measure it again, for its numbers were taken on the former"
        raise IncompatiblePromptError(f"{story}; {_advice(difference)}")

    def _difference(self, difference: str, given: Fingerprint, name: str) -> str:
        """Name both backbones, and the first characters of what differs."""
        trained, found = getattr(self.fingerprint, difference), getattr(given, difference)
        backbone = name_of(self.provenance.get("backbone"))
        was = f"`{backbone}` " if backbone else "the backbone "
        now = f"`{name}` " if name else "the one "
        marks = f"({difference} {trained[:12]})", f"({difference} {found[:12]})"
        return f"the prompt was trained on {was}{marks[0]} and is used with {now}{marks[1]}, {_WHAT[difference]}"

    @property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {site: tuple(tensor.shape) for site, tensor in self.tensors.items()}

    def _check(self) -> None:
        """Refuse here, where it is made, whatever `from_bytes` would refuse later."""
        for site, shape in self._shapes.items():
            reason = sites.check_site(site, shape)
            if reason:
                raise refused("prompt", reason)
            dtype_name(site, self.tensors[site], "prompt")
            check_finite(site, self.tensors[site], "prompt")
        reason = check_features(self.requires, self._shapes) or sites.check_together(self._shapes, self.readout.outputs)
        if reason:
            raise refused("prompt", reason)
        self._manifest()

    def _manifest(self) -> Manifest:
        known: dict[str, Any] = {
            "format": 1,
            "requires": [*self.requires],
            "template": self.template.to_json(),
            "readout": self.readout.to_json(),
            "decoding": dict(self.decoding),
            "temperature": float(self.temperature),
            "abstain": None if self.abstain is None else float(self.abstain),
            "fingerprint": self.fingerprint.to_json(),
            "provenance": dict(self.provenance),
        }
        clash = sorted(set(self.extra) & {*known, "tokenization"})
        if clash:
            raise refused("prompt", f"`extra` holds `{clash[0]}`, which is a key of its own")
        try:
            return Manifest.model_validate({**self.extra, **known})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise refused("prompt", f"`{where}` is {first['input']!r} ({first['msg'].lower()})") from error


def _plain(name: str, value: Mapping[str, JSON]) -> Mapping[str, JSON]:
    """Return a read-only copy that equals what a file would give back."""
    try:
        return MappingProxyType(parse(canonical(dict(value))))
    except ValueError as error:
        raise refused("prompt", f"its {name} is not plain JSON ({error})") from error


def _advice(difference: str) -> str:
    if difference == "weights":
        return "use that one, or allow other weights: `allow_other_weights=True` or `--allow-other-weights`"
    return "use the one it was trained on, or train the prompt again on this one"
