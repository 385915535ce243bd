"""`softprompt estimate`: what a model of any size takes, from its configuration alone."""

from __future__ import annotations

import typer

from softprompt.cli.opening import AS_JSON
from softprompt.cli.output import print_json


def estimate(
    model: str = typer.Argument(
        help="A preset (gpt-3, t5-xxl, llama-3.1-70b, …), a hub id, a folder or a config.json file."
    ),
    tasks: int = typer.Option(1, help="How many tasks are to be kept."),
    length: int = typer.Option(20, help="Virtual tokens of a prompt."),
    words: int = typer.Option(1, help="Tokens of the template in front of a row, BOS among them."),
    rows: int = typer.Option(32, help="Rows of a training step."),
    tokens: int = typer.Option(64, help="Tokens of its longest row."),
    labels: int = typer.Option(2, help="Labels to choose from."),
    steps: int = typer.Option(1000, help="Steps of a run."),
    dtype: str = typer.Option("bf16", help="Of the frozen weights: bf16, fp32 or fp16."),
    gpu: list[str] = typer.Option(
        [], help="t4, l4, a10g, a100-40, a100-80, h100, h200 or laptop; repeat. Default: all of them."
    ),
    share: float = typer.Option(0.4, help="Share of a machine's peak that matrix products reach."),
    memory: float | None = typer.Option(None, min=0, help="GiB that prompts are to fit in. Default: the machine's."),
    rank: int = typer.Option(8, help="Of LoRA."),
    bottleneck: int = typer.Option(64, help="Width of Houlsby's adapters."),
    measure: bool = typer.Option(False, "--measure", help="Time the operators of a step on this machine."),
    as_json: bool = AS_JSON,
) -> None:
    """Say what prompts and their rivals take on a model of any size: bytes, memory, time; no weights are read.

    Example: softprompt estimate gemma-3-270m --tasks 100 --length 20 --rows 24 --tokens 40 --gpu h100 --json
    """
    from softprompt.experiments.estimate.estimate import Asked
    from softprompt.experiments.estimate.estimate import estimate as reckon
    from softprompt.experiments.estimate.table import written

    asked = Asked(
        tasks=tasks, virtual_tokens=length, words=words, rows=rows, tokens=tokens, labels=labels, steps=steps,
        dtype=dtype, machines=tuple(gpu), share=share, memory=None if memory is None else memory * 2**30,
        measure=measure, rank=rank, bottleneck=bottleneck,
    )  # fmt: skip
    found = reckon(model, asked)
    print_json(found.to_json()) if as_json else print(written(found))
