"""What `train` reaches with no settings, and in what time, beside what costs nothing."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from child import call
from results import Result, Table
from subjects import Setting, backbone_of, task_of

PROCEDURE = """Each training is a process of its own: `train(load_backbone(...), load_task(...))` with no settings but
the seed, the report card included. The seconds are those of the whole process, imports and loading included; the
converted backbone lies in the cache. Figures are on the test rows, which took part in no choice; the linear probe and
the others are the report card's, on the same rows."""


@dataclass(frozen=True)
class Run:
    """A data set, the seeds it is trained with, the words for its labels and the accuracy aimed at."""

    data: str
    seeds: tuple[int, ...] = (0,)
    words: Mapping[str, str] | None = None
    aim: float | None = None


RUNS = (
    Run("sst2", seeds=(0, 1, 2), aim=0.90),
    Run("sms_spam", aim=0.975),
    Run("tweet_sentiment/spanish", words={"negative": "negativo", "neutral": "neutral", "positive": "positivo"}),
    Run("tweet_sentiment/italian", words={"negative": "negativo", "neutral": "neutro", "positive": "positivo"}),
    Run("trec"),
)
SECONDS = 300


def one(name: str, seed: int, words: Mapping[str, str] | None, options: Mapping[str, Any], **setting: Any) -> Any:
    """Train once and return the report card; runs in a process of its own."""
    from softprompt.training.train import train

    chosen = Setting(**setting)
    with tempfile.TemporaryDirectory() as folder:
        task = task_of(chosen, name, seed=seed, words=words)
        result = train(backbone_of(chosen), task, run=folder, seed=seed, **options)
    assert result.report is not None
    return {
        "report": result.report.to_json(), "bytes": len(result.prompt.to_bytes()), "steps": result.fit.steps,
        "training seconds": result.fit.seconds,
    }  # fmt: skip


def accuracy(setting: Setting) -> Result:
    runs = [run for run in RUNS if setting.source(run.data)] or [Run("packaged")]
    found: dict[str, list[dict[str, Any]]] = {}
    for run in runs[: setting.pick(None, 2)]:
        for seed in run.seeds[: setting.pick(None, 1)]:
            found.setdefault(run.data, []).append(_timed(setting, run, seed))
    table = Table("Test accuracy with no settings", _COLUMNS)
    for run in runs:
        for each in found.get(run.data, []):
            table.rows.append(_row(run.data, each))
    names = [run.data for run in runs]
    title = "Accuracy with no settings"
    return Result("accuracy", title, PROCEDURE, [table, _means(runs, found)], found, setting.files(*names))


_COLUMNS = [
    "data", "seed", "test rows", "soft prompt % (95 %)", "linear probe %", "zero-shot %", "majority %", "seconds",
]  # fmt: skip


def _timed(setting: Setting, run: Run, seed: int) -> dict[str, Any]:
    options = setting.pick({}, {"steps": 3, "test_rows": 40, "probe_rows": 40, "validation_rows": 40})
    began = time.monotonic()
    made = call("accuracy", "one", **setting.plain(name=run.data, seed=seed, words=run.words, options=options))
    return {"seed": seed, "seconds": time.monotonic() - began, **made}


def _row(data: str, each: Mapping[str, Any]) -> list[str]:
    report = each["report"]
    own = report["figures"]
    low, high = own["accuracy_interval"]
    rivals = {rival["name"]: rival["figures"] for rival in report["rivals"] if rival["figures"]}
    beside = [
        _percent(rivals[name]["accuracy"]) if name in rivals else "–"
        for name in ("linear probe", "zero-shot", "majority class")
    ]
    interval = f"**{_percent(own['accuracy'])}** ({_percent(low)} – {_percent(high)})"
    return [data, str(each["seed"]), f"{own['rows']:,}", interval, *beside, f"{each['seconds']:.0f}"]


def _means(runs: list[Run], found: Mapping[str, list[dict[str, Any]]]) -> Table:
    """The figures that have an aim."""
    table = Table("Aims", ["data", "mean accuracy % (aim)", f"longest training, seconds (aim: below {SECONDS})"])
    for run in runs:
        made = found.get(run.data)
        if run.aim is None or not made:
            continue
        mean = statistics.mean(each["report"]["figures"]["accuracy"] for each in made)
        longest = max(each["seconds"] for each in made)
        table.rows.append([run.data, f"**{_percent(mean)}** (≥ {_percent(run.aim)})", f"{longest:.0f}"])
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
