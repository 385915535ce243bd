"""A task's default template, written anew for the kind of backbone that is to read it."""

from __future__ import annotations

from dataclasses import replace

from softprompt.tasks.task import Task
from softprompt.tasks.template import Template

_READ = {
    "encoder": ("classification", "choice", "multi-label", "regression", "tagging"),
    "encoder-decoder": ("classification", "choice", "multi-label", "regression", "generation", "extraction"),
}
"""The kinds of task that each kind of backbone answers; the others keep their template, and are refused by name."""


def fitted_to(task: Task, kind: str, *, masked: bool = False) -> Task:
    r"""Return a task whose template suits a kind of backbone: a default is written anew, the user's own stays.

    `load_task` writes rows for a decoder. An encoder reads its texts one behind the other, and each tagged sentence
    once, for it sees it whole; an encoder-decoder needs no word for the answer, which its decoder begins.

    >>> from softprompt.tasks.load import load_task
    >>> rows = [{"text": f"{word} {n}", "label": word} for word in ("good", "bad") for n in range(10)]
    >>> fitted_to(load_task(rows), "encoder", masked=True).template.pattern
    '{bos}{soft}{text} Label: {mask}{sep}'

    Args:
        task: what to learn.
        kind: of the backbone: `decoder`, `encoder` or `encoder-decoder`.
        masked: the backbone fills in masks, so that an encoder's row ends in one.

    Returns:
        The task itself where nothing is to change, else one with a note that says so, which then stays as it is.

    Raises:
        UnknownNameError: another kind of backbone.
    """
    fields, shown = task.template.fields, task.template
    answer = shown.pattern.rpartition("\n")[2].partition(":")[0]
    written = Template.default(fields, answer, shown.max_tokens, kind=kind, masked=masked and task.kind != "tagging")
    if not task.default_template or task.kind not in _READ.get(kind, ()):
        return task
    note = f"rows are written for an {kind}: `{written.pattern}`; give a template for another"
    return replace(task, template=written, notes=(*task.notes, note), default_template=False)
