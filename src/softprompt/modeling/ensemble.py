"""Prompt ensembles: several prompts for one task answer a row in one batch, and their answers become one.

Lester et al. 2021, arXiv 2104.08691, section 5: prompts of one task, trained from other seeds, vote. Ours may also
take the mean of their calibrated probabilities, which uses more of what they say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from softprompt.errors import ConfigError
from softprompt.modeling.answers import Answer, LabelSet, NumberAnswer, label_set, one_label
from softprompt.modeling.prompted_model import PromptedModel, Row
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.registry import unknown_name
from softprompt.tasks.readout_kinds import Scalar

How = Literal["mean", "vote"]


def how_of(text: str) -> How:
    """Return how members become one answer.

    Raises:
        UnknownNameError: neither `mean` nor `vote`.

    >>> how_of("vote")
    'vote'
    """
    for known in get_args(How):
        if text == known:
            return known  # type: ignore[no-any-return]
    raise unknown_name("way to join an ensemble", text, get_args(How))


def check_members(prompts: Sequence[SoftPrompt]) -> None:
    """Refuse prompts whose answers cannot become one.

    Raises:
        ConfigError: fewer than two; other labels, bounds or fields; or answers that are text or tags.
    """
    if len(prompts) < 2:
        raise ConfigError(f"an ensemble of {len(prompts)} prompt was asked for; name at least two: a,b,c")
    first = prompts[0]
    for prompt in prompts:
        kind = prompt.readout.kind
        if kind in ("text", "token-tags"):
            what = "texts" if kind == "text" else "tags"
            raise ConfigError(
                f"the answers of an ensemble become one, which {what} cannot; run the prompts by themselves"
            )
        if _answers(prompt) != _answers(first):
            raise ConfigError(
                f"the members of an ensemble answer the same question, and these have {_shown(first)} and "
                f"{_shown(prompt)}; name prompts of one task"
            )
        if set(prompt.template.fields) != set(first.template.fields):
            raise ConfigError(
                f"the members of an ensemble read the same fields, and these have {_listed(first.template.fields)} "
                f"and {_listed(prompt.template.fields)}; name prompts of one task"
            )


def score_ensemble(
    model: PromptedModel,
    rows: Sequence[Row],
    prompts: Sequence[SoftPrompt],
    how: How = "mean",
    *,
    allow_other_weights: bool = False,
) -> list[Answer]:
    """Answer every row by all prompts, in the same batches, and return their joint answers.

    Args:
        model: the frozen backbone.
        rows: the columns of each row, N of them.
        prompts: the members: at least two, with the same labels and fields.
        how: `mean` of the probabilities, or `vote`.
        allow_other_weights: accept prompts trained on other weights of this architecture.

    Raises:
        ConfigError: prompts that cannot be joined.
        IncompatiblePromptError: a prompt was trained on another backbone.
        TemplateError: a row lacks a field.
    """
    check_members(prompts)
    width = len(prompts)
    views = [row for row in rows for _ in prompts]
    each = model.score(views, [*prompts] * len(rows), allow_other_weights=allow_other_weights)
    return [joined(each[at : at + width], how) for at in range(0, len(each), width)]


def joined(answers: Sequence[Answer], how: How = "mean") -> Answer:
    """Return the answer of an ensemble to one row.

    With `mean`, p(label) is the mean of the members' probabilities. With `vote`, it is the share of the members that
    answer it; of labels with as many votes the one with the higher mean wins. Numbers are averaged, whatever `how` is.

    Args:
        answers: one of each member, of the same kind.
        how: `mean` or `vote`.

    >>> sure, other = Answer("ham", 0.9, {"ham": 0.9, "spam": 0.1}), Answer("spam", 0.6, {"ham": 0.4, "spam": 0.6})
    >>> joined([sure, other, other]).label, joined([sure, other, other], "vote").label
    ('ham', 'spam')
    """
    first, cut = answers[0], max(answer.cut for answer in answers)
    if isinstance(first, NumberAnswer):
        number = sum(answer.number for answer in answers if isinstance(answer, NumberAnswer)) / len(answers)
        return NumberAnswer(f"{number:g}", None, {}, cut=cut, number=number)
    if isinstance(first, LabelSet):
        shares = _shares_of_sets(answers, how)
        return label_set(tuple(shares), list(shares.values()), cut)
    return one_label(_shares(answers, how), cut=cut)


def _means(answers: Sequence[Answer]) -> dict[str, float]:
    labels = answers[0].probabilities
    return {label: sum(answer.probabilities[label] for answer in answers) / len(answers) for label in labels}


def _shares(answers: Sequence[Answer], how: How) -> Mapping[str, float]:
    means = _means(answers)
    if how == "mean":
        return means
    votes = Counter(answer.label for answer in answers)
    ranked = sorted(means, key=lambda label: (-votes[label], -means[label]))  # the first of equals is the one taken
    return {label: votes[label] / len(answers) for label in ranked}


def _shares_of_sets(answers: Sequence[Answer], how: How) -> Mapping[str, float]:
    if how == "mean":
        return _means(answers)
    votes = Counter(label for answer in answers if isinstance(answer, LabelSet) for label in answer.labels)
    return {label: votes[label] / len(answers) for label in answers[0].probabilities}


def _answers(prompt: SoftPrompt) -> object:
    """What a prompt answers: its labels, or the bounds of its numbers."""
    readout = prompt.readout
    return (readout.low, readout.high) if isinstance(readout, Scalar) else (readout.kind, *sorted(readout.labels))


def _shown(prompt: SoftPrompt) -> str:
    readout = prompt.readout
    if isinstance(readout, Scalar):
        return f"numbers from {readout.low:g} to {readout.high:g}"
    shown = ", ".join(f"`{label}`" for label in readout.labels[:4])
    return shown + (", ..." if len(readout.labels) > 4 else "")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
