"""Evaluations made after training: JSON beside the prompt, keyed by its digest, so that its bytes stay the same."""

from __future__ import annotations

from collections.abc import Mapping

from softprompt.durable import write_text
from softprompt.errors import ConfigError, StorageError
from softprompt.prompts.canonical import JSON, canonical, parse
from softprompt.store.layout import Layout, files, reading


def write_evaluation(layout: Layout, digest: str, name: str, data: Mapping[str, JSON]) -> None:
    """Keep one evaluation of a prompt; an earlier one of that name is replaced.

    Raises:
        ConfigError: `data` is not plain JSON, or `name` cannot be a name.
        StorageError: the disk is full, or the folder may not be written.
    """
    path = layout.evaluation(digest, name)
    try:
        text = canonical(dict(data))
    except ValueError as error:
        raise ConfigError(f"the evaluation `{name}` is not plain JSON ({error})") from error
    write_text(path, text + "\n")


def read_evaluations(layout: Layout, digest: str) -> dict[str, JSON]:
    """Return the evaluations of a prompt by name.

    Raises:
        StorageError: one of them is damaged or may not be read.
    """
    found = {}
    for path in files(layout.evaluations(digest)):
        name = path.name.removesuffix(".json")
        inside = layout.evaluation(digest, name)
        try:
            with reading(inside):
                found[name] = parse(inside.read_text(encoding="utf-8"))
        except ValueError as error:
            raise StorageError(f"the evaluation `{inside}` is damaged ({error}); delete it, evaluate again") from error
    return found
