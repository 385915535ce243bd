"""A recurrent network over the virtual tokens, as in P-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Generator, Tensor, nn

from softprompt.errors import ConfigError
from softprompt.prompts.parameterizations.base import Group, PromptParameterization
from softprompt.prompts.parameterizations.perceptron import GAIN, Perceptron
from softprompt.prompts.parameterizations.spec import Spec
from softprompt.shapes import Float


class LstmPrompt(PromptParameterization):
    """P = P₀ + ρ·MLP(g·LSTM(E)): virtual tokens that know each other (P-tuning, Liu et al. 2021, arXiv 2103.10385).

    The LSTM has two layers and both directions, m/2 wide each, the MLP one hidden layer m wide. E [P, D] starts at
    P₀/ρ and is trained with them; P₀ stays, and so does g, which gives the LSTM's output unit size at the start.
    P·D + 5·m·D + 9·m² + 17·m + D parameters.

    In the paper the output alone is the prompt, from a random start; ours is added to the first values and starts
    at zero, so that training starts at the text.

    Args:
        initial: P₀ [P, D].
        scale: ρ, RMS of the backbone's embedded tokens.
        hidden: m, even.
        generator: for the networks' weights.

    Raises:
        ConfigError: m is odd.

    >>> LstmPrompt(torch.ones(20, 64), 1.0, 32, torch.Generator()).materialize()["input"].shape
    torch.Size([20, 64])
    """

    name: Final = "lstm"
    start: Tensor
    gain: Tensor

    def __init__(self, initial: Float[Tensor, "P D"], scale: float, hidden: int, generator: Generator) -> None:
        super().__init__()
        if hidden % 2:
            raise ConfigError(f"setting `hidden` of `lstm` is {hidden}; half goes each way, so give an even number")
        width = initial.shape[1]
        self._scale = scale
        self.register_buffer("start", initial.clone())
        self.embedding = nn.Parameter(initial / scale)
        self.recurrent = _lstm(width, hidden // 2, generator)
        self.network = Perceptron(hidden, hidden, width, generator)
        with torch.no_grad():
            self.register_buffer("gain", self._recur().pow(2).mean().rsqrt())

    def materialize(self) -> Mapping[str, Tensor]:
        """Return the first values and what the networks add to them."""
        return {"input": self.start + self._scale * self.network(self.gain * self._recur())}

    def groups(self) -> Sequence[Group]:
        """Return E in units of ρ; the LSTM at a quarter of the usual rate, for it acts at every token; the MLP."""
        named = dict(self.recurrent.named_parameters())
        biases = tuple(p for name, p in named.items() if name.startswith("bias"))
        matrices = (Group((p,), GAIN / 4 / p.shape[1]) for name, p in named.items() if name.startswith("weight"))
        return (Group((self.embedding,), 1.0), Group(biases, 0.5), *matrices, *self.network.groups())

    def _recur(self) -> Float[Tensor, "P m"]:
        # Without gradients PyTorch takes another kernel, whose last bits differ from what was trained.
        with torch.enable_grad():
            out: Tensor = self.recurrent(self.embedding)[0]
        return out if torch.is_grad_enabled() else out.detach()


def _lstm(inputs: int, hidden: int, generator: Generator) -> nn.LSTM:
    """Build an LSTM with PyTorch's usual first weights, drawn from `generator` and not from the global state."""
    lstm = nn.LSTM(inputs, hidden, num_layers=2, bidirectional=True, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        for _, parameter in sorted(lstm.named_parameters()):
            parameter.uniform_(-(hidden**-0.5), hidden**-0.5, generator=generator)
    return lstm


def from_spec(spec: Spec) -> LstmPrompt:
    """Build from a spec; setting `hidden`: m, even, by default D as in the paper."""
    rows = spec.rows(LstmPrompt.name)
    settings = spec.read(LstmPrompt.name, hidden=rows.shape[1] + rows.shape[1] % 2)
    return LstmPrompt(rows, spec.rms, settings["hidden"], spec.generator)
