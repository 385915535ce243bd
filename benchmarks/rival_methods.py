"""What the rivals train: LoRA and full fine-tuning with the readout that ours has, and PEFT's prompt tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rival_rows import RivalRows

from softprompt.methods.full import FULL
from softprompt.methods.lora import LORA, LORA_ATTENTION
from softprompt.methods.peft_encoders import in_front
from softprompt.methods.peft_prompts import documented
from softprompt.methods.tuning import Rival

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone
    from softprompt.tasks.task import Task

TUNED = {"lora": LORA, "lora-attention": LORA_ATTENTION, "full": FULL}


def rival(method: str, readout: str, backbone: Backbone, task: Task, rows: RivalRows, seed: int) -> Rival:
    """Make a rival by name; all but prompt tuning train the backbone's own weights, so each needs one of its own."""
    if method == "prompt-tuning":
        return documented(backbone, in_front(task), seed)
    return TUNED[method].prepare(backbone, rows, seed, "rows" if readout == "rows" else "words")[1]
