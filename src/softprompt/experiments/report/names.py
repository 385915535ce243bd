"""How a comparison's report calls a method, in which order methods stand, and how it writes amounts."""

from __future__ import annotations

from typing import NamedTuple

from softprompt.evaluation.tables import shortened


class Key(NamedTuple):
    """A line of a comparison: a method with a readout.

    Attributes:
        method: as `methods.catalogue` names it.
        readout: `words` or `rows`; empty: the method has no choice.
    """

    method: str
    readout: str = ""

    @property
    def title(self) -> str:
        """What the report calls it.

        >>> Key("lora", "rows").title
        'LoRA + learned rows'
        """
        named = METHODS[self.method][0] if self.method in METHODS else shortened(self.method, 40)
        return f"{named} + learned rows" if self.readout == "rows" else named

    @property
    def family(self) -> str:
        """What kind of method it is: `free`, `probe`, `prompt`, `adapter`, `weights`, or `other`."""
        return METHODS[self.method][1] if self.method in METHODS else "other"

    @property
    def order(self) -> tuple[int, str, str]:
        """Where it stands among others: by family, then as the catalogue has it, label words before learned rows."""
        known = list(METHODS)
        place = known.index(self.method) if self.method in METHODS else len(known)
        return place, self.method, {"": "0", "words": "1", "rows": "2"}.get(self.readout, self.readout)


METHODS = {
    "majority": ("majority label", "free"),
    "zero-shot": ("zero-shot", "free"),
    "hard-prompt": ("hand-written prompt", "free"),
    "few-shot-4": ("4 examples in context", "free"),
    "few-shot-16": ("16 examples in context", "free"),
    "few-shot-max": ("as many examples as fit", "free"),
    "probe-hidden": ("linear probe (hidden states)", "probe"),
    "probe-sentence": ("linear probe (sentence embeddings)", "probe"),
    "setfit": ("SetFit", "probe"),
    "soft-prompt": ("soft prompt", "prompt"),
    "deep-prompt": ("deep prompt", "prompt"),
    "p-tuning": ("P-tuning", "prompt"),
    "prefix-tuning": ("prefix tuning", "prompt"),
    "peft-prompt-tuning": ("PEFT prompt tuning (our settings)", "prompt"),
    "peft-prompt-tuning-tutorial": ("PEFT prompt tuning (tutorial)", "prompt"),
    "peft-p-tuning": ("PEFT P-tuning", "prompt"),
    "peft-prefix-tuning": ("PEFT prefix tuning", "prompt"),
    "lora": ("LoRA", "adapter"),
    "ia3": ("IA³", "adapter"),
    "houlsby": ("Houlsby adapters", "adapter"),
    "bitfit": ("BitFit", "weights"),
    "full": ("full fine-tuning", "weights"),
}
"""Titles and families by name, in the order in which reports show them."""

OURS = (
    Key("soft-prompt", "rows"),
    Key("deep-prompt", "rows"),
    Key("soft-prompt", "words"),
    Key("deep-prompt", "words"),
)
"""What a comparison calls *the soft prompt*: the first of these that it ran; the first of all is the default."""
PROBES = ("probe-hidden", "probe-sentence")
HEAVY = ("lora", "houlsby", "full")
"""The methods that the default is held against: it should be within a point of the best of them."""


def amount_of_bytes(size: float) -> str:
    """Write a number of bytes.

    >>> amount_of_bytes(0), amount_of_bytes(41_216), amount_of_bytes(536_000_000)
    ('0 B', '41.2 kB', '536 MB')
    """
    for unit in ("B", "kB", "MB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def amount_of_time(seconds: float) -> str:
    """Write a time.

    >>> amount_of_time(0.2), amount_of_time(75), amount_of_time(5400)
    ('0.2 s', '1 min 15 s', '1 h 30 min')
    """
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, left = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {left} s" if left else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def amount_of_memory(mebibytes: float) -> str:
    """Write an amount of memory.

    >>> amount_of_memory(820), amount_of_memory(2150.4)
    ('820 MiB', '2.1 GiB')
    """
    return f"{mebibytes:.0f} MiB" if mebibytes < 1023.5 else f"{mebibytes / 1024:.1f} GiB"


def figure(value: float) -> str:
    """Write a number in about three digits.

    >>> figure(0.01234), figure(12.345), figure(1234567)
    ('0.0123', '12.3', '1,234,567')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def listed(names: list[str] | tuple[str, ...]) -> str:
    """Join names as one writes them.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def counted(count: int, noun: str) -> str:
    """Write a number of things.

    >>> counted(1, "row"), counted(2000, "row")
    ('1 row', '2,000 rows')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
