"""Methods that nothing runs, in a catalogue of the test's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NAMES = ("plain-free", "tuned", "tuned-low", "tuned-high", "whole")


@dataclass
class Pretended:
    name: str
    title: str = "pretended"
    family: str = "adapter"
    base_rate: float | None = 1e-3
    readouts: tuple[str, ...] = ()
    changes: bool = False
    source: str = "nobody"


def catalogue() -> dict[str, Any]:
    return {
        "plain-free": Pretended("plain-free", family="free", base_rate=None),
        "tuned": Pretended("tuned", readouts=("words", "rows")),
        "tuned-low": Pretended("tuned-low"),
        "tuned-high": Pretended("tuned-high", readouts=("words",)),
        "whole": Pretended("whole", family="weights"),
        "refused": Pretended("refused", family="prompt"),
        **{name: Pretended(name, family="free", base_rate=None) for name in ("dies", "killed")},
    }


def install() -> None:
    """Put them in the place of the real ones."""
    from softprompt.methods import catalogue as real

    made = catalogue()
    real.names = lambda: tuple(made)
    real.method = lambda name: made[name]
