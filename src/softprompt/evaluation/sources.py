"""Where rivals get their numbers: a backbone's own pass, and the packaged sentence encoder."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from softprompt.backbones.encoder import SentenceEncoder
from softprompt.errors import UnsupportedBackboneError
from softprompt.evaluation.evaluate import find_answers
from softprompt.evaluation.references import Remembered
from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.modeling.rows import TagsReading
from softprompt.progress import Meter, meter
from softprompt.shapes import Float
from softprompt.tasks.readout import Readout
from softprompt.tasks.task import Example, Label
from softprompt.tasks.template import Template


@dataclass(frozen=True, eq=False)
class Passes:
    """A prompt that scores rows and describes them in one pass, each distinct row once.

    With `model.bare(template, readout)` these are zero-shot scores and the hidden states that a linear probe
    stands on; with the rows that training starts from, embedded text, it is that text as a hard prompt.

    Args:
        model: holds the backbone.
        bound: what stands in front of and around the fields.
        title: what the progress line calls it.
        unsaid: why words cannot be scored here, so that the passes are made for their states alone (`stateful`).
    """

    model: PromptedModel
    bound: BoundPrompt
    title: str = "zero-shot"
    unsaid: str = ""

    def score(self, examples: Sequence[Example]) -> Float[np.ndarray, "B C"]:
        """Return log-probabilities of the labels, not calibrated.

        Raises:
            UnsupportedBackboneError: words cannot be scored.
        """
        if self.unsaid:
            raise UnsupportedBackboneError(self.unsaid)
        return self._known(examples)[:, self.model.backbone.hidden_size :]

    def features(self, examples: Sequence[Example]) -> Float[np.ndarray, "B D"]:
        """Return the hidden state at the last position of each row."""
        return self._known(examples)[:, : self.model.backbone.hidden_size]

    @cached_property
    def _known(self) -> Remembered:
        return Remembered(self._run)

    def _run(self, examples: Sequence[Example]) -> Float[np.ndarray, "B _"]:
        with meter(self.title, len(examples)) as progress:
            scores = self.model.score_labels([row.fields for row in examples], self.bound, progress=progress)
        return np.concatenate([scores.hidden.cpu().numpy(), scores.log_probabilities.cpu().numpy()], axis=1)


@dataclass(frozen=True, eq=False)
class Answering:
    """A prompt that answers rows where an answer is not one label, each distinct row once; as `Passes` for labels.

    Args:
        model: holds the backbone.
        bound: what stands in front of and around the fields.
        readout: what the answers are.
        title: what the progress line calls it.
        unsaid: why words cannot be scored here, so that the passes are made for their states alone (`stateful`).
    """

    model: PromptedModel
    bound: BoundPrompt
    readout: Readout
    title: str = "zero-shot"
    unsaid: str = ""
    _known: dict[Hashable, tuple[Label, np.ndarray]] = field(default_factory=dict)

    def answers(self, examples: Sequence[Example]) -> list[Label]:
        """Return the answer to each row.

        Raises:
            UnsupportedBackboneError: words cannot be scored.
        """
        if self.unsaid:
            raise UnsupportedBackboneError(self.unsaid)
        self._run(examples)
        return [self._known[example.key][0] for example in examples]

    def features(self, examples: Sequence[Example]) -> Float[np.ndarray, "B D"]:
        """Return the hidden state at the last position of each row; of rows that are read, not written behind."""
        self._run(examples)
        return np.stack([self._known[example.key][1] for example in examples])

    def words(self, examples: Sequence[Example]) -> list[np.ndarray]:
        """Return the hidden states at the words of each row, [words, D], of rows whose words are tagged."""
        bound = replace(self.bound, reading=_WordStates(torch.zeros(1, 1), torch.zeros(1), lambda example: ()))
        with meter("states of words", len(examples)) as progress:
            read = self.model.read([row.fields for row in examples], bound, progress=progress)
        return [states.cpu().numpy() for states in read.log_probabilities]

    def _run(self, examples: Sequence[Example]) -> None:
        new = list({example.key: example for example in examples if example.key not in self._known}.values())
        if not new:
            return
        with meter(self.title, len(new)) as progress:
            found = find_answers(self.model, self.bound, self.readout, new, 1.0, progress)
        hidden = found.hidden or [np.zeros(0)] * len(new)
        for example, answer, state in zip(new, found.answers, hidden, strict=True):
            self._known[example.key] = (answer, state)


def stateful(model: PromptedModel, template: Template, readout: Readout) -> BoundPrompt:
    """Return the template with no virtual tokens, read by rows that say nothing: for passes that only want states.

    It can be had where no words can be scored: on a backbone without a head for them, or without a mask in the row.
    """
    backbone, outputs = model.backbone, readout.outputs
    nothing = {
        "input": torch.zeros(0, backbone.embedding_size),
        "readout.weight": torch.zeros(outputs, backbone.hidden_size),
        "readout.bias": torch.zeros(outputs),
    }
    return BoundPrompt.make(backbone, nothing, template, readout)


class _WordStates(TagsReading):
    """In place of the log-probabilities of tags, the states that they are read from."""

    def _read(self, states: Tensor) -> Tensor:
        return states.float()


@runtime_checkable
class TextEncoder(Protocol):
    """What turns texts into vectors; `SentenceEncoder` is one."""

    def embed(self, texts: Sequence[str], *, progress: Meter | None = None) -> Float[np.ndarray, "B D"]:
        """Return the vector of each text."""


@dataclass(frozen=True, eq=False)
class SentenceFeatures:
    """Features from a sentence encoder; with two fields, u and v become [u, v, |u - v|, u * v].

    That is how sentence pairs are put before a linear model (InferSent, Conneau et al. 2017, arXiv 1705.02364).
    More than two fields are joined, one a line.

    Args:
        fields: the columns that the template shows, in its order; at least one.
        encoder: None: the packaged one, loaded when it is first needed.

    Raises:
        MissingExtraError: on the first call, where the packaged encoder is not installed.
    """

    fields: tuple[str, ...]
    encoder: TextEncoder | None = None

    def __call__(self, examples: Sequence[Example]) -> Float[np.ndarray, "B D"]:
        """Return the features of each row."""
        return self._remembered(examples)

    @cached_property
    def _loaded(self) -> TextEncoder:
        return self.encoder or SentenceEncoder.packaged()

    @cached_property
    def _remembered(self) -> Remembered:
        return Remembered(self._features)

    def _features(self, examples: Sequence[Example]) -> Float[np.ndarray, "B D"]:
        if len(self.fields) != 2:
            return self._embed(["\n".join(row.fields[name] for name in self.fields) for row in examples])
        both = self._embed([row.fields[name] for name in self.fields for row in examples])
        first, second = np.split(both, 2)
        return np.concatenate([first, second, np.abs(first - second), first * second], axis=1)

    def _embed(self, texts: list[str]) -> Float[np.ndarray, "B D"]:
        distinct = list(dict.fromkeys(texts))
        encoder = self._loaded
        with meter("sentence embeddings", len(distinct)) as progress:
            vectors = encoder.embed(distinct, progress=progress)
        position = {text: i for i, text in enumerate(distinct)}
        return vectors[[position[text] for text in texts]]
