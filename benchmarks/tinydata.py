"""Data sets of a few made-up rows in the layout of DATA.md: for trying every benchmark out in seconds."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path

Row = Mapping[str, object]
SIZES = {"train": 64, "validation": 24, "test": 24}
WORDS = {"good": "great", "bad": "awful", "warm": "kind", "dull": "slow", "free": "prize", "home": "dinner"}
OTHER = ("film", "story", "music", "plot", "the", "card")


def write(folder: Path) -> Path:
    """Write every set that a benchmark reads; return the folder."""
    for name, (make, splits) in _SETS.items():
        rng = random.Random(name)
        for split in splits:
            rows = [make(rng, number) for number in range(SIZES[split])]
            path = folder / name / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def _classes(*labels: str) -> Callable[[random.Random, int], Row]:
    """Rows of these labels in turn, each with its own telling word."""

    def make(rng: random.Random, number: int) -> Row:
        which = number % len(labels)
        words = [list(WORDS)[which % len(WORDS)], *rng.choices(OTHER, k=3), str(rng.randrange(1000))]
        rng.shuffle(words)
        return {"text": " ".join(words), "label": labels[which]}

    return make


def _pair(rng: random.Random, number: int) -> Row:
    first = " ".join(rng.choices(OTHER, k=4))
    other = first if number % 2 else " ".join(rng.choices(OTHER, k=4))
    return {
        "sentence1": f"{first} {rng.randrange(1000)}", "sentence2": other,
        "label": "equivalent" if number % 2 else "different",
    }  # fmt: skip


def _description(rng: random.Random, number: int) -> Row:
    name, food = rng.choice(list(WORDS)), rng.choice(OTHER)
    target = f"{name} has {food} {number}."
    return {"input": f"name[{name}], food[{food}], number[{number}]", "target": target, "references": [target]}


def _tagged(rng: random.Random, number: int) -> Row:
    tokens = [*rng.choices(OTHER, k=2), rng.choice(list(WORDS)), rng.choice(OTHER), str(number)]
    return {"tokens": tokens, "tags": ["O", "O", "B-PER", "I-PER", "O"]}


ALL, NO_VALIDATION = ("train", "validation", "test"), ("train", "test")
_SETS = {
    "sst2": (_classes("negative", "positive"), ALL),
    "sms_spam": (_classes("ham", "spam"), ALL),
    "trec": (_classes("number", "person", "location"), NO_VALIDATION),
    "banking77": (_classes("card_lost", "card_stolen", "top_up", "top_up_failed", "exchange_rate"), NO_VALIDATION),
    "mrpc": (_pair, NO_VALIDATION),
    "e2e_nlg": (_description, ALL),
    "wikiann/en": (_tagged, ALL),
    "tweet_sentiment/spanish": (_classes("negative", "neutral", "positive"), ALL),
    "tweet_sentiment/italian": (_classes("negative", "neutral", "positive"), ALL),
}
