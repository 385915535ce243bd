"""Parts that transformers computes in many passes over memory, computed in few: on a CPU, passes are what costs.

Gemma's norm takes eight passes forward and some twenty back, GPT-2's activation as many, and in training most of them
find nothing in the cache. `fuse` puts others in their places that compute the same: norms a few rows at a time, which
stay in the cache from the first pass to the last, and the activation by torch's own kernel.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import gelu, rms_norm

_OFFSETS: Mapping[str, float] = {
    "Gemma2RMSNorm": 1.0,
    "Gemma3RMSNorm": 1.0,
    "LlamaRMSNorm": 0.0,
    "MistralRMSNorm": 0.0,
    "MT5LayerNorm": 0.0,
    "Phi3RMSNorm": 0.0,
    "Qwen2RMSNorm": 0.0,
    "Qwen3RMSNorm": 0.0,
    "T5LayerNorm": 0.0,
}
"""transformers' norms of this kind, and what each adds to its weight."""
_GELU_NEW = "NewGELUActivation"
_AT_ONCE = 640 << 10
"""Bytes of fp32 that a norm computes with at a time, twice: they stay in a core's cache."""


class Fused(nn.Module):
    """A part that took the place of one of transformers'.

    Args:
        origin: whose place it took; None: nobody's.
    """

    def __init__(self, origin: nn.Module | None = None) -> None:
        super().__init__()
        self._origin = (origin,)  # in a tuple it is no part of this module

    @property
    def origin(self) -> nn.Module | None:
        """Whose place it took, with the parameters of this one."""
        (origin,) = self._origin
        if origin is not None:
            for name, parameter in self.named_parameters():
                setattr(origin, name, parameter)
        return origin


class RMSNorm(Fused):
    """y = x / √(mean(x²) + ε) · (offset + weight), in fp32, rounded once (Zhang and Sennrich 2019).

    >>> norm = RMSNorm(nn.Parameter(torch.ones(2)), epsilon=0.0)
    >>> norm(torch.tensor([[3.0, -3.0]])).round(decimals=3).tolist()
    [[1.0, -1.0]]

    Args:
        weight: [D].
        epsilon: keeps the root from 0.
        offset: what is added to the weight: 1 for Gemma.
        origin: transformers' own norm, whose place it took.
    """

    def __init__(
        self, weight: nn.Parameter, *, epsilon: float, offset: float = 0.0, origin: nn.Module | None = None
    ) -> None:
        super().__init__(origin)
        self.weight = weight
        self.epsilon, self.offset = epsilon, offset

    def forward(self, hidden: Tensor) -> Tensor:
        """Return [..., D] normalised, in the dtype that it came in."""
        gain = self.weight.float() + self.offset
        if torch.compiler.is_compiling():  # the compiler sees to it that memory is passed over once
            wide = hidden.float()
            return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.epsilon) * gain).to(hidden.dtype)
        if torch.is_grad_enabled():
            out: Tensor = _Normalised.apply(hidden, gain, self.epsilon)  # type: ignore[no-untyped-call]
            return out
        if 4 * hidden.numel() <= _AT_ONCE:  # a token a row: calls are what takes time
            return rms_norm(hidden.float(), gain.shape, gain, self.epsilon).to(hidden.dtype)
        return _normalised(hidden, gain, self.epsilon)[0]

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{tuple(self.weight.shape)}, epsilon={self.epsilon}, offset={self.offset}"


class TanhGELU(Fused):
    """GELU by its tanh approximation (Hendrycks and Gimpel 2016, section 2), which GPT-2 calls `gelu_new`."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Return x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))), rounded once."""
        return gelu(hidden, approximate="tanh")


def _normalised(hidden: Tensor, gain: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return the rows normalised, and the factor of each in fp32."""
    out = torch.empty_like(hidden)
    factors = hidden.new_empty((*hidden.shape[:-1], 1), dtype=torch.float32)
    for x, r, y in _few_rows(hidden, factors, out):
        wide = x.to(torch.float32, copy=True)
        torch.mean(wide.square(), dim=-1, keepdim=True, out=r)
        r.add_(epsilon).rsqrt_()
        y.copy_(wide.mul_(r).mul_(gain))
    return out, factors


class _Normalised(torch.autograd.Function):
    """y = x̂ · gain with x̂ = r · x and r = 1 / √(mean(x²) + ε); back: r · (h - x̂ · mean(h · x̂)) with h = g · gain."""

    @staticmethod
    def forward(context: Any, hidden: Tensor, gain: Tensor, epsilon: float) -> Tensor:
        out, factors = _normalised(hidden, gain, epsilon)
        context.save_for_backward(hidden, factors, gain)
        return out

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        hidden, factors, gain = context.saved_tensors
        slope = torch.empty_like(hidden)
        of_gain = torch.zeros_like(gain) if context.needs_input_grad[1] else None
        for x, r, g, to in _few_rows(hidden, factors, gradient, slope):
            unit = x.to(torch.float32, copy=True).mul_(r)
            given = g.to(torch.float32, copy=True)
            if of_gain is not None:
                of_gain += (given * unit).flatten(0, -2).sum(0)
            along = (given.mul_(gain) * unit).mean(-1, keepdim=True)
            to.copy_(given.sub_(unit.mul_(along)).mul_(r))
        return slope, of_gain, None


def _few_rows(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the same rows of each tensor, as few at a time as the cache holds; views, whatever the strides are."""
    first = tensors[0]
    if all(tensor.is_contiguous() for tensor in tensors):
        tensors = tuple(tensor.view(-1, tensor.shape[-1]) for tensor in tensors)
    many = tensors[0].shape[0] if tensors[0].dim() > 1 else 1
    count = max(1, min(many, _AT_ONCE * many // max(1, 4 * first.numel())))
    if count == many:
        yield tensors
        return
    yield from zip(*(tensor.split(count) for tensor in tensors), strict=True)


def fuse(model: nn.Module) -> None:
    """Put faster parts that compute the same in the places of transformers' own.

    Norms only where the model is on a CPU; one without numbers (on torch's meta device) counts as if it were.

    Args:
        model: a transformers model; its parameters stay as they are, and are called what they were called.
    """
    for name, module in list(model.named_modules()):
        faster = _faster(module)
        if faster is not None:
            model.set_submodule(name, faster.train(module.training))


def unfused(model: Any) -> Any:
    """Return the model as transformers has it: other modules, the same parameters.

    Args:
        model: one that `fuse` has been given, or not.
    """
    tensors = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    plain = copy.deepcopy(model, tensors)
    for name, module in list(plain.named_modules()):
        if isinstance(module, Fused) and module.origin is not None:
            plain.set_submodule(name, module.origin)
    return plain


def _faster(module: nn.Module) -> nn.Module | None:
    kind = type(module).__name__
    if kind == _GELU_NEW:
        return TanhGELU(module)
    if kind not in _OFFSETS:
        return None
    weight: Any = module.weight
    if weight.device.type not in ("cpu", "meta"):
        return None
    epsilon: Any = module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps
    return RMSNorm(weight, epsilon=epsilon, offset=_OFFSETS[kind], origin=module)
