"""`evaluate`: score labelled rows with a soft prompt."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import numpy as np

from softprompt.evaluation.evaluation import Evaluation, gold_indices, refuse_empty
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.progress import meter
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.task import Example

__all__ = ["Evaluation", "evaluate"]


def evaluate(
    model: PromptedModel,
    prompt: SoftPrompt,
    examples: Sequence[Example],
    *,
    overlap: Iterable[int] = (),
    allow_other_weights: bool = False,
) -> Evaluation:
    """Score labelled rows with a prompt and keep what is needed for every figure.

    Args:
        model: where the prompt meets its backbone.
        prompt: the soft prompt, with its calibration temperature and abstain threshold.
        examples: B labelled rows.
        overlap: which of them, in [0, B), also stand in train (`Task.overlap`).
        allow_other_weights: accept a prompt trained on other weights of this architecture.

    Raises:
        DataError: no row, a row without a label, or with one that the prompt does not know.
        BackboneError: a score is not finite.
        IncompatiblePromptError: the prompt was trained on another backbone.
    """
    refuse_empty(examples)
    labels = prompt.readout.labels
    gold = gold_indices(examples, labels)
    started = time.perf_counter()
    bound = model.bind(prompt, allow_other_weights=allow_other_weights)
    with meter("evaluating", len(examples)) as progress:
        scores = model.score_labels([row.fields for row in examples], bound, progress=progress)
    return Evaluation(
        labels=labels,
        gold=gold,
        log_probabilities=np.asarray(scores.log_probabilities.cpu(), dtype=np.float64),
        temperature=prompt.temperature,
        abstain=prompt.abstain,
        digest=prompt.digest,
        overlap=tuple(sorted(overlap)),
        truncated=sum(cut > 0 for cut in scores.cut),
        seconds=time.perf_counter() - started,
    )
