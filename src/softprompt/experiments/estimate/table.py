"""An estimate as plain text: what is kept, what a training holds and takes, and how prompts serve."""

from __future__ import annotations

from collections.abc import Iterator

from softprompt.evaluation.tables import table, wrapped
from softprompt.experiments.estimate.estimate import Estimate, Training
from softprompt.experiments.estimate.hardware import MACHINES
from softprompt.experiments.estimate.sizes import Size

_UNITS = ("B", "KB", "MB", "GB", "TB", "PB")
_PARTS = {
    "weights": "weights",
    "state": "fp32 values, moments, best state",
    "graph": "graph of one pass",
    "passing": "more while it runs, gradients",
    "logits": "logits of the labels",
    "gradients": "(gradients at the step, graph gone)",
    "key_values": "(keys and values of the prefix)",
    "total": "total",
}


def amount(size: float) -> str:
    """Write a number of bytes with three digits.

    >>> amount(409_600 * 4), amount(349_208_518_656), amount(12)
    ('1.64 MB', '349 GB', '12 B')
    """
    for unit in _UNITS[:-1]:
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} {_UNITS[-1]}"


def time(seconds: float) -> str:
    """Write a time in the unit that fits it.

    >>> time(0.0123), time(95), time(1620), time(7300), time(400_000)
    ('12.3 ms', '95 s', '27 min', '2.03 h', '4.63 days')
    """
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def written(found: Estimate) -> str:
    """Return an estimate as text, at most 100 columns wide."""
    blocks = [_model(found), _sizes(found), _memory(found), _times(found), _serving(found)]
    said = [line for sentence in found.assumptions for line in wrapped(f"- {sentence}")]
    return "\n\n".join(["\n".join(block) for block in blocks] + ["\n".join(["What this rests on:", *said])])


def _model(found: Estimate) -> Iterator[str]:
    shape = found.shape
    active = f", {shape.active:,} of them for each token" if shape.experts else ""
    yield f"{shape.name}: {shape.total:,} parameters{active} ({shape.model_type}, {shape.kind})"
    groups = [f"{group} {count:,}" for group, count in shape.groups.items() if count]
    yield from wrapped(f"{'; '.join(groups)}; output rows {'tied' if shape.tied else 'of their own'}.")


def _sizes(found: Estimate) -> Iterator[str]:
    tasks = found.asked.tasks
    yield f"What is kept for {'a task' if tasks == 1 else f'{tasks:,} tasks'}"
    header = ["method", "trained", "share", "a task", *([f"{tasks:,} tasks"] if tasks > 1 else []), "counted as"]
    yield from table(header, [_size(size, found.shape.total, tasks) for size in found.sizes])


def _size(size: Size, total: int, tasks: int) -> list[str]:
    if size.trained is None or size.kept is None:
        return [size.title, "-", "-", "-", *(["-"] if tasks > 1 else []), size.formula]
    kept = [amount(size.kept), *([amount(size.kept * tasks)] if tasks > 1 else [])]
    return [size.title, f"{size.trained:,}", f"{size.trained / total:.2g}", *kept, size.formula]


def _memory(found: Estimate) -> Iterator[str]:
    yield "Memory of a training step, on a GPU (32,768 tokens held at once)"
    rows = [[said, *(amount(getattr(each.memory, part)) for each in found.trainings)] for part, said in _PARTS.items()]
    on_cpu = ["total on a CPU", *(amount(each.memory_on_cpu.total) for each in found.trainings)]
    yield from table(["part", *(each.method for each in found.trainings)], [*rows, on_cpu])
    yield f"logits of every token and word would take {amount(found.logits_everywhere)}; none are computed"


def _times(found: Estimate) -> Iterator[str]:
    steps = found.asked.steps
    yield f"Time of a step, and of a run of {steps:,}; does it fit"
    names = list(found.trainings[0].seconds)
    rows = [[MACHINES[name].title, *(_time(found, each, name) for each in found.trainings)] for name in names]
    flops = ["TFLOP a step", *(f"{each.flops / 1e12:.3g}" for each in found.trainings)]
    run = ["PFLOP a run", *(f"{each.flops * steps / 1e15:.3g}" for each in found.trainings)]
    yield from table(["machine", *(each.method for each in found.trainings)], [flops, run, *rows])
    for each in found.trainings:
        if each.measured is not None:
            here = each.measured
            yield (
                f"this machine, its operators measured: {time(here.seconds)} a step of {each.method} (matrix products "
                f"{time(here.products)} at {here.rate / 1e9:,.0f} GFLOP/s), {time(here.seconds * steps)} a run"
            )


def _time(found: Estimate, training: Training, name: str) -> str:
    on, seconds = MACHINES[name], training.seconds[name]
    held = training.memory_on_cpu if on.cpu else training.memory
    fits = "" if held.total <= on.memory else f", needs {_count(held.total, on.memory)}"
    return f"{time(seconds)}, {time(seconds * found.asked.steps)}{fits}"


def _count(needed: float, memory: float) -> str:
    return f"{-int(-needed // memory)}x"


def _serving(found: Estimate) -> Iterator[str]:
    serving = found.serving
    yield f"Serving: a resident prompt is {amount(serving.key_values)} of keys and values"
    if serving.in_windows < serving.key_values:
        yield f"(engines that keep only what windows see: {amount(serving.in_windows)})"
    rows = [[MACHINES[name].title, _fits(serving.fits[name]), _rate(serving.rows[name], serving.fits[name])]
            for name in serving.rows]  # fmt: skip
    yield from table(["machine", "prompts beside the model", "rows a second (rough)"], rows)


def _fits(count: int | None) -> str:
    return "the model does not fit" if count is None else f"{count:,}"


def _rate(rows: float, fits: int | None) -> str:
    return "-" if fits is None else f"{rows:,.3g}"
