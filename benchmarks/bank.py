"""What many prompts in one pass, deep prompts, many labels and the race cost beside what they stand for."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from cells import Cell, Cells
from results import Result, Table
from rounds import median_ratio
from subjects import Setting

PROCEDURE = """Each case is a process of its own; its sides take turns on the same weights, another begins each round,
the first round warms up and is not counted, and a ratio is the median of the ratios of the rounds.

- *Bank*: `train_many` with 8 settings that differ in the seed, and the same 8 as single runs without a race; CPU time
  of all threads, and wall time, set-up included.
- *Deep prompts*: examples a second by the trainer's own clock, monitors included; PEFT's prefix tuning without
  projection on batches of the same rows, as documented (logits everywhere), and with logits at the answer only.
- *Labels*: the texts of banking77 with their 77 labels and with 2, training and `PromptedModel.score`.
- *Default*: `train` with no settings beside `train` with the settings of the prompt that it chose and `race=False`,
  the report card included in both, and without it."""

BANK_CPU, BANK_GPU, DEEP, CLASSES, DEFAULT = 1.05, 0.5, 3.0, 0.8, 2.5
PEFT = ("PEFT, as documented", "PEFT, label positions only")


def bank(setting: Setting) -> Result:
    cells, asked = Cells(setting, "bank", "bank_cases", "one"), _cases(setting)
    cells.run(list(asked.values()))
    found = {name: made["found"] for name, cell in asked.items() if (made := cells.read(cell))}
    tables = [_bank(setting, found), _deep(found), _classes(found), _default(found)]
    tables[0].note = f"Cells measured at commit {cells.origins(list(asked.values()))}."
    missing = cells.missing(list(asked.values()))
    tables.append(Table("Missing", ["case"], [[name] for name in missing]))
    names = [name for name in ("sst2", "trec", "banking77") if setting.source(name)]
    return Result("bank", "Banks, deep prompts, many labels, the race", PROCEDURE, tables, found, setting.files(*names))


def _cases(setting: Setting) -> dict[str, Cell]:
    steps, rounds = setting.pick(10, 2), setting.pick(3, 1)
    batch = setting.pick(24 if setting.device == "cpu" else 8, 4)
    few = {"steps": 3, "test_rows": 24, "probe_rows": 24, "validation_rows": 24}
    asked = {
        "bank-of-8": ("bank", "sst2", {"prompts": 8, "batch": batch, "steps": steps, "rounds": rounds}),
        "deep-20": ("deep", "sst2", {"virtual_tokens": 20, "steps": steps, "rounds": rounds + 2}),
        "deep-100": ("deep", "sst2", {"virtual_tokens": 100, "steps": steps, "rounds": rounds}),
        "classes": ("classes", "banking77", {"steps": steps, "rounds": rounds, "rows": setting.pick(512, 16)}),
        "default-sst2": ("default", "sst2", {"data": "sst2", "options": setting.pick({}, few)}),
        "default-trec": ("default", "trec", {"data": "trec", "options": setting.pick({}, few)}),
    }
    return {
        name: Cell(name, data, {"case": case, "arguments": arguments})
        for name, (case, data, arguments) in asked.items()
    }


Found = Mapping[str, Mapping[str, Any]]


def _bank(setting: Setting, found: Found) -> Table:
    table = Table(
        "A bank of 8 beside eight single runs", ["clock", "bank, seconds", "single runs, seconds", "ratio (aim)"]
    )
    own = found.get("bank-of-8")
    for clock, aim in (("cpu", BANK_CPU), ("wall", BANK_GPU if setting.device != "cpu" else None)) if own else ():
        one, eight = own[clock]["bank"], own[clock]["single runs"]
        told = f" (≤ {aim:g})" if aim and (clock == "cpu") == (setting.device == "cpu") else ""
        cells = [f"{statistics.median(seconds):.1f}" for seconds in (one, eight)]
        table.rows.append([f"{clock}, batch {own['batch']}", *cells, f"**{median_ratio(one, eight):.2f}**{told}"])
    return table


def _deep(found: Found) -> Table:
    columns = ["P", "softprompt", *PEFT, "× documented (aim)", "× label positions"]
    table = Table("Deep prompts beside PEFT's prefix tuning, training examples a second", columns)
    for own in (own for name, own in found.items() if name.startswith("deep-")):
        rates = own["rates"]
        ratios = [median_ratio(rates["softprompt"], rates[name]) for name in PEFT]
        cells = [f"{statistics.median(rates[name]):.1f}" for name in ("softprompt", *PEFT)]
        table.rows.append([str(own["virtual tokens"]), *cells, f"**{ratios[0]:.1f}** (≥ {DEEP:g})", f"{ratios[1]:.1f}"])
    return table


def _classes(found: Found) -> Table:
    table = Table("The same texts with many labels and with two", ["readout", "", "many", "two", "ratio (aim)"])
    own = found.get("classes", {})
    for readout in ("learned rows", "label words"):
        for what, rates in own.get(readout, {}).items():
            cells = [f"{statistics.median(rates[name]):.1f}" for name in ("all", "two")]
            table.rows.append([readout, f"{what}, rows a second", *cells, _ratio(rates)])
    return table


def _ratio(rates: Mapping[str, Any]) -> str:
    return f"**{median_ratio(rates['all'], rates['two']):.2f}** (≥ {CLASSES:g})"


def _default(found: Found) -> Table:
    columns = ["task", "clock", "default, seconds", "winner alone", "without report", "ratio (aim)", "without report"]
    table = Table("`train` with no settings beside one run of what it chose", columns)
    for name, own in ((name, own) for name, own in found.items() if name.startswith("default-")):
        for clock in ("cpu", "wall"):
            whole, winner, bare = (own["seconds"][side][clock] for side in ("default", "winner", "winner, no report"))
            cells = [f"{seconds:.0f}" for seconds in (whole, winner, bare)]
            ratios = [f"**{whole / winner:.2f}** (≤ {DEFAULT:g})", f"{whole / bare:.2f}"]
            table.rows.append([name.removeprefix("default-"), clock, *cells, *ratios])
    return table
