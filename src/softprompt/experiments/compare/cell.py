"""One cell of a comparison: a method fitted to a task, judged and measured; run in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from softprompt.backbones.backbone import Backbone, load_backbone
from softprompt.errors import MissingExtraError, SoftPromptError, StorageError, TrainingError
from softprompt.experiments.compare.cells import Ask
from softprompt.experiments.compare.outcomes import Outcome
from softprompt.experiments.compare.own_process import Plain, answer_one
from softprompt.experiments.compare.rows import cut
from softprompt.experiments.compare.surroundings import surroundings
from softprompt.experiments.folder import ExperimentFolder
from softprompt.experiments.trials import failure
from softprompt.methods import catalogue
from softprompt.methods.costs import Forgetting, Speed
from softprompt.methods.documented import documented_speed
from softprompt.methods.forgetting import measure_forgetting, other_text, perplexity
from softprompt.methods.measuring import measure_speed
from softprompt.methods.method import Effort, Fitted, Method
from softprompt.methods.peak import Memory, watched
from softprompt.tasks.load import load_task
from softprompt.tasks.task import Task

if TYPE_CHECKING:
    from torch import Tensor

DOCUMENTED = "peft-prompt-tuning"
"""The method beside which training as PEFT documents it is timed: ours trains it, quicker than PEFT would."""
_LEAST = -50.0
"""Natural log of the smallest probability that is written: JSON has no infinity."""
_TOLD_FULL = ("allocate memory", "out of memory")
_TIMED = (8, 64)
"""Rows and tokens of the pass by which hours are estimated."""

Load = Callable[..., Backbone]


def run(ask: Ask, load: Load = load_backbone) -> Outcome:
    """Run a cell; what goes wrong with the method is its outcome, and no error.

    Args:
        ask: which cell, of what.
        load: how to load the backbone.
    """
    empty = Outcome(ask.cell, origin=ask.origin, provenance=surroundings(), notes=ask.notes)
    try:
        return _found(ask, empty, load)
    except Exception as error:  # noqa: BLE001 - a method that fails is a line of the report
        return replace(empty, **why_it_failed(error))


def why_it_failed(error: Exception) -> dict[str, Any]:
    """Return why a cell has no figure, and whether the next run is to try it again.

    It is where memory or a disk was full or a library is missing, and after an error that nobody foresaw.
    """
    told = failure(error)
    full = any(words in str(error) for words in _TOLD_FULL)
    foreseen = isinstance(error, SoftPromptError) and not isinstance(error, MissingExtraError | StorageError)
    named = "" if isinstance(error, SoftPromptError) else f"{type(error).__name__}: "
    return {"failed": f"{named}{told['failed']}", "again": told["again"] or full or not foreseen}


def _found(ask: Ask, empty: Outcome, load: Load) -> Outcome:
    cell, method = ask.cell, catalogue.method(ask.cell.method)
    backbone = load(ask.backbone, device=ask.device, dtype=ask.dtype)
    task = cut(load_task(ask.source, **ask.options), cell.seed, cell.rows, all_rows=ask.rows, test_rows=ask.test_rows)
    refusal = method.refuses(backbone, task)
    if refusal is not None:
        return replace(empty, labels=task.labels, failed=refusal)
    before = _tried(lambda: perplexity(backbone, other_text())) if ask.measured else None
    with watched(backbone) as memory:
        fitted = method.fit(backbone, task, cell.seed, _effort(ask, method))
        answers = {} if cell.role == "search" else _answers(fitted, task)
    known = replace(empty, **_costs(fitted, backbone, memory), **answers, labels=task.labels)
    known = replace(known, notes=(*known.notes, *fitted.notes, *memory.notes))
    return _measured(known, before, fitted, backbone, task) if ask.measured else known


def _effort(ask: Ask, method: Method) -> Effort:
    readout: Any = {"readout": ask.cell.readout} if ask.cell.readout in method.readouts else {}
    bounds: Any = {"share": ask.share, "examples": ask.examples, "seconds": ask.seconds}
    return Effort(rate=ask.cell.rate, **readout, **bounds, folder=Path(ask.folder))


def _costs(fitted: Fitted, backbone: Backbone, memory: Memory) -> dict[str, Any]:
    own = sum(parameter.numel() for parameter in backbone.model.parameters())
    return {
        "validation_loss": float(fitted.loss), "trained": fitted.trained, "share": fitted.trained / own,
        "kept_bytes": fitted.kept_bytes, "course": asdict(fitted.course), "loaded": memory.loaded, "peak": memory.peak,
    }  # fmt: skip


def _answers(fitted: Fitted, task: Task) -> dict[str, Any]:
    """What the method says to the test rows.

    Raises:
        TrainingError: a probability is not a number.
    """
    rows = task.splits["test"]
    found = np.asarray(fitted.predictor.log_probabilities(rows), dtype=np.float64)
    if np.isnan(found).any():
        bad = int(np.isnan(found).any(axis=1).sum())
        raise TrainingError(f"of {len(rows):,} test rows {bad:,} have no probabilities: they are not finite")
    places = {label: place for place, label in enumerate(task.labels)}
    gold, predicted = [places[str(row.label)] for row in rows], found.argmax(axis=1)
    every = np.arange(len(rows))
    return {
        "gold": tuple(gold),
        "predicted": tuple(predicted.tolist()),
        "gold_log": _written(np.maximum(found[every, gold], _LEAST)),
        "confidence": _written(np.exp(found[every, predicted])),
    }


def _written(values: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)


def _measured(known: Outcome, before: Any, fitted: Fitted, backbone: Backbone, task: Task) -> Outcome:
    """Add speed and forgetting; what cannot be measured is a note, for the cell has its figures."""
    speed = _tried(lambda: measure_speed(fitted, backbone, task))
    forgot = before if isinstance(before, str) else _tried(
        lambda: measure_forgetting(before, fitted, backbone, other_text())
    )  # fmt: skip
    notes = list(known.notes)
    for what, found in (("speed", speed), ("forgetting", forgot)):
        notes += [f"its {what} could not be measured: {found}"] if isinstance(found, str) else []
        notes += list(getattr(found, "notes", ()))
    if known.cell.method == DOCUMENTED:
        taught = _tried(lambda: documented_speed(backbone, task))
        failed = isinstance(taught, str)
        notes.append(f"its documented training could not be timed: {taught}" if failed else taught.told)
    return replace(
        known,
        speed=None if isinstance(speed, str) else Speed(speed.latency, speed.rows, speed.mixed, speed.switch),
        forgetting=Forgetting(**asdict(forgot)) if forgot is not None and not isinstance(forgot, str) else None,
        notes=tuple(dict.fromkeys(notes)),
    )


def _tried(measuring: Callable[[], Any]) -> Any:
    """What is measured, or, in words, why it is not."""
    try:
        return measuring()
    except Exception as error:  # noqa: BLE001 - the cell stands without it
        return " ".join(str(error).split()) or type(error).__name__


def described(backbone: str, device: str | None, dtype: str | None, load: Load = load_backbone) -> Plain:
    """Return what a comparison must know of its backbone, as plain JSON; an error of ours by its name.

    Args:
        backbone: what `load_backbone` takes.
        device: where it runs.
        dtype: what it computes in.
        load: how to load it.
    """
    try:
        loaded = load(backbone, device=device, dtype=dtype)
    except SoftPromptError as error:
        return {"error": type(error).__name__, "message": str(error)}
    return {
        "fingerprint": loaded.fingerprint.to_json(),
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "device": loaded.device.type,
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "seconds a token": _seconds_a_token(loaded),
    }


def _seconds_a_token(backbone: Backbone) -> float | None:
    """Seconds of a token in a pass over a batch, without its head; None: the backbone runs in two parts."""
    if backbone.kind == "encoder-decoder":
        return None
    import torch

    rows, tokens = _TIMED
    ids = torch.zeros(_TIMED, dtype=torch.long)
    mask = torch.ones_like(ids).to(backbone.device)
    positions: Tensor = torch.arange(tokens, device=backbone.device).expand(rows, tokens)
    with torch.inference_mode():
        for _ in range(2):
            began = time.perf_counter()
            hidden, _ = backbone.run(backbone.embed(ids), mask=mask, positions=positions)
            float(hidden.sum())  # waits for a GPU
    return (time.perf_counter() - began) / (rows * tokens)


def answered(question: Plain) -> Plain:
    """Answer what a comparison asks: what its backbone is, or one cell, whose outcome is left in its folder."""
    if "cell" not in question:
        return described(**question)
    ask = Ask.of(question)
    folder = Path(ask.folder)
    with ExperimentFolder(folder.parent).held(folder.name, wait=True):  # until one that lost its comparison has ended
        run(ask).write(ask.file)
    return {"written": True}


if __name__ == "__main__":
    answer_one(answered)
