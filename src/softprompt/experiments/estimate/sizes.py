"""What has to be kept for a task, by method: numbers that train, and bytes, counted from a blueprint."""

from __future__ import annotations

from dataclasses import dataclass

from softprompt.backbones.blueprint import Blueprint
from softprompt.methods.sublayers import SUBLAYERS

FP32 = 4
HEADER = 1_250
"""Bytes of a prompt file's header, about: template, readout, fingerprint and provenance as JSON."""
_KEYS_VALUES = frozenset({"k", "v", "key", "value", "k_proj", "v_proj", "k_lin", "v_lin"})
_INNER = frozenset({"wo", "fc2", "lin2", "down_proj"})


@dataclass(frozen=True)
class Size:
    """What one method trains and keeps for a task.

    Attributes:
        name: as the catalogue of methods has it.
        title: for a reader.
        trained: numbers; None: not known for this architecture.
        kept: bytes for one task.
        formula: how it is counted.
    """

    name: str
    title: str
    trained: int | None
    kept: int | None
    formula: str

    def of_model(self, total: int) -> float | None:
        """Share of a model's parameters."""
        return None if self.trained is None else self.trained / total


def sizes(shape: Blueprint, *, virtual_tokens: int, labels: int, rank: int, bottleneck: int, each: int) -> list[Size]:
    """Return what each method trains and keeps.

    - prompt (Lester et al. 2021, arXiv 2104.08691): P·D;
    - deep prompt (Li & Liang 2021, arXiv 2101.00190; Liu et al. 2021, arXiv 2110.07602): Σ over layers of 2·H·P·K;
    - learned rows: C·(D + 1), beside either;
    - LoRA (Hu et al. 2021, arXiv 2106.09685): Σ r·(in + out) over all linear layers but the output rows;
    - Houlsby (arXiv 1902.00751): Σ (2·D·m + m + D) over the projections back to the hidden size;
    - (IA)³ (Liu et al. 2022, arXiv 2205.05638): what makes keys and values, and the inner width of the MLP;
    - BitFit (arXiv 2106.10199): every bias in the transformer; full: every parameter.

    Args:
        shape: of the model.
        virtual_tokens: P.
        labels: C.
        rank: r of LoRA.
        bottleneck: m of Houlsby's adapters.
        each: bytes of one of the model's weights, in whose precision all but prompts are kept.
    """
    P, D = virtual_tokens, shape.embedding_size
    rows = labels * (shape.hidden_size + 1)
    found = [
        _size("soft-prompt", f"Soft prompt, {P} tokens", P * D, "P·D", FP32, HEADER),
        _size("deep-prompt", f"Deep prompt, {P} tokens", deep(shape, P), "Σ 2·H·P·K", FP32, HEADER),
        _size("rows", f"Learned rows, {labels} labels", rows, "C·(D + 1), on top of a prompt", FP32),
        _size("ia3", "(IA)³", ia3(shape), "keys, values, inner width of the MLP", each),
        _size("bitfit", "BitFit", shape.biases or None, "all biases" if shape.biases else "it has no biases", each),
        _size("lora", f"LoRA (r = {rank})", lora(shape, rank), "Σ r·(in + out), linear layers", each),
        _size("houlsby", f"Houlsby (m = {bottleneck})", houlsby(shape, bottleneck), "Σ (2·D·m + m + D)", each),
    ]
    return [*found, _size("full", "Full copy", shape.total, "every parameter", each)]


def _size(name: str, title: str, trained: int | None, formula: str, each: int, header: int = 0) -> Size:
    return Size(name, title, trained, None if trained is None else trained * each + header, formula)


def deep(shape: Blueprint, virtual_tokens: int) -> int:
    """Return the numbers of a deep prompt: keys and values of each virtual token in every layer."""
    return virtual_tokens * sum(layer.numbers for layer in shape.layers)


def lora(shape: Blueprint, rank: int) -> int:
    """Return the numbers of low-rank matrices beside all linear layers; experts kept in one tensor have none."""
    linears = [each for each in shape.linears if not _reads_out(shape, each.inputs, each.outputs, each.group)]
    return sum(rank * (each.inputs + each.outputs) * each.count for each in linears)


def _reads_out(shape: Blueprint, inputs: int, outputs: int, group: str) -> bool:
    return group == "head" and (inputs, outputs) == (shape.hidden_size, shape.vocabulary)


def houlsby(shape: Blueprint, bottleneck: int) -> int:
    """Return the numbers of adapters behind every attention and every MLP."""
    known = SUBLAYERS.get(shape.model_type)
    if known is None:
        return sum(2 * count * _adapter(size, bottleneck) for size, count in shape.blocks.items())
    places = sum(each.count for each in shape.linears if each.name in known.outputs)
    return places * _adapter(next(iter(shape.blocks)), bottleneck)


def _adapter(size: int, bottleneck: int) -> int:
    return 2 * size * bottleneck + bottleneck + size


def ia3(shape: Blueprint) -> int | None:
    """Return the numbers that scale keys, values and inner activations; None where it is not known which these are."""
    known = SUBLAYERS.get(shape.model_type)
    if known is None:
        scaled = sum(e.outputs * e.count for e in shape.linears if e.name.rpartition(".")[2] in _KEYS_VALUES)
        inner = sum(e.inputs * e.count for e in shape.linears if e.name.rpartition(".")[2] in _INNER)
        return scaled + inner if scaled and inner else None
    scaled = sum(each.outputs * each.count for each in shape.linears if each.name in known.keys_values)
    return scaled + sum(each.inputs * each.count for each in shape.linears if each.name == known.inner)
