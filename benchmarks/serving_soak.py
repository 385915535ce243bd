"""Half an hour of everything at once: is the server there afterwards, no larger, and was every answer right?"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from child import call
from results import Result, Table
from serving_mischief import MAX_BODY, MAX_ROWS, garble, leave, misuse, oversize
from serving_questions import read, saved
from serving_replacing import replaced_of
from serving_server import Server, loadable
from serving_traffic import Scene, ask, calmly, classify_many, flood, stream
from serving_watch import calm, consistency, growth, scrape, watch
from serving_wire import Wire
from subjects import Setting

from softprompt.store.store import PromptStore

MINUTES, TINY_MINUTES, PROMPTS, QUEUE = 30.0, 1 / 3, 8, 64
FLAT = 0.02

PROCEDURE = f"""`softprompt serve` in fp32, with a queue of {QUEUE} rows, and clients in a process of their own, all at
once for as long as the table says: 24 that ask for one row, 8 that stream texts, 3 that send several rows for several
prompts, 6 that leave midway (half a request sent, no answer awaited, in the middle of a stream), 3 that send malformed
requests, 1 that sends oversized ones, 1 that sends bytes that are no HTTP; every few seconds 8 requests at once that
have more rows together than may wait. Two names get a new version every second or two, by an upload or straight into
the store, a tag is moved and their keys and values are dropped, while 6 clients ask for them.

Every answer that was read to the end is compared with the one that the same row has in a pass of its own, without
server and engine: texts and numbers of tokens must be the same, drawn ones too, and probabilities equal to 1e-4. Of a
name that is replaced, the version that answered must be one that had landed a second before, or a later one. Resident
memory is read each second; its growth is that of a line through the samples after the first third. The server's
counters must lie between what the clients read and what they may have missed by leaving."""

Act = Callable[[Scene, Wire], Awaitable[None]]
CLIENTS: Mapping[Act, int] = {ask: 24, stream: 8, classify_many: 3, leave: 6, misuse: 3, oversize: 1, garble: 1}
ASKING_REPLACED = 3


def serving_soak(setting: Setting) -> Result:
    minutes = setting.minutes or setting.pick(MINUTES, TINY_MINUTES)
    with tempfile.TemporaryDirectory() as place:
        store, exact = Path(place, "store"), replace(setting, dtype="fp32")
        exact = replace(exact, backbone=loadable(exact, Path(place)))
        files = _prepared(exact, Path(place), store)
        flags = ["--allow-manage", "--queue", str(QUEUE), "--max-body", str(MAX_BODY), "--max-rows", str(MAX_ROWS)]
        with Server(exact.backbone, "fp32", store, *flags) as server:
            seen = call("serving_soak", "load", port=server.port, pid=server.pid, minutes=minutes, **files)
            alive, code = server.alive, server.stop()
        errors = [line for line in server.log.splitlines() if re.match(r"\S+ (error|critical) ", line)]
    found = {**seen, "minutes": minutes, "alive": alive, "exit code": code, "errors": errors, **growth(seen["memory"])}
    tables = [_verdict(found), _events(found), _counters(found), _problems(found)]
    return Result("soak", f"{minutes:.3g} minutes of mixed traffic", PROCEDURE, tables, found, setting.files("sst2"))


def _prepared(setting: Setting, place: Path, store: Path) -> dict[str, str]:
    """The store, the questions and their answers; every third text is drawn, by a seed of its own."""
    count = setting.pick(PROMPTS, 4)
    asked = call("serving_questions", "prepare", store=str(store), prompts=count, replaced=True, **setting.plain())
    for number, each in enumerate(asked):
        if not each["reads"] and "@" not in each["model"] and number % 3 == 0:
            each["seed"] = number
    right = call("serving_questions", "one_by_one", store=str(store), asked=asked, **setting.plain())
    Path(place, "right.json").write_text(json.dumps(right), encoding="utf-8")
    questions = saved(Path(place, "questions.json"), asked)
    return {"store": str(store), "questions": questions, "right": str(Path(place, "right.json"))}


def load(port: int, pid: int, minutes: float, store: str, questions: str, right: str) -> dict[str, Any]:
    """Put the server under load; in a process of its own."""
    asked, answers = read(questions), json.loads(Path(right).read_text(encoding="utf-8"))
    known = dict(zip(asked, answers, strict=True))
    steady = [question for question in asked if "@" not in question.model]
    scene = Scene(port, time.monotonic() + 60 * minutes, steady, known)
    return asyncio.run(_load(scene, pid, PromptStore(store)))


async def _load(scene: Scene, pid: int, store: PromptStore) -> dict[str, Any]:
    before, memory = await scrape(scene), list[tuple[float, float]]()
    names = replaced_of(scene, store, scene.right)
    acts: list[Act] = [act for act, count in CLIENTS.items() for _ in range(count)]
    acts += [name.ask for name in names for _ in range(ASKING_REPLACED)]
    await asyncio.gather(
        watch(scene, pid, memory),
        flood(scene, MAX_ROWS, 8),
        *(name.replace() for name in names),
        *(scene.repeat(partial(act, scene)) for act in acts),
    )
    await calm(scene)
    await calmly(scene)
    checks = consistency(scene.tally, before, await calm(scene))
    return {**vars(scene.tally), "memory": memory, "checks": checks}


Found = Mapping[str, Any]


def _verdict(found: Found) -> Table:
    events = found["events"]
    broken = sum(not check["holds"] for check in found["checks"])
    lost = sum(events.get(name, 0) for name in ("broken connections", "refused without need", "not ready"))
    taken = sum(events.get(f"{kind} requests not refused", 0) for kind in ("malformed", "oversized"))
    changed = sum(events.get(name, 0) for name in ("uploads refused", "tags refused"))
    ended = "yes" if found["alive"] and found["exit code"] == 0 else f"no (exit code {found['exit code']})"
    larger = f"**{found['growth']:+.2%}** of {found['mean']:,.0f} MiB"
    table = Table(f"After {found['minutes']:.3g} minutes", ["what", "found", "aim"])
    table.rows = [
        ["the server is there, and ends in order", f"**{ended}**", "yes"],
        ["errors in its log", f"**{len(found['errors'])}**", "0"],
        [
            "growth of its memory after the warm-up",
            larger,
            f"≤ {FLAT:.0%}",
        ],
        ["wrong answers", f"**{events.get('wrong answers', 0)}** of {found['answered']:,}", "0"],
        ["answers of a version that had been replaced", f"**{events.get('old versions', 0)}**", "0"],
        ["requests in order that were lost or refused without need", f"**{lost}**", "0"],
        ["requests not in order that were not refused as they should", f"**{taken}**", "0"],
        ["replacements that failed", f"**{changed}**", "0"],
        ["counters that contradict the clients", f"**{broken}** of {len(found['checks'])}", "0"],
    ]
    table.note = f"The farthest right probability is off by {found['farthest']:.1e}."
    return table


def _events(found: Found) -> Table:
    return Table(
        "What happened", ["what", "times"], [[n, f"{count:,}"] for n, count in sorted(found["events"].items())]
    )


def _counters(found: Found) -> Table:
    table = Table("Counters", ["what", "server", "clients", "holds"])
    for check in found["checks"]:
        least, most = check["least"], check["most"]
        between = f"{least:,.0f}" if least == most else f"{least:,.0f} to {most:,.0f}"
        table.rows.append([check["what"], f"{check['server']:,.0f}", between, "yes" if check["holds"] else "**no**"])
    return table


def _problems(found: Found) -> Table:
    told = [*found["problems"], *found["errors"][:20]]
    return Table("Problems", ["story"], [[f"`{story.replace('|', '/').replace('`', '')[:500]}`"] for story in told])
