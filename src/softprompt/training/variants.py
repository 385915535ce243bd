"""Other readings of what was trained, for the report card: the prompt without its learned rows, and an ensemble."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from softprompt.errors import DataError, TemplateError, UnsupportedBackboneError
from softprompt.evaluation.answer_evaluation import AnswerEvaluation, Judged, pooled
from softprompt.evaluation.evaluate import evaluate, evaluate_alone_too
from softprompt.evaluation.evaluation import Evaluation, gold_indices
from softprompt.evaluation.figures import Measure, Variant
from softprompt.evaluation.sections import ALONE
from softprompt.evaluation.tables import amount
from softprompt.modeling.answers import Answer
from softprompt.modeling.ensemble import joined
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.task import Example, Task

_LEAST = 1e-12
"""A probability below this is taken for it, so that its logarithm is finite."""


def judged(
    model: PromptedModel, prompt: SoftPrompt, test: Sequence[Example], overlap: Sequence[int] = ()
) -> tuple[Judged, Judged | str | None]:
    """Answer rows with a prompt, and with its virtual tokens alone where it has learned rows.

    Returns:
        The answers; and those of the virtual tokens alone, or why there are none, where words cannot be scored, or
        `None`, where the prompt has no rows.
    """
    if not prompt.has_rows:
        return evaluate(model, prompt, test, overlap=overlap), None
    try:
        model.bind(prompt.alone())
    except (UnsupportedBackboneError, TemplateError, DataError) as error:
        return evaluate(model, prompt, test, overlap=overlap), str(error)
    return evaluate_alone_too(model, prompt, test, overlap=overlap)


def alone(found: Sequence[Judged | str | None], seed: int) -> tuple[Variant, ...]:
    """Return the line of the prompt without its rows, from one evaluation or from those of all folds."""
    reason = next((each for each in found if isinstance(each, str)), None)
    if reason is not None:
        return (Variant(name=ALONE, note=f"not run: {reason}"),)
    scored = [each for each in found if isinstance(each, Evaluation | AnswerEvaluation)]
    if not scored or len(scored) < len(found):
        return ()
    whole = pooled(scored) if len(scored) > 1 else scored[0]
    return (Variant(name=ALONE, figures=whole.figures(seed=seed), note="the same virtual tokens, read by words"),)


def ensemble(
    model: PromptedModel, task: Task, prompts: Sequence[SoftPrompt], test: Sequence[Example], seed: int
) -> Variant:
    """Return the line of an ensemble on rows that no member has seen, its members' own figures in the note.

    All members answer every row in the same batches; their probabilities (of numbers: the numbers) are averaged.

    Args:
        model: the frozen backbone.
        task: what they were trained on.
        prompts: the members, at least two.
        test: the rows of the report.
        seed: of the resampling.
    """
    width = len(prompts)
    views = [row.fields for row in test for _ in prompts]
    answers = model.score(views, [*prompts] * len(test))
    each = [_headline(_judged(task, test, answers[member::width]), seed) for member in range(width)]
    together = _judged(task, test, [joined(answers[at : at + width]) for at in range(0, len(answers), width)])
    values = [head.value for head in each]
    form = each[0].form
    shown = ", ".join(amount(value, form) for value in values)
    best = (max if each[0].higher else min)(values)
    name = f"{each[0].name} %" if form == "percent" else each[0].name
    return Variant(
        name=f"ensemble of {width}",
        figures=together.figures(seed=seed),
        note=f"mean of its members' answers; alone they have {name} {shown}: on average "
        f"{amount(sum(values) / width, form)}, the best, chosen on these very rows, {amount(best, form)}",
    )


def unmeasured(count: int) -> Variant:
    """Return the line of an ensemble whose members have all seen the rows of a cross-fitted report."""
    return Variant(
        name=f"ensemble of {count}",
        note="not measured: its members learned from all rows, and there are none that they have not seen",
    )


def _judged(task: Task, test: Sequence[Example], answers: Sequence[Answer]) -> Judged:
    """Answers as an evaluation."""
    if not isinstance(task.readout, LabelWords):
        return AnswerEvaluation.of(task.kind, test, [answer.value for answer in answers])
    labels = task.readout.labels
    shares = np.asarray([[answer.probabilities[label] for label in labels] for answer in answers], dtype=np.float64)
    return Evaluation(labels, gold_indices(test, labels), np.log(np.maximum(shares, _LEAST)))


def _headline(judged: Judged, seed: int) -> Measure:
    """What is reported first."""
    if isinstance(judged, AnswerEvaluation):
        return judged.figures(seed=seed).headline
    figures = judged.figures(seed=seed)
    return Measure(name="accuracy", value=figures.accuracy, interval=figures.accuracy_interval)
