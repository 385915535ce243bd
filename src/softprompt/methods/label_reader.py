"""Reads a task's labels behind rows without soft tokens, with gradients to whatever trains: weights, adapters, rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from softprompt.methods.method import Readout
from softprompt.methods.token_rows import TokenRow, TokenRows
from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.flight import Flight
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.modeling.reader import mean_rows
from softprompt.shapes import Float
from softprompt.tasks.template import TokenRow as OwnTokens

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone

Translate = Callable[[OwnTokens], OwnTokens]
"""Writes a row's tokens in those of another vocabulary."""


class LabelReader:
    """A backbone whose weights may change, read at each row's end: what LoRA and its kin learn by.

    With the readout `words` labels are the paths of a token trie, scored by the output matrix as in zero-shot use;
    with `rows` they are learned rows, which begin as the label words' mean output rows, and a bias, which begins at
    zero. Prefixes are not shared between passes: what trains may change them.

    Args:
        backbone: with its adapters in place, if it has some.
        rows: the task's rows; its template and readout are the ones read.
        readout: `words` or `rows`.
        translate: from the tokens of `rows` to those of `backbone`; None: they are the same.

    Attributes:
        learned: the rows and their bias; none with `words`.

    Raises:
        TemplateError: an encoder is to read words that a mask does not hold.
        UnsupportedBackboneError: the backbone has no head that scores words.
    """

    def __init__(
        self, backbone: Backbone, rows: TokenRows, readout: Readout, translate: Translate | None = None
    ) -> None:
        self._rows = rows
        self._trained: Sequence[nn.Parameter] = ()
        self._factor = 1.0
        self.learned: dict[str, nn.Parameter] = {}
        if readout == "rows":
            begun = mean_rows(backbone, rows.task.readout.words).to(backbone.device)
            bias = torch.zeros(len(begun), device=backbone.device)
            self.learned = {"readout.weight": nn.Parameter(begun), "readout.bias": nn.Parameter(bias)}
        self.read_by(backbone, translate)

    def read_by(self, backbone: Backbone, translate: Translate | None = None) -> None:
        """Read by another backbone from now on, such as the one whose vocabulary was cut before.

        Args:
            backbone: of the same hidden states.
            translate: from the rows' tokens to its own.
        """
        self._backbone, self._translate = backbone, translate
        self._model = PromptedModel(backbone, share_prefix=False)
        nothing = torch.zeros(0, backbone.embedding_size)
        tensors: Mapping[str, Tensor] = {"input": nothing, **self.learned}
        self._bound = BoundPrompt.make(backbone, tensors, self._rows.task.template, self._rows.task.readout)

    def learn(self, parameters: Sequence[nn.Parameter], factor: float) -> None:
        """Say what trains beside the learned rows.

        Args:
            parameters: weights or adapters.
            factor: by which the rate of learned rows is greater than theirs.
        """
        self._trained, self._factor = parameters, factor

    def groups(self, rate: float) -> list[dict[str, Any]]:
        """Return what trains, with its rates, as AdamW takes it."""
        learned = {"params": [*self.learned.values()], "lr": rate * self._factor}
        return [{"params": [*self._trained], "lr": rate}, *([learned] if self.learned else [])]

    def loss(self, rows: Sequence[TokenRow]) -> Float[Tensor, ""]:
        """Return the mean log loss of some rows over the labels, in nats."""
        gold = [row.gold for row in rows]
        return -self._model.gold_log_probabilities(self._own(rows), self._bound, gold).mean()

    def label_logits(self, rows: Sequence[TokenRow]) -> Float[Tensor, "B C"]:
        """Return the log-probabilities of the labels, fp32, which sum to one."""
        count = len(rows)
        found = self._model.begin(self._own(rows), [self._bound] * count, [None] * count, Flight(self._backbone))
        return torch.stack([each for each in found if each is not None])

    def _own(self, rows: Sequence[TokenRow]) -> list[OwnTokens]:
        return [row.own if self._translate is None else self._translate(row.own) for row in rows]
