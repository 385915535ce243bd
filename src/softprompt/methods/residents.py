"""Several tasks of one method over one resident backbone: rows of all of them come mixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from softprompt.shapes import Float
from softprompt.tasks.task import Example

if TYPE_CHECKING:
    from torch import Tensor

    from softprompt.methods.method import Fitted, Predictor
    from softprompt.modeling.bound import BoundPrompt
    from softprompt.modeling.prompted_model import PromptedModel

SHIFT = 1e-4
"""By what share of a prompt's values its neighbours differ: other prompts, of the same cost."""


class Residents(Protocol):
    """Tasks that stand ready together.

    Attributes:
        notes: how rows of several tasks are answered, a sentence each.
    """

    notes: tuple[str, ...]

    def answer(self, tasks: Sequence[int], examples: Sequence[Example]) -> Float[np.ndarray, "B C"]:
        """Return each row's log-probabilities of the labels, in the order of the rows.

        Args:
            tasks: the number of each row's task.
            examples: the rows, B of them.
        """
        ...

    def switch(self, task: int) -> None:
        """Make the backbone ready for a row of this task."""
        ...


class Grouped:
    """Tasks that cannot share a pass: the rows of each are taken together, with a switch before them.

    Args:
        predictors: what answers the rows of each task once the backbone is switched to it.
        switches: makes the backbone ready for each task; None: nothing is to be done.
        notes: what a reader must know of it.
    """

    def __init__(
        self,
        predictors: Sequence[Predictor],
        switches: Sequence[Callable[[], None] | None],
        notes: Sequence[str] = (),
    ) -> None:
        self._predictors, self._switches = list(predictors), list(switches)
        self.notes = tuple(notes)

    def answer(self, tasks: Sequence[int], examples: Sequence[Example]) -> Float[np.ndarray, "B C"]:
        """Switch to each task once and answer its rows in one call."""
        places: list[int] = []
        found = []
        for task in sorted(set(tasks)):
            mine = [place for place, owner in enumerate(tasks) if owner == task]
            self.switch(task)
            found.append(self._predictors[task].log_probabilities([examples[place] for place in mine]))
            places += mine
        answers: np.ndarray = np.concatenate(found)[np.argsort(places)]
        return answers

    def switch(self, task: int) -> None:
        """Do what makes the backbone ready for this task."""
        switch = self._switches[task]
        if switch is not None:
            switch()


class MixedPrompts:
    """Prompts over one backbone whose rows share passes, each behind its own kept prefix, as in our engine.

    Args:
        model: the backbone with its kept prefixes.
        bound: the prompt, soft or `bare`; the other tasks have copies of it that differ a little in their values.
        count: tasks.
    """

    def __init__(self, model: PromptedModel, bound: BoundPrompt, count: int) -> None:
        self._model = model
        self._bounds = [_neighbour(bound, number) for number in range(count)]
        self.notes = (f"{count} prompts stay resident; rows of all of them share passes, and nothing is switched",)

    def answer(self, tasks: Sequence[int], examples: Sequence[Example]) -> Float[np.ndarray, "B C"]:
        """Answer rows in batches of like length, whatever their tasks."""
        from softprompt.modeling.flight import Flight
        from softprompt.modeling.layout import by_length

        model, bounds = self._model, [self._bounds[task] for task in tasks]
        rows = [model.encode(example.fields, bound) for example, bound in zip(examples, bounds, strict=True)]
        widths = [len(row.ids) + len(bound.template.prefix) for row, bound in zip(rows, bounds, strict=True)]
        found: list[Tensor | None] = [None] * len(rows)
        for part in by_length(widths, model.budget.rows, model.budget.tokens):
            own, prompts = [rows[i] for i in part], [bounds[i] for i in part]
            reads = model.begin(own, prompts, [None] * len(part), Flight(model.backbone))
            for i, read in zip(part, reads, strict=True):
                found[i] = read
        return np.stack([read.float().cpu().numpy() for read in found if read is not None])

    def switch(self, task: int) -> None:
        """Find the prompt; its keys and values are kept."""
        self._bounds[task]


class SharedFeatures:
    """Heads over the same features: rows of all tasks are run once, whatever head reads them.

    Args:
        features: what makes a vector of each row, [B, D].
        heads: what makes log-probabilities of vectors, one a task.
    """

    def __init__(
        self,
        features: Callable[[Sequence[Example]], Float[np.ndarray, "B D"]],
        heads: Sequence[Callable[[Float[np.ndarray, "B D"]], Float[np.ndarray, "B C"]]],
    ) -> None:
        self._features, self._heads = features, list(heads)
        self.notes = (f"rows of all {len(self._heads)} tasks are run once, and each is read by its task's head",)

    def answer(self, tasks: Sequence[int], examples: Sequence[Example]) -> Float[np.ndarray, "B C"]:
        """Make the features of all rows in one call and read each by its own head."""
        vectors, owners = self._features(examples), np.asarray(tasks)
        places = [np.flatnonzero(owners == task) for task in sorted(set(tasks))]
        found = [self._heads[task](vectors[mine]) for task, mine in zip(sorted(set(tasks)), places, strict=True)]
        answers: np.ndarray = np.concatenate(found)[np.argsort(np.concatenate(places))]
        return answers

    def switch(self, task: int) -> None:
        """Find the head."""
        self._heads[task]


def residents_of(fitted: Fitted, count: int) -> Residents:
    """Put tasks of a fitted method side by side, in the quickest way that the method offers.

    A predictor that can do better than to switch and take each task's rows together has a method `residents`, which
    takes the number of tasks.

    Args:
        fitted: the method, fitted to one task.
        count: tasks wanted; the others are like the one it was fitted to.
    """
    make = getattr(fitted.predictor, "residents", None)
    if make is not None:
        found: Residents = make(count)
        return found
    notes = [f"rows of {count} tasks come mixed; those of each task are taken together"]
    if fitted.switch is not None:
        notes.append(
            f"a switch of tasks puts {fitted.kept_bytes:,} bytes in place from memory; one set stands for all {count}, "
            "which are not held beside each other"
        )
    return Grouped([fitted.predictor] * count, [fitted.switch] * count, notes)


def _neighbour(bound: BoundPrompt, number: int) -> BoundPrompt:
    """A prompt of the same size with other values and a key of its own."""
    tensors = {site: tensor * (1 + SHIFT * number) for site, tensor in bound.tensors.items()}
    return replace(bound.with_tensors(tensors), key=f"{bound.key or 'prompt'} beside {number}")
