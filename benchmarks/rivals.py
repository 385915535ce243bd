"""What LoRA, full fine-tuning and PEFT's prompt tuning reach on the same rows with the same readout, and how fast."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from cells import Cell, Cells
from results import Result, Table
from subjects import Setting, backbone_of, task_of

PROCEDURE = """Every rival trains on the same backbone, rows, splits, template, tokens and order of batches as our
prompts with the same seed, behind `{bos}` and without soft tokens; each training is a process of its own.

- *lora*: PEFT, rank 8, alpha 16, no dropout, on all linear layers (*lora-attention*: on those of the attention only);
  frozen weights in the dtype of the run, adapters and optimizer in fp32.
- *full*: all weights, embeddings included, in the dtype of the run, with fp32 master copies and fp32 AdamW state. The
  embedding matrix is cut to the tokens of the task, which is exact: no weight decay, so other rows would not move.
- Readout of both, each tried: *words*, the label words' rows of the output matrix, as a trie of their tokens, softmax
  over each node's children; *rows*, learned rows that start at the label words' mean output rows, and a bias, at LoRA's
  rate, or ten times the rate of full fine-tuning. Where two labels begin with the same token only *rows* is tried.
- AdamW, no weight decay, gradient norm clipped at 1, our default batch, 50 steps of a rising rate, then constant.
  Validation on up to 512 rows every 50 steps. When its loss has not improved for 3 validations, training goes back
  to the best state at a fifth of the rate; when it has then not improved for 2, it ends. At most 20 epochs.
- *prompt-tuning*: PEFT's, with its tutorial's settings: text init, as many virtual tokens as the text has, AdamW,
  batch 8, rate 3e-2 (and 3e-3), linear over 50 epochs, loss over the whole vocabulary at the answer; it ends after
  30 minutes of training, or when validation has not improved for 20 validations of 150 steps.
- The state of the lowest validation loss is the one tested. Readout and rate are chosen by validation accuracy, then
  loss, with the first seed, and kept for the others. Logits are made at the answer's position and for the labels only
  (prompt-tuning's training excepted); rows are run without their padding, as ours are."""

DATA = ("sst2", "trec", "sms_spam", "banking77", "mrpc")
RATES: Mapping[str, tuple[float, ...]] = {
    "lora": (1e-4, 3e-4, 1e-3, 3e-3),
    "lora-attention": (3e-4, 1e-3, 3e-3, 1e-2),
    "full": (1e-5, 3e-5, 1e-4, 3e-4),
    "prompt-tuning": (3e-3, 3e-2),
}
BETTER_OF = ("lora", "full")
"""The rivals that a missed target is measured by."""
LEAST_RATES = 4
NO_WORDS = ("banking77",)
"""Sets whose label words do not differ in their first tokens."""
EVERY, WARMUP, EPOCHS = 50, 50, 20
TUTORIAL_BATCH, TUTORIAL_EPOCHS, TUTORIAL_PATIENCE, TUTORIAL_SECONDS = 8, 50, 20, 1800.0


@dataclass(frozen=True)
class Entry:
    """One training of a rival."""

    name: str
    method: str
    readout: str
    rate: float
    seed: int

    @property
    def cell(self) -> Cell:
        parts = (self.name.replace("/", "-"), self.method, self.readout, f"{self.rate:g}", str(self.seed))
        return Cell("-".join(parts), self.name, vars(self))


def one(name: str, method: str, readout: str, rate: float, seed: int, **setting: Any) -> dict[str, Any]:
    """Train one rival; runs in a process of its own."""
    from rival_methods import rival
    from rival_rows import RivalRows
    from rival_training import RivalTraining

    from softprompt.methods.tuning import Plan
    from softprompt.training.config import TrainConfig

    chosen = Setting(**setting)
    tutorial = method == "prompt-tuning"
    batch = TUTORIAL_BATCH if tutorial else TrainConfig().batch_size
    backbone, task = backbone_of(chosen), task_of(chosen, name, seed=seed)
    rows = RivalRows(backbone, task, seed, batch)
    every = batch * chosen.pick(EVERY * (3 if tutorial else 1), 2)
    if tutorial:
        last = TUTORIAL_EPOCHS * rows.count
        most = chosen.pick(last, 6 * batch)
        plan = Plan(rate, every, most, 0, TUTORIAL_PATIENCE, 0, linear_to=last, seconds=TUTORIAL_SECONDS)
    else:
        most = chosen.pick(EPOCHS * rows.count, 12 * batch)
        plan = Plan(rate, every, most, batch * chosen.pick(WARMUP, 2))
    made = rival(method, readout, backbone, task, rows, seed)
    return {"batch": batch, "validation rows": len(rows.validation), **RivalTraining(made, rows, plan).run()}


def rivals(setting: Setting) -> Result:
    from accuracy_time import accuracy_time

    cells, seeds = _cells(setting), setting.seeds or (0,)
    first = [entry for data in DATA for entry in grid(setting, data, seeds[0])]
    cells.run([entry.cell for entry in first])
    others = [entry for data in DATA for seed in seeds[1:] for entry in _chosen_at(setting, data, seed, seeds[0])]
    cells.run([entry.cell for entry in others])
    everything = [*first, *others]
    tables = [_best(setting, seeds), _grid(setting, first)]
    tables[0].note = f"Cells measured at commit {cells.origins([entry.cell for entry in everything])}."
    figures = {entry.cell.name: found for entry in everything if (found := cells.read(entry.cell))}
    short = {name: {k: v for k, v in found["found"].items() if k != "curve"} for name, found in figures.items()}
    tables.extend(accuracy_time(setting))
    names = [data for data in DATA if setting.source(data)]
    title = "LoRA, full fine-tuning and PEFT's prompt tuning"
    return Result("rivals", title, PROCEDURE, tables, short, setting.files(*names))


def grid(setting: Setting, data: str, seed: int) -> Iterator[Entry]:
    """Every readout and rate of every method."""
    for method, rates in RATES.items():
        readouts = ("vocabulary",) if method == "prompt-tuning" else ("rows", "words")
        for readout, rate in product(readouts, setting.rates or rates):
            if data not in NO_WORDS or readout == "rows":
                yield Entry(data, method, readout, rate, seed)


def measured(setting: Setting, data: str, method: str, seed: int) -> list[tuple[Entry, dict[str, Any]]]:
    """What is there of a method's grid, rates that an earlier run added included."""
    found = _cells(setting).there(f"{data.replace('/', '-')}-{method}-*-{seed}")
    made = [(Entry(**each["cell"]), each) for each in found]
    return [(entry, each) for entry, each in made if entry.name == data and entry.method == method]


def chosen(setting: Setting, data: str, method: str, seed: int) -> tuple[Entry, dict[str, Any]] | None:
    """The readout and rate of the best validation: accuracy, then loss."""
    found = measured(setting, data, method, seed)
    return max(found, key=lambda pair: _merit(pair[1]), default=None)


def best_rival(setting: Setting, data: str) -> tuple[str, float] | None:
    """The better of LoRA and full fine-tuning on a set: its name, and its mean test accuracy over the seeds there.

    None unless both were tried at four rates or more.
    """
    if data not in DATA or any(_rates_tried(setting, data, method) < LEAST_RATES for method in BETTER_OF):
        return None
    means = [(method, statistics.mean(_accuracies(setting, data, method))) for method in BETTER_OF]
    return max(means, key=lambda pair: pair[1])


def _rates_tried(setting: Setting, data: str, method: str) -> int:
    """Rates that were tried with every readout that is offered."""
    tried = {(entry.readout, entry.rate) for entry, _ in measured(setting, data, method, 0)}
    offered = {entry.readout for entry in grid(setting, data, 0) if entry.method == method}
    return sum(all((readout, rate) in tried for readout in offered) for rate in {rate for _, rate in tried})


def _accuracies(setting: Setting, data: str, method: str, seeds: Sequence[int] = range(5)) -> list[float]:
    """Test accuracies of the chosen readout and rate, one a seed that is there."""
    found = chosen(setting, data, method, 0)
    if found is None:
        return []
    own = [_cells(setting).read(Entry(data, method, found[0].readout, found[0].rate, seed).cell) for seed in seeds]
    return [each["found"]["test"]["accuracy"] for each in own if each]


def _chosen_at(setting: Setting, data: str, seed: int, first: int) -> Iterator[Entry]:
    for method in RATES:
        if (found := chosen(setting, data, method, first)) is not None:
            yield Entry(data, method, found[0].readout, found[0].rate, seed)


def _merit(found: Mapping[str, Any]) -> tuple[float, float]:
    point = found["found"]["chosen"]
    return point["accuracy"], -point["loss"]


def _cells(setting: Setting) -> Cells:
    return Cells(setting, "rivals", "rivals", "one")


def _best(setting: Setting, seeds: Sequence[int]) -> Table:
    columns = [
        "task", "method", "grid", "readout", "rate", "seeds", "mean accuracy %", "standard deviation",
        "first seed % (95 %)", "macro-F1 %", "examples", "training seconds", "parameters",
    ]  # fmt: skip
    table = Table("Chosen on validation", columns)
    for data, method in product(DATA, RATES):
        grown = measured(setting, data, method, seeds[0])
        found = chosen(setting, data, method, seeds[0])
        if found is None:
            table.rows.append([data, method, "missing", *[""] * 10])
            continue
        (entry, cell), values = found, _accuracies(setting, data, method, seeds)
        own, test = cell["found"], cell["found"]["test"]
        low, high = test["accuracy_interval"]
        table.rows.append([
            data, method, f"{len(grown)} of {sum(each.method == method for each in grid(setting, data, 0))}",
            entry.readout, f"{entry.rate:g}{_edge(entry, grown)}", f"{len(values)} of {len(seeds)}",
            f"**{_percent(statistics.mean(values))}**",
            _percent(statistics.stdev(values)) if len(values) > 1 else "–",
            f"{_percent(test['accuracy'])} ({_percent(low)} – {_percent(high)})", _percent(test["macro_f1"]),
            f"{own['chosen']['examples']:,.0f}", f"{own['training seconds']:.0f}", f"{own['trained parameters']:,}",
        ])  # fmt: skip
    return table


def _edge(entry: Entry, grown: Sequence[tuple[Entry, Mapping[str, Any]]]) -> str:
    """A best rate at the end of the grid says that the grid is too short."""
    rates = sorted({other.rate for other, _ in grown})
    return " (edge of the grid)" if entry.rate in (rates[0], rates[-1]) and entry.method != "prompt-tuning" else ""


def _grid(setting: Setting, entries: Sequence[Entry]) -> Table:
    columns = ["task", "method", "readout", "rate", "validation loss", "validation %", "test %", "steps", "ended"]
    table = Table("Every rate, first seed", columns)
    cells, missing = _cells(setting), Counter[str]()
    for entry in entries:
        found = cells.read(entry.cell)
        head = [entry.name, entry.method, entry.readout, f"{entry.rate:g}"]
        if found is None:
            missing[f"{entry.name} {entry.method}"] += 1
            continue
        own = found["found"]
        figures = [f"{own['chosen']['loss']:.3f}", _percent(own["chosen"]["accuracy"])]
        table.rows.append([*head, *figures, _percent(own["test"]["accuracy"]), str(own["steps"]), own["stopped"]])
    table.note = f"Missing: {', '.join(f'{name} ({count})' for name, count in missing.items()) or 'none'}."
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
