"""What is measured: the frozen backbone, and the task with its rows."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone
    from softprompt.tasks.task import Task

GPT2 = "gpt2-shaped"
TINY = "tiny-"
PACKAGED = "sms-spam"


@dataclass(frozen=True)
class Setting:
    """What was asked for; plain values, so that it travels to a child process.

    Attributes:
        backbone: what `load_backbone` takes, `gpt2-shaped`, or `tiny-FAMILY` to try a benchmark out.
        data: the folder of the data sets; None: the packaged one stands in.
        quick: few rows and steps, to see that it runs; the figures mean nothing.
        dtype: of the frozen weights.
        device: where they lie, for the benchmarks that can use another than the CPU.
        out: the folder of the results, where finished cells lie too (see `cells`).
        only: patterns of the cells to run, for instance `trec-*`; none: all.
        seeds: other seeds than the benchmark's own.
        rates: other learning rates than the benchmark's own.
        minutes: after these no cell is begun.
        again: run cells that are there already.
    """

    backbone: str
    data: str | None
    quick: bool
    dtype: str
    device: str = "cpu"
    out: str = "results"
    only: Sequence[str] = ()
    seeds: Sequence[int] = ()
    rates: Sequence[float] = ()
    minutes: float | None = None
    again: bool = False

    def plain(self, **changes: Any) -> dict[str, Any]:
        return {**asdict(self), **changes}

    def pick(self, full: Any, quick: Any) -> Any:
        """The one of two values that this run is for."""
        return quick if self.quick else full

    @property
    def origin(self) -> dict[str, Any]:
        """What a cell must have in common with this run to be taken as done; where things lie is nobody's business."""
        named = "FOLDER" if Path(self.backbone).exists() else self.backbone
        return {"backbone": named, "dtype": self.dtype, "device": self.device, "quick": self.quick}

    def source(self, name: str) -> str | None:
        """The folder of a data set, or None where it is not there."""
        folder = Path(self.data or "", name)
        return str(folder) if self.data and folder.is_dir() else None

    def files(self, *names: str) -> dict[str, Path]:
        """The files of some data sets, by names that say nothing of where they lie."""
        folders = {name: Path(found) for name in names if (found := self.source(name))}
        return {f"{name}/{path.name}": path for name, folder in folders.items() for path in folder.glob("*.jsonl")}


def backbone_of(setting: Setting, dtype: str | None = None) -> Backbone:
    """Load or build the backbone, on the device asked for."""
    import torch

    from softprompt.backbones.backbone import load_backbone

    wanted = dtype or setting.dtype
    if setting.backbone == GPT2:
        return _gpt2(setting, wanted)
    if setting.backbone.startswith(TINY):
        from softprompt.testing.tiny import tiny_backbone

        return tiny_backbone(setting.backbone.removeprefix(TINY), dtype=_torch_dtype(wanted))
    with torch.no_grad():
        return load_backbone(setting.backbone, device=setting.device, dtype=wanted)


def task_of(setting: Setting, name: str = "sst2", **options: Any) -> Task:
    """Read a task; the packaged data stands in where the folder lacks it."""
    from softprompt.tasks.load import load_task

    return load_task(setting.source(name) or PACKAGED, **options)


class WordTokenizer:
    """Whole words hashed to ids: rows of a natural length for a backbone of random weights."""

    bos_token_id, eos_token_id, pad_token_id = 0, 1, 2

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        return [3 + zlib.crc32(word.encode()) % (self._vocabulary - 3) for word in text.split()]

    def get_vocab(self) -> dict[str, int]:
        return {str(i): i for i in range(self._vocabulary)}


def _gpt2(setting: Setting, dtype: str) -> Backbone:
    """GPT-2's shape as transformers has it by default, with random weights."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from softprompt.backbones.backbone import Backbone

    torch.manual_seed(0)
    config = GPT2Config(**setting.pick({}, {"n_layer": 2, "n_embd": 64, "n_head": 4}))
    model = GPT2LMHeadModel(config).to(_torch_dtype(dtype))
    return Backbone(model, WordTokenizer(config.vocab_size), name=GPT2, weights=lambda: GPT2)


def _torch_dtype(name: str) -> Any:
    import torch

    return {"bf16": torch.bfloat16, "fp32": torch.float32}[name]
