"""What is worth trying: the default first, then the settings that make or break a prompt, where they are left open.

The rate is not raced: in the first steps a higher one looks better whether or not it ends better (on SST-2 2.5 times
the default won the race and lost almost two points). The one relative rate suits all; `softprompt sweep` varies it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from softprompt.backbones.backbone import Backbone
from softprompt.errors import ConfigError
from softprompt.modeling.reader import words_refused
from softprompt.tasks.readout import LabelWords, Readout
from softprompt.tasks.task import Example
from softprompt.tasks.template import Template
from softprompt.training.batches import sample
from softprompt.training.config import STEPS, TrainConfig
from softprompt.training.lesson import LAYERED

EPOCHS = 40
"""Times that a small set is seen at most; more only learns it by heart."""
LEAST_STEPS = 40
_MEASURED = 200
"""Rows whose tokens say how many of them a batch by tokens holds."""
EXTENSIONS = 2
"""Times that a run may go on while it still improves: a run that needs it ends after seven times its first length."""


def settled(
    config: TrainConfig, template: Template, readout: Readout, backbone: Backbone, rows: Sequence[Example]
) -> TrainConfig:
    """Return the settings with everything decided that was left open: the default candidate.

    Keys and values in every layer with learned rows where the template and the backbone can carry them; else rows at
    the input, as for encoder-decoders. `exportable` asks for what PEFT and vLLM can carry.

    Args:
        config: the settings as asked for.
        template: of the task.
        readout: of the task.
        backbone: the frozen transformer.
        rows: rows to learn from.

    Raises:
        ConfigError: settings that contradict each other, or that answers of this kind have no use for.
    """
    _refuse_contradictions(config)
    _refuse_unused(config, readout)
    kind = config.parameterization or ("deep" if _can_be_deep(config, template, backbone) else "direct")
    learned = config.learned_rows
    if learned is None:
        full = isinstance(readout, LabelWords) and readout.scoring == "full"
        learned = readout.outputs > 0 and not config.exportable and not full
    return config.model_copy(
        update={
            "parameterization": kind,
            "learned_rows": learned,
            "init": config.init or "text",
            "learning_rate": config.rate,
            "extend": _extensions(config),
            "steps": config.steps or _steps(config, template, readout, backbone, rows),
        }
    )


def _refuse_contradictions(config: TrainConfig) -> None:
    if config.exportable and (config.parameterization in LAYERED or config.learned_rows):
        what = f"parameterization={config.parameterization}" if config.parameterization in LAYERED else "learned_rows"
        raise ConfigError(
            f"exportable and {what} were both asked for: PEFT and vLLM carry rows at the input and nothing else; leave "
            "one of them out"
        )
    if config.budget is not None and config.extend:
        raise ConfigError(
            f"the budget is `{config.budget}` and extend is {config.extend}: a run that goes on would leave its "
            "budget; leave one of them out"
        )


def _refuse_unused(config: TrainConfig, readout: Readout) -> None:
    if config.learned_rows and not readout.outputs:
        raise ConfigError(
            f"learned_rows was asked for, and the answers are {readout.kind}: learned rows stand for labels, tags or "
            "the two ends of a scale; leave it out"
        )
    for name, asked in (("select", "macro-f1"), ("class_weights", "balanced")):
        if getattr(config, name) == asked and readout.kind != "label-words":
            raise ConfigError(
                f"{name} is `{asked}`, which needs answers that are one label each, and here they are {readout.kind}; "
                f"leave {name} out"
            )


def needs_rows(backbone: Backbone, template: Template, readout: Readout) -> bool:
    """Tell whether answers can be read by learned rows only, so that no candidate may do without.

    An encoder without a head for words is one reason, a row without a mask another.
    """
    return words_refused(backbone, readout, template) is not None


def _extensions(config: TrainConfig) -> int:
    if config.extend is not None:
        return config.extend
    return EXTENSIONS if config.steps is None and config.budget is None else 0


def _steps(
    config: TrainConfig, template: Template, readout: Readout, backbone: Backbone, rows: Sequence[Example]
) -> int:
    """The default steps, with batches by tokens counted in rows of the mean length."""
    size = config.batch_size
    if config.batch_tokens is not None:
        tokenized = template.tokenize(backbone.tokenizer, config.virtual_tokens)
        carried = 0 if backbone.kind == "decoder" else len(tokenized.prefix)
        some = sample(rows, _MEASURED, config.seed)
        lengths = [len(tokenized.row(row.fields, backbone.max_positions).ids) + carried for row in some]
        size = max(1, round(config.batch_tokens * len(lengths) / sum(lengths)))
    return default_steps(even_labels(readout.labels, rows), len(rows), size)


def even_labels(labels: Sequence[str], rows: Sequence[Example]) -> float:
    """Return how many labels there would be if all were as rare as the rarest one that counts.

    Labels that have less than a twentieth of the rows together do not count, if two others are left. A count may be low
    by chance, so one standard error is added; and no label counts as rarer than a fourth of an even share.

    >>> rows = [Example({}, "ham")] * 800 + [Example({}, "spam")] * 200
    >>> round(even_labels(["ham", "spam"], rows), 2)
    4.67

    Args:
        labels: answers to choose from; none where they are text or numbers.
        rows: rows to learn from.
    """
    found = Counter(row.label for row in rows)
    counts = sorted(found[label] for label in labels if found[label])
    total = sum(counts)
    if len(counts) < 2 or total < len(rows):  # an answer is not one of the labels
        return float(len(labels))
    gone = 0
    while len(counts) > 2 and 20 * (gone + counts[0]) < total:
        gone += counts.pop(0)
    return min(max(total / (counts[0] + math.sqrt(counts[0])), float(len(labels))), 4.0 * len(labels))


def default_steps(labels: int | float, rows: int, batch_size: int) -> int:
    """Return the steps of a run: more for more labels, by the square root, and fewer for a few rows.

    >>> default_steps(2, 6000, 24), default_steps(6, 5000, 24), default_steps(2, 30, 24)
    (180, 310, 50)

    Args:
        labels: answers to choose from, were they even (`even_labels`); 0 or 1 where they are text or numbers.
        rows: rows to learn from.
        batch_size: rows a step.
    """
    wanted = 10 * round(STEPS * math.sqrt(max(2, labels) / 2) / 10)
    at_most = math.ceil(EPOCHS * rows / min(batch_size, rows))
    return max(min(wanted, at_most), min(LEAST_STEPS, wanted))


def field(config: TrainConfig, default: TrainConfig, *, rows_needed: bool = False) -> dict[str, TrainConfig]:
    """Return the candidates of a race by name, the default first; only what `config` leaves open is varied.

    Args:
        config: the settings as asked for.
        default: the same, `settled`.
        rows_needed: every candidate has learned rows (`needs_rows`).
    """
    out = {_name(default): default}
    for change in _changes(config, default, rows_needed):
        other = default.model_copy(update=change)
        out.setdefault(_name(other), other)
    return out


def _changes(config: TrainConfig, default: TrainConfig, rows_needed: bool) -> Iterator[Mapping[str, Any]]:
    free_kind = config.parameterization is None and not config.exportable and not config.settings
    free_rows = config.learned_rows is None and default.learned_rows is True and not rows_needed
    if free_kind and default.parameterization == "deep":
        rows = {} if rows_needed or config.learned_rows else {"learned_rows": False}
        yield {"parameterization": "direct", **rows}
    if free_rows:
        yield {"learned_rows": False}
    if config.init is None and config.init_text is None:
        yield {"init": "labels"}


def _name(config: TrainConfig) -> str:
    rows = " + rows" if config.learned_rows else ""
    return f"{config.parameterization}{rows}, from {config.init}, rate {config.rate:g}, seed {config.seed}"


def _can_be_deep(config: TrainConfig, template: Template, backbone: Backbone) -> bool:
    carried = "deep-prompts" in backbone.capabilities and backbone.kind != "encoder-decoder"
    pieces = template.soft_slots == 1 and template.placement == "prefix" and carried
    return pieces and not config.exportable and config.init != "prompt" and backbone.position_switch is None
