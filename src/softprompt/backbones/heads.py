"""Reading words out of hidden states: the transformation before the output rows, the rows, their bias and scale."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from softprompt.shapes import Float, Int

_AT_ONCE = {"cpu": 3 << 20}
"""Bytes of output rows that are fp32 at a time: few enough for a CPU's cache, where they need not be written back."""
_AT_ONCE_ELSEWHERE = 64 << 20
_MANY = 32
"""Hidden states from which on two products in bf16 take less time on a CPU than one in fp32."""


class Head:
    """The output rows of a model and what stands before and behind them.

    logits = cap(states(h) · Wᵀ + b), where `states` is the masked-language-model head's transformation of an encoder,
    the scale of T5, and nothing for most decoders.

    Args:
        model: a transformers model with output embeddings.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._transform = _TRANSFORMS.get(model.config.model_type)
        self._softcap: float | None = getattr(model.config, "final_logit_softcapping", None)

    def states(self, hidden: Float[Tensor, "M Dout"]) -> Float[Tensor, "M Drow"]:
        """Return what the output rows are multiplied with."""
        if self._transform is None:
            return hidden
        weights: Tensor = self._output.weight
        return self._transform(self._model, hidden.to(weights.dtype))

    def rows(self, ids: Int[Tensor, " C"]) -> Float[Tensor, "C Drow"]:
        """Return the output rows of some tokens, in fp32."""
        weights: Tensor = self._output.weight
        return weights[ids].float()

    def bias(self, ids: Int[Tensor, " C"] | None = None) -> Float[Tensor, " C"] | None:
        """Return the output bias of some tokens, in fp32, or None where the model has none."""
        bias = getattr(self._output, "bias", None)
        if bias is None:
            bias = getattr(self._model, "final_logits_bias", None)  # BART's, [1, V]
        return None if bias is None else (bias.reshape(-1) if ids is None else bias.reshape(-1)[ids]).float()

    def logits(self, hidden: Float[Tensor, "M Dout"], ids: Int[Tensor, " C"] | None) -> Float[Tensor, "M C"]:
        """Return the logits of hidden states for some output rows only, or for all, in fp32."""
        weight = self._output.weight if ids is None else self._output.weight[ids]
        states = self.states(hidden)
        out = states.float() @ weight.float().T if _whole(weight) else _products(states, weight)
        bias = self.bias(ids)
        if bias is not None:
            out = out + bias
        return out if self._softcap is None else self._softcap * torch.tanh(out / self._softcap)

    @property
    def _output(self) -> Any:
        return self._model.get_output_embeddings()


def _whole(weight: Tensor) -> bool:
    """Whether output rows are multiplied as they are, or all at once: they are fp32, or few, or learn."""
    few = 4 * weight.numel() <= _AT_ONCE.get(weight.device.type, _AT_ONCE_ELSEWHERE)
    return few or weight.dtype == torch.float32 or (weight.requires_grad and torch.is_grad_enabled())


def _products(states: Tensor, weight: Tensor) -> Tensor:
    out: Tensor = _Products.apply(states, weight)  # type: ignore[no-untyped-call]
    return out


class _Products(torch.autograd.Function):
    """states · rowsᵀ in fp32, of frozen rows in a smaller precision: a vocabulary costs no second copy of itself.

    Many states in bf16 are multiplied in bf16, twice: what the first product is off by, for its result is rounded, is
    what the second returns. Sixteen bits of a logit are right then, twice as many as either has. The gradient at the
    states, which is rounded to bf16 in any case, takes one product.
    """

    @staticmethod
    def forward(context: Any, states: Tensor, weight: Tensor) -> Tensor:
        context.save_for_backward(weight)
        context.twice = len(states) >= _MANY and _multiplies_bf16(states, weight)
        context.dtype = states.dtype
        out = states.new_empty(len(states), len(weight), dtype=torch.float32)
        if context.twice:
            for part in _parts(weight):
                rounded = states @ weight[part].T
                out[:, part] = rounded
                out[:, part] += torch.addmm(rounded, states, weight[part].T, beta=-1)
            return out
        wide = states.float()
        for part, rows in _in_fp32(weight):
            out[:, part] = wide @ rows.T
        return out

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (weight,) = context.saved_tensors
        total = gradient.new_zeros(len(gradient), weight.shape[1])
        if context.twice:
            for part in _parts(weight):
                total += gradient[:, part].to(weight.dtype) @ weight[part]
        else:
            for part, rows in _in_fp32(weight):
                total.addmm_(gradient[:, part], rows)
        return total.to(context.dtype), None


def _multiplies_bf16(states: Tensor, weight: Tensor) -> bool:
    return states.device.type == "cpu" and states.dtype == weight.dtype == torch.bfloat16


def _parts(weight: Tensor) -> Iterator[slice]:
    """Yield slices of rows of which a CPU's cache holds several in bf16."""
    count = max(1, _AT_ONCE["cpu"] // weight.shape[1])
    for start in range(0, len(weight), count):
        yield slice(start, min(start + count, len(weight)))


def _in_fp32(weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of rows and those rows in fp32, all in the same memory: fresh memory takes longer than the copy."""
    count = max(1, _AT_ONCE.get(weight.device.type, _AT_ONCE_ELSEWHERE) // (4 * weight.shape[1]))
    memory = torch.empty(count, weight.shape[1], dtype=torch.float32, device=weight.device)
    for start in range(0, len(weight), count):
        part = slice(start, min(start + count, len(weight)))
        yield part, memory[: part.stop - start].copy_(weight[part])


def head_of(model: Any) -> Head | None:
    """Return the head of a model, or None where it has no output rows."""
    return Head(model) if model.get_output_embeddings() is not None else None


def _bert(model: Any, hidden: Tensor) -> Tensor:
    states: Tensor = model.cls.predictions.transform(hidden)
    return states


def _roberta(model: Any, hidden: Tensor) -> Tensor:
    states: Tensor = model.lm_head.layer_norm(torch.nn.functional.gelu(model.lm_head.dense(hidden)))
    return states


def _distilbert(model: Any, hidden: Tensor) -> Tensor:
    states: Tensor = model.vocab_layer_norm(model.activation(model.vocab_transform(hidden)))
    return states


def _modernbert(model: Any, hidden: Tensor) -> Tensor:
    states: Tensor = model.head(hidden)
    return states


def _t5(model: Any, hidden: Tensor) -> Tensor:
    """T5 scales where input and output rows are one matrix; v1.1 does not."""
    return hidden * model.config.d_model**-0.5 if model.config.scale_decoder_outputs else hidden


_TRANSFORMS: Mapping[str, Callable[[Any, Tensor], Tensor]] = {
    "bert": _bert,
    "roberta": _roberta,
    "xlm-roberta": _roberta,
    "distilbert": _distilbert,
    "modernbert": _modernbert,
    "t5": _t5,
}
HEAD_TENSORS: Mapping[str, str] = {
    "bert": "cls.predictions.bias",
    "roberta": "lm_head.bias",
    "xlm-roberta": "lm_head.bias",
    "distilbert": "vocab_projector.bias",
    "modernbert": "decoder.bias",
}
"""The tensor by which an encoder's checkpoint is known to have a masked-language-model head."""
