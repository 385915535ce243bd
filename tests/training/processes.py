"""What each of two processes does in `test_parallel.py`: `python processes.py JOB FOLDER`, started with a rank."""

import faulthandler
import json
import os
import signal
import sys
from pathlib import Path

import torch

from softprompt.backbones.backbone import Backbone, load_backbone
from softprompt.backbones.processes import join, leave
from softprompt.errors import TrainingError
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.tasks.load import load_task
from softprompt.testing.tiny import tiny_backbone
from softprompt.testing.toy import toy_rows
from softprompt.training import budget as measuring
from softprompt.training import trainer
from softprompt.training.bank import gradients
from softprompt.training.config import TrainConfig
from softprompt.training.learner import Learner
from softprompt.training.lesson import Lesson
from softprompt.training.parallel import ALONE, World
from softprompt.training.train import train

KINDS = (
    {"parameterization": "direct", "virtual_tokens": 4},
    {"parameterization": "deep", "virtual_tokens": 3, "learned_rows": True, "batch_size": 5},
)
SETTINGS = {"steps": 20, "batch_size": 6, "virtual_tokens": 4, "race": False, "report": False, "checkpoint_every": 5}


def task():
    splits = {"train": toy_rows(120), "validation": toy_rows(30, 1), "test": toy_rows(30, 2)}
    return load_task(splits, name="toy")


def bank(backbone: Backbone) -> tuple[PromptedModel, list[Learner]]:
    model, some = PromptedModel(backbone), task()
    settled = [TrainConfig(**{**SETTINGS, **kind}) for kind in KINDS]
    return model, [Learner(model, Lesson(str(n), c, some.template, some.readout, some.rows("train"), []))
                   for n, c in enumerate(settled)]  # fmt: skip


def worst(found, expected) -> float:
    """The largest relative difference of a gradient, or absolute one of a loss."""
    differences = [float((one.loss - other.loss).abs()) for one, other in zip(found, expected, strict=True)]
    for one, other in zip(found, expected, strict=True):
        for site, gradient in other.gradient.items():
            differences.append(
                float((one.gradient[site] - gradient).abs().max() / gradient.abs().max().clamp(min=1e-6))
            )
    return max(differences)


def learn(folder: Path) -> dict:
    """Gradients and twenty steps in both processes; then a stop that only the second one is asked for, and a resume."""
    world, backbone = World.here(), tiny_backbone("gemma3")
    model, learners = bank(backbone)
    alone = gradients(model, [learner.share() for learner in learners], 64)
    mine = gradients(model, [learner.share() for learner in learners], 64, world)
    out = {"gradient": worst(world.total(mine), alone), "bytes": world.crossing(mine), "own": worst(mine, alone)}
    whole = train(backbone, task(), run=folder / "whole", **SETTINGS).prompt
    out["digest"] = whole.digest
    calls = []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 8 and world.rank == 1:
            signal.raise_signal(signal.SIGTERM)
        return gradients(*arguments)

    trainer.gradients = interrupted
    try:
        train(backbone, task(), run=folder / "parts", **SETTINGS)
    except KeyboardInterrupt:
        out["stopped"] = len(calls)
    out["resumed"] = train(backbone, task(), run=folder / "parts", resume=True, **SETTINGS).prompt.digest
    return out


def budget(folder: Path) -> dict:
    """A budget of time, which each process would measure otherwise; and a step that does not fit in one of them."""
    world, backbone = World.here(), tiny_backbone("llama")
    settings = {**SETTINGS, "budget": "0.5 s", "steps": None}

    def full(*arguments):
        if world.rank == 1 and arguments[2] > 1024:
            raise torch.OutOfMemoryError
        return gradients(*arguments)

    trainer.gradients = measuring.gradients = full
    result = train(backbone, task(), run=folder / "run", **settings)
    return {"steps": result.fit.steps, "digest": result.prompt.digest}


def shard(folder: Path) -> dict:
    """A backbone in shards has the gradients of the whole one, layers run again or not."""
    join()
    whole = load_backbone(folder / "backbone", dtype="fp32")
    model, learners = bank(whole)
    expected = gradients(model, [learner.share() for learner in learners], 10_000, ALONE)
    backbone = load_backbone(folder / "backbone", dtype="fp32", shard=True)
    model, learners = bank(backbone)
    world = World.here(lockstep=backbone.sharded)
    found = world.total(gradients(model, [learner.share() for learner in learners], 40, world))
    weights = [p.to_local() if hasattr(p, "to_local") else p for p in backbone.model.parameters()]
    again = train(backbone, task(), run=folder / "again", checkpoint_layers=True, tokens_at_once=64, **SETTINGS).prompt
    trainer.gradients = _full
    message = ""
    try:
        train(backbone, task(), run=folder / "full", **SETTINGS)
    except TrainingError as error:
        message = str(error)
    return {
        "gradient": worst(found, expected),
        "numbers": sum(part.numel() for part in weights),
        "all": sum(part.numel() for part in whole.model.parameters()),
        "fingerprint": backbone.fingerprint == whole.fingerprint,
        "again": again.digest,
        "message": message,
    }


def _full(*_):
    raise torch.OutOfMemoryError


if __name__ == "__main__":
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(140)  # says where one waits for the other
    job, place = sys.argv[1], Path(sys.argv[2])
    found = {"learn": learn, "budget": budget, "shard": shard}[job](place)
    (place / f"{os.environ['RANK']}.json").write_text(json.dumps(found))
    leave()
    os._exit(0)  # torch's own threads now and then abort an orderly end, its work done
