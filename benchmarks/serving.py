"""What a prompt costs a request, what many prompts cost a batch, PEFT beside it, and ten thousand prompts at rest."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import serving_store
from cells import Cell, Cells
from results import Result, Table
from rounds import median_ratio
from serving_cases import BARE, BOTH, CLASSIFY, HARD, KINDS, MANY, ONE, PLAIN, PROMPT, WRITE
from serving_peft import BATCHED, EACH, LABELS, OURS
from subjects import Setting

LENGTHS, CLIENTS, ADAPTERS = (20, 100), 16, 8
SHARE_AIM = 0.95
PEFT_AIMS = {"classification": 10.0, "generation": 5.0}
READY_AIM, IDLE_AIM, COLD_AIM = 2.0, 100.0, 2.0

PROCEDURE = """Every comparison but the last is made in one process on one set of weights, turn by turn (another side
begins each round); the first turn of each side warms up and is not counted, and a ratio is the median of the ratios of
the rounds. Prompts are untrained: common tokens, embedded. Rows are those of the test split. Texts are 32 tokens long
on every side, because no token is let end one sooner. softprompt answers through its engine, tokenisation included.

- *One prompt, many prompts*: the same rows, all asked at once; prompts of 20 virtual tokens; "many lengths and kinds"
  is 8 to 32, 20 on average, every fourth prompt in the form of keys and values. Classification has one prompt or all of
  them, generation likewise; both at once has one of each, or half of them of each.
- *bare*: the same engine on the same text without virtual tokens, the template's words kept as a prompt's are.
  *hard prompt*: words of as many tokens in the place of the virtual ones, kept likewise. *transformers*: the model's
  own forward pass on whole rows in batches of like length; `generate` in one batch behind the kept hard prompt.
- *PEFT*: each of 16 clients, which are threads, waits for its answer and asks the next; 8 prompts of 20 virtual tokens.
  PEFT answers one request at a time under a lock: `set_adapter`, then the model or `generate`; with logits of the label
  position only; and at its best with one prompt, in batches of 16 rows. Both rivals are spared a trap of torch on CPUs
  that would make their logits of the last position forty times as slow (`last_states.py`).
- *10,000 prompts*: `softprompt serve` is started on a store of them; ready is when `/readyz` says so, counted from the
  line in the log that says that the backbone is loaded. Idle prompts take what the server's own memory has more than
  that of a server with one prompt, after a list of all names. Requests are classifications of one row over HTTP."""


def serving(setting: Setting) -> Result:
    cells, asked = Cells(setting, "serving"), _cases(setting)
    cells.run(asked)
    found = {cell.name: made["found"] for cell in asked if (made := cells.read(cell))}
    tables = [_mixed(found), _classification(found), _decoding(found), _peft(found), _store(found)]
    tables[0].note += f" Cells measured at commit {cells.origins(asked)}."
    tables.append(Table("Missing", ["case"], [[name] for name in cells.missing(asked)]))
    return Result("serving", "Serving: many prompts over one backbone", PROCEDURE, tables, found, setting.files("sst2"))


def _cases(setting: Setting) -> list[Cell]:
    pick, rounds = setting.pick, setting.pick(5, 2)

    def one(name: str, module: str, function: str, **arguments: Any) -> Cell:
        return Cell(name, "sst2" if setting.source("sst2") else "", arguments, (module, function))

    work = {"prompts": pick(100, 10), "classified": pick(200, 20), "written": pick(100, 10)}
    asked = {"classified": pick(96, 16), "written": pick(32, 4), "count": pick(CLIENTS, 4)}
    decoded = {"rows": pick(32, 4), "rounds": rounds}
    return [
        one("mixed", "serving_cases", "mixed", rounds=pick(3, 2), **work),
        one(
            "classification", "serving_cases", "classification", lengths=LENGTHS, rows=pick(128, 16), rounds=pick(9, 2)
        ),
        *[one(f"decoding-{P}", "serving_cases", "decoding", virtual_tokens=P, **decoded) for P in LENGTHS],
        one("peft", "serving_peft", "clients", prompts=pick(ADAPTERS, 2), rounds=pick(3, 1), **asked),
        one("store", "serving_store", "many", count=pick(10_000, 100), starts=pick(3, 1), cold=pick(21, 3)),
    ]


Found = Mapping[str, Mapping[str, Any]]


def _mixed(found: Found) -> Table:
    columns = ["work", "prompts", "rows a turn", "prompts a turn", "rows/s", "tokens/s", "share of one prompt's (aim)"]
    table = Table("The same work with many prompts and with one", columns)
    table.note = "A turn is a pass over new rows and a step of those in flight; tokens are those written."
    for name, seconds in found.get("mixed", {}).get("seconds", {}).items():
        own, (work, side) = found["mixed"], name.split(", ", 1)
        means, spent = own["company"][name], statistics.median(seconds)
        cells = [f"{means['rows']:.1f}", f"{means['prompts']:.1f}", f"{own['rows'][name] / spent:.1f}"]
        cells.append(f"{own['tokens'][name] / spent:.0f}" if own["tokens"][name] else "")
        one = own["seconds"][f"{work}, {ONE}"]
        cells.append("" if side == ONE else _share(median_ratio(one, seconds)))
        table.rows.append([work, side, *cells])
    table.rows.sort(key=lambda row: [(CLASSIFY, WRITE, BOTH).index(row[0]), (ONE, MANY, KINDS).index(row[1])])
    return table


def _share(ratio: float) -> str:
    return f"**{ratio:.3f}** (≥ {SHARE_AIM})"


def _classification(found: Found) -> Table:
    columns = ["P", "with the prompt", BARE, PLAIN, "share of the bare rate (aim)"]
    table = Table("Classification beside the bare backbone, rows a second", columns)
    own = found.get("classification", {"seconds": {}})
    for P in (name for name in own["seconds"] if name not in (BARE, PLAIN)):
        seconds = [own["seconds"][name] for name in (P, BARE, PLAIN)]
        rates = [f"{own['rows'] / statistics.median(each):.1f}" for each in seconds]
        table.rows.append([P, *rates, _share(median_ratio(seconds[1], seconds[0]))])
    return table


def _decoding(found: Found) -> Table:
    columns = ["P", "with the prompt", HARD, PLAIN, "share of the hard prompt's rate (aim)"]
    table = Table("Decoding beside the bare backbone with a kept hard prompt of P tokens, tokens a second", columns)
    for name, own in ((name, own) for name, own in found.items() if name.startswith("decoding-")):
        seconds = [own["seconds"][side] for side in (PROMPT, HARD, PLAIN)]
        rates = [f"{own['tokens'] / statistics.median(each):.0f}" for each in seconds]
        table.rows.append([name.removeprefix("decoding-"), *rates, _share(median_ratio(seconds[1], seconds[0]))])
    return table


def _peft(found: Found) -> Table:
    sides = (OURS, EACH, LABELS, BATCHED)
    columns = ["work", *sides, "× set_adapter (aim)", "× label logits only", "× batched, one prompt"]
    table = Table(f"{CLIENTS} clients over {ADAPTERS} prompts: softprompt and PEFT", columns)
    table.note = "Classification in requests a second; generation of 32 tokens in tokens a second."
    for work, own in found.get("peft", {}).items():
        amount, seconds = own.get("tokens", own["answers"]), own["seconds"]
        rates = [f"{amount / statistics.median(seconds[side]):.1f}" if side in seconds else "" for side in sides]
        ratios = {side: f"{median_ratio(seconds[side], seconds[OURS]):.1f}" for side in sides if side in seconds}
        aimed = f"**{ratios[EACH]}** (≥ {PEFT_AIMS[work]:g})"
        table.rows.append([work, *rates, aimed, ratios.get(LABELS, ""), ratios[BATCHED]])
    return table


def _store(found: Found) -> Table:
    if "store" not in found:
        return Table("Prompts in the store", [])
    own, means = found["store"], serving_store.medians(found["store"])
    table = Table(f"{own['prompts']:,} prompts in the store", ["what", "found", "aim"])
    size = own["filled many"]["bytes each"] / 1024
    first, second = (f"{1000 * means[kind]:.0f} ms" for kind in ("cold", "warm"))
    times = means["cold"] / means["warm"]
    table.rows = [
        ["server ready after the backbone", f"**{means['ready']:.2f} s**", f"< {READY_AIM:g} s"],
        [f"memory of idle prompts (files of {size:.0f} KiB)", f"**{means['idle']:.1f} MiB**", f"< {IDLE_AIM:g} MB"],
        [f"first request of a prompt, {first}, over a second one, {second}", f"**{times:.2f}×**", f"< {COLD_AIM:g}×"],
    ]
    return table
