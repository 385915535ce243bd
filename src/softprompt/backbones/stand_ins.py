"""What stands in for attention, experts and adapters where tensors have no numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from softprompt.backbones.attention import GROUPED, few_scores, grouped_attention
from softprompt.backbones.blueprint import is_linear, sides_of
from softprompt.backbones.families import FAMILIES

REHEARSED = "rehearsed"
"""The attention that stands in for `grouped`, and for fused kernels, on tensors without numbers."""


def attention_for(model_type: str) -> str:
    """Return what to build a blank with, so that it can be rehearsed: the stand-in wherever the family has a choice."""
    family = FAMILIES.get(model_type)
    register()
    return REHEARSED if family is None or GROUPED in family.attentions or family.kind == "encoder" else "eager"


class Short:
    """Whether short rows attend as on a CPU; set for each rehearsal."""

    grouped = False


def register() -> None:
    """Make the stand-ins known to transformers; doing it again changes nothing."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(REHEARSED, _attention)
    AttentionMaskInterface.register(REHEARSED, eager_mask)
    ALL_EXPERTS_FUNCTIONS.register(REHEARSED, _experts)


def _experts(module: Any, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """Send each token through as many experts as it is sent to, all of the shape of the first."""
    rows = hidden.repeat_interleave(chosen.shape[-1], dim=0)
    inner = _expert(module, "gate_up_proj" if module.has_gate else "up_proj", rows)
    inner = module._apply_gate(inner) if module.has_gate else module.act_fn(inner)
    out = _expert(module, "down_proj", inner) * weights.reshape(-1, 1)
    return out.view(*chosen.shape, -1).sum(1).to(hidden.dtype)


def _expert(module: Any, name: str, rows: Tensor) -> Tensor:
    weight, bias = getattr(module, name)[0], getattr(module, f"{name}_bias", None)
    out = nn.functional.linear(rows, weight.T if module.is_transposed else weight)
    return out if bias is None else out + bias[0]


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Attend as `grouped` does where it would, else as torch's fused kernel, whose backward pass computes again."""
    if Short.grouped and attention_mask is not None and few_scores(query, key):
        return grouped_attention(module, query, key, value, attention_mask, scaling=scaling, **settings)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (_repeated(tensor, groups) for tensor in (key, value))
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    attended = kernel(query, key, value, 0.0, attention_mask is None, attn_mask=attention_mask, scale=scaling)[0]
    return attended.transpose(1, 2).contiguous(), None


def _repeated(tensor: Tensor, groups: int) -> Tensor:
    B, H, columns, K = tensor.shape
    return tensor[:, :, None].expand(B, H, groups, columns, K).reshape(B, H * groups, columns, K)


@contextmanager
def adapted(model: nn.Module, way: str, rank: int) -> Iterator[None]:
    """Let the weights train (`full`), or put low-rank matrices beside the linear layers (`lora`), inside the block."""
    if way == "full":
        model.requires_grad_(True)
    undo = _beside(model, rank) if way == "lora" else []
    try:
        yield
    finally:
        for back in undo:
            back()
        model.requires_grad_(False)
        for parameter in model.parameters():
            parameter.grad = None


def _beside(model: nn.Module, rank: int) -> list[Callable[[], None]]:
    """Put low-rank matrices beside every linear layer but the output rows; return what takes them off."""
    output = model.get_output_embeddings()  # type: ignore[operator]
    undo: list[Callable[[], None]] = []
    for path, module in list(model.named_modules()):
        if is_linear(module) and module is not output:
            parent, _, name = path.rpartition(".")
            owner = model.get_submodule(parent)
            setattr(owner, name, _LowRank(module, rank))
            undo.append(partial(setattr, owner, name, module))
    return undo


class _LowRank(nn.Module):
    """A linear layer with LoRA beside it in fp32, as PEFT computes it (Hu et al. 2021, arXiv 2106.09685)."""

    def __init__(self, base: nn.Module, rank: int) -> None:
        super().__init__()
        inputs, outputs = sides_of(base)
        self.base, self.weight, self.bias = base, base.weight, base.bias
        self.down = nn.Parameter(torch.empty(rank, inputs, device="meta"))
        self.up = nn.Parameter(torch.empty(outputs, rank, device="meta"))

    def forward(self, rows: Tensor) -> Tensor:
        out: Tensor = self.base(rows)
        beside = nn.functional.linear(nn.functional.linear(rows.float(), self.down), self.up) * 2.0
        return (out + beside).to(out.dtype)
