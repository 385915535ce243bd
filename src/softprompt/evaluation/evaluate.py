"""`evaluate`: answer labelled rows with a soft prompt, whatever its kind of answer, and keep what figures need."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from softprompt.errors import BackboneError
from softprompt.evaluation.answer_evaluation import AnswerEvaluation, Judged
from softprompt.evaluation.evaluation import Evaluation, gold_indices, refuse_empty
from softprompt.modeling.answers import answer, text_answer
from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.prompted_model import PromptedModel, Scores
from softprompt.modeling.readings import read_again
from softprompt.progress import Meter, meter
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.free_text import Text
from softprompt.tasks.kinds import kind_of
from softprompt.tasks.readout import LabelWords, Readout
from softprompt.tasks.tags import TokenTags
from softprompt.tasks.task import Example, Label

__all__ = ["AnswerEvaluation", "Evaluation", "Found", "Judged", "evaluate", "evaluate_alone_too", "find_answers"]


def evaluate(
    model: PromptedModel,
    prompt: SoftPrompt,
    examples: Sequence[Example],
    *,
    overlap: Iterable[int] = (),
    allow_other_weights: bool = False,
) -> Judged:
    """Answer labelled rows with a prompt and keep what is needed for every figure.

    Args:
        model: where the prompt meets its backbone.
        prompt: the soft prompt, with its calibration temperature and abstain threshold.
        examples: B labelled rows.
        overlap: which of them, in [0, B), also stand in train (`Task.overlap`).
        allow_other_weights: accept a prompt trained on other weights of this architecture.

    Returns:
        An `Evaluation` where an answer is one label, else an `AnswerEvaluation`.

    Raises:
        DataError: no row, a row without a label, or with one that the prompt does not know.
        BackboneError: a score is not finite.
        IncompatiblePromptError: the prompt was trained on another backbone.
    """
    refuse_empty(examples)
    started = time.perf_counter()
    bound = model.bind(prompt, allow_other_weights=allow_other_weights)
    if isinstance(prompt.readout, LabelWords):
        scores = _scored(model, prompt, bound, examples)
        return _of_labels(prompt, examples, scores, scores.log_probabilities, overlap, time.perf_counter() - started)
    with meter("evaluating", len(examples)) as progress:
        found = find_answers(model, bound, prompt.readout, examples, prompt.temperature, progress)
    kind = kind_of(prompt.readout, prompt.template)
    about: dict[str, Any] = {"digest": prompt.digest, "overlap": tuple(sorted(overlap))}
    about |= {"truncated": sum(each > 0 for each in found.cut), "seconds": time.perf_counter() - started}
    return AnswerEvaluation.of(kind, examples, found.answers, scores=found.scores, **about)


def evaluate_alone_too(
    model: PromptedModel, prompt: SoftPrompt, examples: Sequence[Example], *, overlap: Iterable[int] = ()
) -> tuple[Judged, Judged]:
    """Evaluate a prompt with its learned rows, and its virtual tokens alone, read by words.

    Where an answer is one label and words need no more than the state at a row's end, both come of the same pass.

    Args:
        model: where the prompt meets its backbone.
        prompt: a soft prompt that has learned rows.
        examples: B labelled rows.
        overlap: which of them, in [0, B), also stand in train.

    Raises:
        DataError, BackboneError, IncompatiblePromptError: as for `evaluate`.
        UnsupportedBackboneError, TemplateError: words cannot be scored on this backbone.
    """
    refuse_empty(examples)
    bare = prompt.alone()
    reading = model.bind(bare).reading
    if not isinstance(prompt.readout, LabelWords) or reading.depth:
        return evaluate(model, prompt, examples, overlap=overlap), evaluate(model, bare, examples)
    started = time.perf_counter()
    scores = _scored(model, prompt, model.bind(prompt), examples)
    seconds = time.perf_counter() - started
    words = read_again(reading, scores.hidden, model.backbone.dtype)
    assert words is not None, "a reading of depth 0 reads the states that there are"
    return (
        _of_labels(prompt, examples, scores, scores.log_probabilities, overlap, seconds),
        _of_labels(bare, examples, scores, words, (), seconds),
    )


def _scored(model: PromptedModel, prompt: SoftPrompt, bound: BoundPrompt, examples: Sequence[Example]) -> Scores:
    gold_indices(examples, prompt.readout.labels)  # a label that is not known is refused before the long pass
    with meter("evaluating", len(examples)) as progress:
        return model.score_labels([row.fields for row in examples], bound, progress=progress)


def _of_labels(
    prompt: SoftPrompt,
    examples: Sequence[Example],
    scores: Scores,
    log_probabilities: Tensor,
    overlap: Iterable[int],
    seconds: float,
) -> Evaluation:
    return Evaluation(
        labels=prompt.readout.labels,
        gold=gold_indices(examples, prompt.readout.labels),
        log_probabilities=np.asarray(log_probabilities.cpu(), dtype=np.float64),
        temperature=prompt.temperature,
        abstain=prompt.abstain,
        truncated=sum(cut > 0 for cut in scores.cut),
        seconds=seconds,
        digest=prompt.digest,
        overlap=tuple(sorted(overlap)),
    )


class Found(NamedTuple):
    """What a prompt answers to B rows, where an answer is not one label.

    Attributes:
        answers: each of the type that `Example.label` has.
        cut: tokens that were removed from each row to make it fit.
        scores: what was read behind each row, before calibration; nothing behind texts, which are written.
        hidden: the state at the end of each row, [D]; none for texts.
    """

    answers: list[Label]
    cut: Sequence[int]
    scores: list[np.ndarray]
    hidden: list[np.ndarray]


def find_answers(
    model: PromptedModel,
    bound: BoundPrompt,
    readout: Readout,
    examples: Sequence[Example],
    temperature: float,
    progress: Meter,
) -> Found:
    """Return what a bound prompt, such as `model.bare(...)`, answers to rows where an answer is not one label.

    Args:
        model: the frozen backbone.
        bound: the prompt.
        readout: what its answers are.
        examples: the rows.
        temperature: that scores are divided by.
        progress: advanced by the number of rows done.

    Raises:
        BackboneError: a score is not finite.
    """
    rows = [example.fields for example in examples]
    if isinstance(readout, Text):
        cut = [model.encode(row, bound).cut for row in rows]
        texts = model.write(rows, bound, progress=progress)
        return Found([text_answer(text, 0).value for text in texts], cut, [], [])
    read = model.read(rows, bound, progress=progress)
    column = readout.column if isinstance(readout, TokenTags) else ""
    answers = [
        answer(readout, temperature, logp, 0, row.get(column, "")).value
        for logp, row in zip(read.log_probabilities, rows, strict=True)
    ]
    scores = [_finite(logp, row) for row, logp in enumerate(read.log_probabilities, start=1)]
    return Found(answers, read.cut, scores, [state.cpu().numpy() for state in read.hidden])


def _finite(log_probabilities: Tensor, row: int) -> np.ndarray:
    scores = np.asarray(log_probabilities.cpu(), dtype=np.float64)
    if not np.isfinite(scores).all():
        raise BackboneError(
            f"row {row} scored NaN or infinity; check the prompt for values that are not finite, or load with dtype "
            "float32"
        )
    return scores
