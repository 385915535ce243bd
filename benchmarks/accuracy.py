"""What `train` reaches with no settings, in what time, beside what costs nothing and beside its targets."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cells import Cell, Cells
from figures import below_probe, linear_probe, measured, reference, said_first
from results import Result, Table
from rivals import best_rival
from subjects import Setting, backbone_of, task_of

PROCEDURE = """Each training is a process of its own: `train(load_backbone(...), load_task(...))` with no settings but
the seed, the report card included. The seconds are those of the whole process, imports and loading included; the
converted backbone lies in the cache. Figures are on the rows of the report card, which took part in no choice; the
linear probe and the others are the report card's, on the same rows. A missed target counts as met where the mean is
within 1.0 point of the better of LoRA and full fine-tuning (`rivals`), whose rate and readout were chosen on
validation. The backbone is in bf16, or in fp32 on a processor that does not compute in bf16, as it is by default; such
a processor takes several times as long. Standard deviations are those of a sample (n - 1)."""

PROBE_SETS = ("sst2", "trec", "sms_spam", "banking77")
WITHIN = 0.01


@dataclass(frozen=True)
class Target:
    """A measure on the test rows and what is aimed at: the least mean, the largest deviation, the least of all."""

    measure: str
    mean: float
    deviation: float | None = None
    worst: float | None = None


@dataclass(frozen=True, eq=False)
class Run:
    """A data set, its targets, the seeds it is trained with, and what `load_task` is told of it."""

    data: str
    targets: tuple[Target, ...]
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    task: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.data.replace("/", "-")


NO_TARGET = (Target("accuracy", 0.0),)
RUNS = (
    Run("sst2", (Target("accuracy", 0.91, 0.007, 0.90),)),
    Run("trec", (Target("accuracy", 0.95),)),
    Run("sms_spam", (Target("accuracy", 0.988), Target("f1 of spam", 0.96))),
    Run("banking77", (Target("accuracy", 0.931),)),
    Run("mrpc", (Target("accuracy", 0.78),)),
    Run("e2e_nlg", (Target("bleu", 0.60),), seeds=(0,)),
    Run("wikiann/en", (Target("entity f1", 0.70),), seeds=(0,)),
    Run("tweet_sentiment/spanish", NO_TARGET, seeds=(0,)),
    Run("tweet_sentiment/italian", NO_TARGET, seeds=(0,)),
)


def one(name: str, seed: int, task: Mapping[str, Any], options: Mapping[str, Any], **setting: Any) -> dict[str, Any]:
    """Train once and return the report card; runs in a process of its own."""
    from softprompt.training.train import train

    chosen = Setting(**setting)
    with tempfile.TemporaryDirectory() as folder:
        result = train(backbone_of(chosen), task_of(chosen, name, seed=seed, **task), run=folder, seed=seed, **options)
    assert result.report is not None
    report = {**result.report.to_json(), "first line": str(result.report).splitlines()[0]}
    return {
        "report": report, "bytes": len(result.prompt.to_bytes()), "steps": result.fit.steps,
        "training seconds": result.fit.seconds,
    }  # fmt: skip


def accuracy(setting: Setting) -> Result:
    cells = Cells(setting, "accuracy", "accuracy", "one", aside=["dtype"])
    asked = {run: [cell(setting, run, seed) for seed in setting.seeds or run.seeds] for run in RUNS}
    longest = max(map(len, asked.values()))
    cells.run([made[place] for place in range(longest) for made in asked.values() if place < len(made)])
    found = {run: [cells.read(each) for each in made] for run, made in asked.items()}
    everything = [each for made in asked.values() for each in made]
    tables = [_targets(setting, found), _probes(found), _every(asked, found)]
    tables[0].note = f"Cells measured at commit {cells.origins(everything)}; {_absent(cells.missing(everything))}"
    names = [run.data for run in RUNS if setting.source(run.data)]
    figures = {each.name: cells.read(each) for each in everything}
    return Result("accuracy", "Accuracy with no settings", PROCEDURE, tables, figures, setting.files(*names))


def cell(setting: Setting, run: Run, seed: int) -> Cell:
    """The cell of one training."""
    quick = {"steps": 3, "test_rows": 40, "probe_rows": 40, "validation_rows": 40}
    asked = {"name": run.data, "seed": seed, "task": dict(run.task), "options": setting.pick({}, quick)}
    return Cell(f"{run.name}-{seed}", run.data, asked)


Found = Mapping[Run, Sequence[Mapping[str, Any] | None]]


def _targets(setting: Setting, found: Found) -> Table:
    columns = [
        "task", "measure", "seeds", "mean", "standard deviation", "worst", "linear probe", "longest, seconds",
        "target", "met",
    ]  # fmt: skip
    table = Table("Targets", columns)
    for run, target in [(each, target) for each in found for target in each.targets]:
        made = [each for each in found[run] if each]
        values = [value for each in made if (value := measured(each, target.measure)) is not None]
        counted = f"{len(values)} of {len(found[run])}"
        if not values:
            table.rows.append([run.data, target.measure, counted, *["missing"] * 5, _aim(target), "missing"])
            continue
        probes = [value for each in made if (value := linear_probe(each, target.measure)) is not None]
        table.rows.append([
            run.data, target.measure, counted, f"**{_percent(statistics.mean(values))}**",
            _percent(statistics.stdev(values)) if len(values) > 1 else "–", _percent(min(values)),
            _percent(statistics.mean(probes)) if probes else "–", _longest(made),
            _aim(target), _met(setting, run, target, values, len(found[run])),
        ])  # fmt: skip
    return table


def _met(setting: Setting, run: Run, target: Target, values: Sequence[float], asked: int) -> str:
    """Whether the target is met: by itself, or because the rivals do no better."""
    if not target.mean:
        return "–"
    short = list(_short(target, values))
    left = f", {asked - len(values)} seeds missing" if len(values) < asked else ""
    if not short:
        return f"yes{left}"
    rival = best_rival(setting, run.data) if target.measure == "accuracy" else None
    if rival is None:
        return f"**no**: {'; '.join(short)}{left}; LoRA and full fine-tuning not measured at four rates"
    name, reached = rival
    within = statistics.mean(values) >= reached - WITHIN
    return f"{'yes, by the rivals' if within else '**no**'}: {'; '.join(short)}; {name} {_percent(reached)}{left}"


def _longest(made: Sequence[Mapping[str, Any]]) -> str:
    """The most seconds of a training, by the number of threads and the dtype it had."""
    longest: dict[tuple[int, str], float] = {}
    for each in made:
        kind = (each["machine"]["threads"], each["machine"]["dtype"])
        longest[kind] = max(each["seconds"], longest.get(kind, 0.0))
    if len(longest) == 1:
        return f"{max(longest.values()):.0f}"
    words = {kind: f"{kind[0]} thread{'s' * (kind[0] > 1)}" for kind in longest}
    if len({dtype for _, dtype in longest}) > 1:
        words = {kind: f"{word} in {kind[1]}" for kind, word in words.items()}
    return "; ".join(f"{longest[kind]:.0f} with {words[kind]}" for kind in sorted(longest, reverse=True))


def _short(target: Target, values: Sequence[float]) -> Iterator[str]:
    """What falls short; to the tenth of a point that is printed."""
    if round(statistics.mean(values), 3) < target.mean:
        yield f"mean {_percent(target.mean - statistics.mean(values))} short"
    if target.deviation is not None and len(values) > 1 and round(statistics.stdev(values), 3) > target.deviation:
        yield f"deviation {_percent(statistics.stdev(values))}"
    if target.worst is not None and round(min(values), 3) < target.worst:
        yield f"worst {_percent(min(values))}"


def _aim(target: Target) -> str:
    if not target.mean:
        return "–"
    parts = [f"≥ {_percent(target.mean)}"]
    parts += [f"≤ {_percent(target.deviation)}"] if target.deviation is not None else []
    parts += [f"≥ {_percent(target.worst)}"] if target.worst is not None else []
    return " / ".join(parts)


def _probes(found: Found) -> Table:
    """Runs that end below the linear probe, and whether their report says so before all else."""
    table = Table("Below the linear probe", ["task", "runs", "below the probe", "said first", "as it should be"])
    for run, made in found.items():
        done = [each for each in made if each and linear_probe(each, "accuracy") is not None]
        if run.data not in PROBE_SETS or not done:
            continue
        below = [each for each in done if below_probe(each)]
        said = [each for each in below if said_first(each)]
        right = "yes" if len(said) == len(below) else "**no**"
        table.rows.append([run.data, f"{len(done)} of {len(made)}", str(len(below)), str(len(said)), right])
    return table


_COLUMNS = [
    "task", "seed", "test rows", "figure % (95 %)", "linear probe %", "zero-shot %", "majority %", "seconds",
    "CPU seconds", "threads", "dtype", "steps",
]  # fmt: skip


def _every(asked: Mapping[Run, Sequence[Cell]], found: Found) -> Table:
    table = Table("Every training", _COLUMNS)
    for run, cells in asked.items():
        for each, made in zip(cells, found[run], strict=True):
            head = [run.data, str(each.arguments["seed"])]
            table.rows.append([*head, *(_row(run, made) if made else ["missing", *[""] * 9])])
    return table


def _row(run: Run, made: Mapping[str, Any]) -> list[str]:
    report = made["found"]["report"]
    value = measured(made, run.targets[0].measure)
    interval = report["figures"].get("accuracy_interval") if run.targets[0].measure == "accuracy" else None
    between = f" ({_percent(interval[0])} – {_percent(interval[1])})" if interval else ""
    beside = [reference(made, name, "accuracy") for name in ("linear probe", "zero-shot", "majority class")]
    return [
        f"{report['figures'].get('rows', 0):,}", f"**{_percent(value)}**{between}" if value is not None else "–",
        *(_percent(each) if each is not None else "–" for each in beside),
        f"{made['seconds']:.0f}", f"{made['cpu seconds']:.0f}", str(made["machine"]["threads"]),
        made["machine"]["dtype"], str(made["found"]["steps"]),
    ]  # fmt: skip


def _absent(names: Sequence[str]) -> str:
    return f"missing: {', '.join(names)}." if names else "none is missing."


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
