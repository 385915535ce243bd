"""`softprompt eval`: how good a prompt that exists already is on labelled rows."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from softprompt.cli.opening import (
    AS_JSON,
    BACKBONE,
    DEVICE,
    DTYPE,
    OTHER_WEIGHTS,
    PROMPT,
    Opened,
    open_backbone,
    open_prompt,
)
from softprompt.cli.output import print_json
from softprompt.errors import SoftPromptError
from softprompt.progress import say

if TYPE_CHECKING:
    from softprompt.evaluation.answer_evaluation import Judged
    from softprompt.prompts.soft_prompt import SoftPrompt
    from softprompt.tasks.task import Example, Task


class Chosen(NamedTuple):
    """Rows to judge a prompt on.

    Attributes:
        rows: the labelled rows.
        overlap: which of them also stand in train, where that is known.
        origin: where they come from, as a sentence.
    """

    rows: tuple[Example, ...]
    overlap: tuple[int, ...]
    origin: str


def evaluate(
    name: str = typer.Argument(help=PROMPT),
    source: str = typer.Argument(help="Labelled rows: a packaged data set, a file, a folder of split files, a hub id."),
    split: str = typer.Option("test", help="Which split: train, validation (or val, dev) or test."),
    label: str | None = typer.Option(None, help="Label column. Default: the one that training learned, else guessed."),
    backbone: str | None = BACKBONE,
    device: str | None = DEVICE,
    dtype: str | None = DTYPE,
    allow_other_weights: bool = OTHER_WEIGHTS,
    as_json: bool = AS_JSON,
) -> None:
    """Score labelled rows with a prompt; the result is also kept beside the prompt, if the store has it.

    Example: softprompt eval sentiment reviews --split test --json
    """
    from softprompt.tasks.sources.table import split_named

    split = split_named(split)
    opened = open_prompt(name)
    chosen = choose_rows(opened.prompt, source, split, label)
    say(chosen.origin)
    frozen = open_backbone(backbone, [opened], device, dtype, allow_other_weights=allow_other_weights)
    from softprompt.evaluation.evaluate import evaluate as judge
    from softprompt.modeling.prompted_model import PromptedModel

    model = PromptedModel(frozen)
    scored = judge(model, opened.prompt, chosen.rows, overlap=chosen.overlap, allow_other_weights=allow_other_weights)
    about = {"prompt": opened.name, "digest": opened.prompt.digest, "backbone": frozen.name}
    result = {**about, "source": source, "split": split, "rows": chosen.origin, **figures_of(scored)}
    _keep(opened, f"{source}.{split}", result)
    print_json(result) if as_json else print(as_text(scored))


def choose_rows(prompt: SoftPrompt, source: str, split: str, label: str | None) -> Chosen:
    """Find the rows; where the source is the one that training divided, its own split of that time.

    Raises:
        DataError: rows or columns that cannot be used, or a label that the prompt does not know.
        TemplateError: the source lacks a field of the template.
        UnknownNameError: the source has no such split.
    """
    from softprompt.tasks.kinds import kind_of
    from softprompt.tasks.load import load_split, load_task

    kind = kind_of(prompt.readout, prompt.template)
    pattern = None if kind == "chat" else prompt.template.pattern
    trained_on = prompt.provenance.get("task")
    seed = prompt.provenance.get("seed")
    if isinstance(trained_on, dict) and isinstance(seed, int):
        # files of before the division's own seed was kept have the prompt's, which it was then
        drawn, shots = trained_on.get("seed", seed), trained_on.get("shots")
        with suppress(SoftPromptError):  # not the rows of the training: `load_split` says what is wrong, if anything
            named = label or trained_on.get("label") or None
            task = load_task(source, kind=kind, label=named, template=pattern, seed=drawn or 0, shots=shots)
            if task.data_hash == trained_on.get("data") and split in task.splits:
                return _known_rows(prompt, task, source, split)
    usual = trained_on.get("label") if isinstance(trained_on, dict) else None
    rows, column = load_split(source, split, prompt.template, prompt.readout, label=label, usual=usual)
    said = f"answers from the column `{column}`"
    if usual and column != usual:
        said += f", and the prompt was trained on those of `{usual}`"
    if _is_undivided(source):
        origin = f"all {len(rows):,} rows of `{source}`, {said}; whether training saw some of them is not known"
        return Chosen(rows, (), origin)
    return Chosen(rows, (), f"the {len(rows):,} rows of `{split}` of `{source}`, {said}")


def _known_rows(prompt: SoftPrompt, task: Task, source: str, split: str) -> Chosen:
    """The rows of a split that training divided, and which of them the prompt has learned from."""
    rows, answers = task.splits[split], f"answers from the column `{task.column}`"
    origin = f"`{split}` of `{source}`, {answers}, divided as in the training of this prompt"
    fitted = prompt.provenance.get("fitted on")
    if split == "train" or fitted == "all rows" or (fitted == "all rows but validation" and split != "validation"):
        return Chosen(rows, tuple(range(len(rows))), f"{origin}; the prompt has learned from these rows")
    used = ", used for selection" if split == "validation" else ""
    return Chosen(rows, task.overlap(split), origin + used)


def figures_of(scored: Judged) -> dict[str, Any]:
    """Return every figure as plain JSON; without the rows that also stand in train, too, where there are some."""
    from softprompt.evaluation.evaluation import Evaluation

    apart = scored.without_overlap() if scored.overlap else None
    found = {
        "figures": scored.figures().to_json(),
        "overlap": len(scored.overlap),
        "without_overlap": apart.figures().to_json() if apart else None,
        "truncated": scored.truncated,
        "classes": [row.to_json() for row in scored.class_table()],
    }
    return {**found, "confusion": scored.confusion_matrix().tolist()} if isinstance(scored, Evaluation) else found


def as_text(scored: Judged) -> str:
    """Return the figures as tables for a terminal."""
    from softprompt.evaluation import sections
    from softprompt.evaluation.evaluation import Evaluation

    figures = scored.figures()
    apart = scored.without_overlap() if scored.overlap else None
    cut = [f"{scored.truncated:,} rows were shortened to fit the backbone"] if scored.truncated else []
    blocks = [
        [f"{figures.rows:,} rows in {scored.seconds:.1f} s"],
        sections.results(figures, []),
        sections.remarks(figures, [], None),
        sections.without_overlap(len(scored.overlap), apart.figures() if apart else None, []),
        sections.unmeasured(figures),
        sections.calibration(figures, None),
        sections.class_table(scored.class_table()),
        cut,
    ]
    if isinstance(scored, Evaluation):
        blocks.insert(-1, sections.confusion_matrix(scored.labels, scored.confusion_matrix().tolist()))
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _keep(opened: Opened, title: str, result: dict[str, Any]) -> None:
    """Put the result beside the prompt, if that is in the store."""
    if not opened.stored:
        return
    from softprompt.store.store import PromptStore

    name = re.sub(r"[^a-z0-9._-]+", "-", title.lower()).lstrip("._-")[-64:].lstrip("._-")
    PromptStore().add_evaluation(opened.prompt.digest, name, result)


def _is_undivided(source: str) -> bool:
    from softprompt.tasks.sources.packaged import PACKAGED

    return source in PACKAGED or Path(source).expanduser().is_file()
