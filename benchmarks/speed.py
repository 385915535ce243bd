"""Speed and memory of training and scoring, side by side with PEFT's prompt tuning."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cases import BARE, DOCUMENTED, LABEL_POSITIONS, OURS
from child import OutOfMemoryError, call
from results import Result, Table
from rounds import median_ratio
from subjects import GPT2, Setting

LENGTHS = (20, 100)
AIMS = {GPT2: {20: 2.8, 100: 7.0}}
OTHER_AIMS = {20: 8.0, 100: 15.0}
MEMORY_AIM, SCORING_AIM, GROWTH_AIM, SHARE_AIM = 1 / 3, 0.95, 1.1, 0.50

PROCEDURE = """Every comparison is made in one process on one set of weights, turn by turn (A, B, A, B, ...; each round
another side begins) on the same batches of 32 shuffled rows, which PEFT pads to their longest as its documentation
does, with the same number of virtual tokens, after a warm-up; a ratio is the median of the ratios of the rounds. Each
process is fresh. Dropout is off on both sides and the optimizer is AdamW.

- *PEFT, as documented*: `get_peft_model` with `PromptTuningConfig`, labels -100 but at the answer, logits everywhere.
- *PEFT, label positions only*: PEFT's rows, but the base model without its head, its output matrix at the labels only.
- *softprompt*: the trainer's own step with its monitors and gradient clipping, its layers compiled as in any training
  long enough (`compile.md` has steps without). PEFT's documented step runs as transformers has it.
- *P = 0*: whole rows behind their own BOS, forward, and backward to the embedded tokens; no optimizer."""


def speed(setting: Setting) -> Result:
    subjects = [setting, replace(setting, backbone=GPT2)]
    training = {s.backbone: {P: _training(s, P) for P in LENGTHS} for s in subjects}
    growth = call(
        "cases", "growth", **setting.plain(lengths=[*LENGTHS], rounds=setting.pick(7, 2), steps=setting.pick(2, 1))
    )
    rows = setting.pick(256, 32)
    scoring = {
        P: call("cases", "scoring", **setting.plain(virtual_tokens=P, rounds=setting.pick(7, 2), rows=rows))
        for P in LENGTHS
    }
    memory = {P: {side: _memory(setting, P, side) for side in (OURS, LABEL_POSITIONS, DOCUMENTED)} for P in LENGTHS}
    figures = {"training": training, "growth": growth, "scoring": scoring, "memory": memory}
    tables = [
        _training_table(training),
        _memory_table(memory),
        _scoring_table(scoring),
        _growth_table(growth),
        _share_table(growth),
        *_operator_tables(growth),
    ]
    return Result("speed", "Speed and memory beside PEFT", PROCEDURE, tables, figures, setting.files("sst2"))


def _training(setting: Setting, virtual_tokens: int) -> dict[str, Any]:
    """One comparison; the side that a machine has no memory for is left out and said so."""
    asked = setting.plain(virtual_tokens=virtual_tokens, rounds=setting.pick(5, 2), steps=1)
    try:
        return call("cases", "training", **asked)
    except OutOfMemoryError as died:
        return {**call("cases", "training", **asked, without=[DOCUMENTED]), "left out": f"{DOCUMENTED}: {died}"}


def _memory(setting: Setting, virtual_tokens: int, side: str) -> dict[str, float] | None:
    try:
        return call("cases", "memory", **setting.plain(virtual_tokens=virtual_tokens, side=side, steps=2))
    except OutOfMemoryError:
        return None


def _training_table(training: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> Table:
    columns = [
        "backbone", "P", "tokens a row", OURS, DOCUMENTED, LABEL_POSITIONS, "× documented (aim)", "× label pos.",
        "compiling, s, once",
    ]  # fmt: skip
    table = Table("Training, examples a second", columns)
    for backbone, lengths in training.items():
        for P, found in lengths.items():
            seconds = found["seconds"]
            aim = AIMS.get(backbone, OTHER_AIMS)[P]
            rate = {name: f"{found['batch'] / statistics.median(times):.1f}" for name, times in seconds.items()}
            ratio = {n: f"{median_ratio(times, seconds[OURS]):.1f}" for n, times in seconds.items()}
            table.rows.append([
                backbone, str(P), f"{statistics.mean(found['tokens']) / found['batch']:.1f}", rate[OURS],
                rate.get(DOCUMENTED, "out of memory"), rate[LABEL_POSITIONS],
                f"**{ratio.get(DOCUMENTED, '–')}** (≥ {aim:g})", ratio[LABEL_POSITIONS], f"{found['compiling']:.0f}",
            ])  # fmt: skip
    table.note = "Tokens a row are counted from the first field on; the prompt's own are not among them."
    return table


def _memory_table(memory: Mapping[int, Mapping[str, Mapping[str, float] | None]]) -> Table:
    columns = ["P", "side", "loaded, MiB", "peak, MiB", "growth, MiB", "our peak / its peak", "our growth / its growth"]
    table = Table("Peak memory of training, a process each", columns)
    table.note = f"Aim: our peak at most {MEMORY_AIM:.2f} of documented PEFT's. Loaded: resident with the weights read."
    for P, sides in memory.items():
        ours = sides[OURS]
        for side, found in sides.items():
            if found is None:
                table.rows.append([str(P), side, "", "out of memory", "", "", ""])
                continue
            grown, own = found["peak"] - found["loaded"], ours["peak"] - ours["loaded"]
            shares = ["", ""] if side == OURS else [f"{ours['peak'] / found['peak']:.2f}", f"{own / grown:.2f}"]
            table.rows.append([str(P), side, *(f"{n:,.0f}" for n in (found["loaded"], found["peak"], grown)), *shares])
    return table


def _scoring_table(scoring: Mapping[int, Mapping[str, Any]]) -> Table:
    table = Table("Classification, rows a second", ["P", "with the prompt", "bare", "share of the bare rate (aim)"])
    table.note = "`score_labels` on the same text, tokenisation included; the bare template's few words are kept too."
    for P, found in scoring.items():
        ours, bare = found["seconds"][OURS], found["seconds"][BARE]
        rate = [f"{found['rows'] / statistics.median(times):.1f}" for times in (ours, bare)]
        table.rows.append([str(P), *rate, f"**{median_ratio(bare, ours):.3f}** (≥ {SCORING_AIM})"])
    return table


def _growth_table(growth: Mapping[str, Any]) -> Table:
    columns = ["P", "seconds a step", "at P = 0", "ratio", "1 + (P+1) / text tokens", "ratio over that (aim)"]
    table = Table("A step at P beside a step at P = 0", columns)
    tokens = growth["tokens"][BARE]
    table.note = f"Text tokens: {tokens:.0f} a batch on average, unpadded, BOS and template words among them."
    bare = growth["seconds"][BARE]
    for P in growth["prefix"]:
        seconds = growth["seconds"][P]
        ratio, more = median_ratio(seconds, bare), 1 + (int(P) + 1) / tokens
        medians = [f"{statistics.median(times):.4f}" for times in (seconds, bare)]
        table.rows.append([P, *medians, f"{ratio:.3f}", f"{more:.3f}", f"**{ratio / more:.3f}** (≤ {GROWTH_AIM})"])
    return table


def _share_table(growth: Mapping[str, Any]) -> Table:
    table = Table("Share of the machine in training", ["P", "GFLOP a step", "GFLOP/s", "best GEMM", "share (aim)"])
    table.note = (
        f"Needed arithmetic: {growth['parameters']:,} weights of linear layers, 2 FLOP each, forward and input "
        "gradient, for unpadded row tokens and one prefix; best GEMM: GFLOP/s, same run, same dtype."
    )
    for P, share in shares(growth).items():
        needed = _needed(growth, P)
        rate = needed / statistics.median(growth["seconds"][P])
        cells = [f"{n / 1e9:,.0f}" for n in (needed, rate, growth["gemm"])]
        table.rows.append([P, *cells, f"**{share:.2f}** (≥ {SHARE_AIM})"])
    return table


def shares(growth: Mapping[str, Any]) -> dict[str, float]:
    """For each P, needed FLOPs over the step's time over the best GEMM rate."""
    return {P: _needed(growth, P) / statistics.median(growth["seconds"][P]) / growth["gemm"] for P in growth["prefix"]}


def _needed(growth: Mapping[str, Any], P: str) -> float:
    return growth["flops_per_token"] * (growth["tokens"]["rows"] + growth["prefix"][P])


def _operator_tables(growth: Mapping[str, Any]) -> list[Table]:
    """Where the time goes, for each P that falls short of the aim."""
    short = [P for P, share in shares(growth).items() if share < SHARE_AIM]
    return [
        Table(
            f"Where a step at P = {P} spends its time",
            ["operator", "share of CPU time"],
            [[f"`{name}`", f"{share:.1%}"] for name, share in growth["operators"][P]],
        )
        for P in short
    ]
