"""The contract of a parameterization: it folds to the same tensors, all of it trains, and one rate fits it.

Ships with the package, so that whoever adds a parameterization can hold it to the same suite:

    from softprompt.testing.contract import CHECKS, Case

    MINE = Case(from_spec, lambda spec: spec.initial["input"].numel() + 1)

    @pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
    def test_my_parameterization(check):
        check(MINE)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.prefixes import Prefixes
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.prompts import initializers, sites
from softprompt.prompts.parameterizations.base import PromptParameterization
from softprompt.prompts.parameterizations.spec import Setting, Spec
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.template import Template
from softprompt.testing.tiny import tiny_backbone
from softprompt.testing.toy import toy_rows

RATE = 0.02
"""The relative learning rate that must do for every parameterization."""
STEPS = 30
"""Optimizer steps on the toy task."""
TOY_LOSS = 0.5
"""Largest loss on the toy task after them, relative to the loss of the first values."""
MOVES = (0.25, 8.0)
"""How far ten steps may move a site, relative to how far they move free virtual tokens."""
_TEXT = "Classify the text as negative or positive. "
_WORDS = LabelWords.from_labels(["negative", "positive"])
_TEMPLATE = Template("{bos}{soft}Text: {text}\nLabel:")


class Size(NamedTuple):
    """The size of first values: rows [length, width], or keys and values of layers [heads, length, width]."""

    length: int = 6
    width: int = 16
    layers: int = 2
    heads: int = 2


SIZE = Size()
"""What the checks use unless told."""


@dataclass(frozen=True)
class Case:
    """A parameterization to be held to the contract.

    Attributes:
        build: makes it from a spec.
        count: its documented number of parameters for a spec.
        layered: whether it starts from keys and values instead of rows.
        settings: what it is built with.
        exact: whether it starts at the very values it is given.
    """

    build: Callable[[Spec], PromptParameterization]
    count: Callable[[Spec], int]
    layered: bool = False
    settings: Mapping[str, Setting] = field(default_factory=dict)
    exact: bool = True

    def spec(self, size: Size, seed: int = 0) -> Spec:
        """Return first values of a size, the same each time, and a fresh generator with this seed."""
        draw = torch.Generator().manual_seed(0)
        P, D = size.length, size.width
        if not self.layered:
            rows = 0.7 * torch.randn(P, D, generator=draw)
            vocabulary = 0.7 * torch.randn(8, D, generator=draw)
            return Spec({"input": rows}, 0.7, torch.Generator().manual_seed(seed), vocabulary, self.settings)
        names = [f"layers.{n}.{half}" for n in range(size.layers) for half in ("key", "value")]
        # Keys and values of different sizes, as transformers have them.
        initial = {s: 3.0 ** (-i) * torch.randn(size.heads, P, D, generator=draw) for i, s in enumerate(names)}
        return Spec(initial, 0.7, torch.Generator().manual_seed(seed), settings=self.settings)


def check_folds(case: Case, size: Size = SIZE) -> None:
    """Folding twice gives the same bytes, in fp32, in shapes that a prompt file takes, before and after a step."""
    module = case.build(case.spec(size))
    for _ in range(2):
        once, again = module.materialize(), folded(module)
        shapes = {site: tuple(tensor.shape) for site, tensor in once.items()}
        wrong = [w for site, shape in shapes.items() if (w := sites.check_site(site, shape))]
        assert not wrong, wrong[0]
        labels = shapes.get("readout.weight", (0,))[0]
        assert (together := sites.check_together(shapes, labels)) is None, together
        for site, tensor in once.items():
            assert tensor.dtype == torch.float32, f"`{site}` is {tensor.dtype}"
            assert torch.equal(tensor, again[site]), f"`{site}` folds differently the second time"
        _move(module, 1)


def check_start(case: Case, size: Size = SIZE) -> None:
    """It starts at the values it is given, bit for bit, if it promises to; and has their shapes in any case."""
    spec = case.spec(size)
    found = folded(case.build(spec))
    for site, tensor in spec.initial.items():
        assert found[site].shape == tensor.shape, f"`{site}` has another shape than its first values"
        assert not case.exact or torch.equal(found[site], tensor), f"`{site}` does not start at its first values"


def check_parameter_count(case: Case, size: Size = SIZE) -> None:
    """It has as many parameters as its documentation says."""
    found = sum(parameter.numel() for parameter in case.build(case.spec(size)).parameters())
    expected = case.count(case.spec(size))
    assert found == expected, f"{found} parameters, and {expected} by the formula"


def check_groups(case: Case, size: Size = SIZE) -> None:
    """Every parameter is fp32, trains, and is in exactly one group with a finite scale above 0."""
    module = case.build(case.spec(size))
    grouped = [id(parameter) for group in module.groups() for parameter in group.parameters]
    own = {id(parameter): name for name, parameter in module.named_parameters()}
    twice = [own.get(one, "another module's") for one in grouped if grouped.count(one) > 1]
    assert not twice, f"in more than one group: {', '.join(sorted(set(twice)))}"
    assert set(grouped) == set(own), f"in no group: {', '.join(own[one] for one in set(own) - set(grouped))}"
    for name, parameter in module.named_parameters():
        assert parameter.dtype == torch.float32, f"`{name}` is {parameter.dtype}"
        assert parameter.requires_grad, f"`{name}` does not train"
    for group in module.groups():
        assert math.isfinite(group.scale), "a group's scale is not finite"
        assert group.scale > 0, "a group's scale is not above 0"


def check_gradients(case: Case, size: Size = SIZE) -> None:
    """A gradient reaches every parameter, after one step where a factor starts at zero."""
    module = case.build(case.spec(size))
    _move(module, 1)
    module.zero_grad()
    _loss(module).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, f"no gradient reaches `{name}`"
        assert bool(parameter.grad.isfinite().all()), f"the gradient of `{name}` is not finite"
        assert float(parameter.grad.abs().max()) > 0, f"the gradient of `{name}` is zero"


def check_state(case: Case, size: Size = SIZE) -> None:
    """What `state_dict` holds makes another module, built from the same values and another seed, fold the same."""
    module, other = case.build(case.spec(size)), case.build(case.spec(size, seed=1))
    _move(module, 2)
    other.load_state_dict(module.state_dict())
    for site, tensor in folded(module).items():
        assert torch.equal(tensor, folded(other)[site]), f"`{site}` is not the same after loading"
    scales = [[group.scale for group in one.groups()] for one in (module, other)]
    assert scales[0] == scales[1], "the scales depend on what the parameters have become"


def check_determinism(case: Case, size: Size = SIZE) -> None:
    """Equal generators give equal modules, and PyTorch's global state stays as it is."""
    before = torch.get_rng_state()
    one, other = (case.build(case.spec(size)) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state()), "building draws from the global random state"
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), f"`{name}` differs between two builds"


def check_moves(case: Case, size: Size = SIZE) -> None:
    """Ten steps at the usual rate move every site that trains about as far as they move free virtual tokens."""
    module = case.build(case.spec(size))
    start, free = folded(module), {site for site, tensor in module.materialize().items() if tensor.requires_grad}
    _move(module, 10)
    for site in free - {"readout.weight", "readout.bias"}:
        far = float((folded(module)[site] - start[site]).pow(2).mean().sqrt() / start[site].pow(2).mean().sqrt())
        ratio = far / (10 * RATE)
        assert MOVES[0] < ratio < MOVES[1], f"`{site}` moves {ratio:.2f} times as far as free virtual tokens would"


def check_learns(case: Case) -> None:
    """It learns a toy task on a tiny backbone at the usual rate, on the path that training takes."""
    model = PromptedModel(tiny_backbone("llama"))
    module = case.build(toy_spec(model, case.layered, case.settings))
    first = toy_loss(model, module).item()
    optimizer = _optimizer(module)
    for _ in range(STEPS):
        optimizer.zero_grad()
        toy_loss(model, module).backward()
        optimizer.step()
    last = toy_loss(model, module).item()
    assert last < TOY_LOSS * first, f"{STEPS} steps bring the toy loss from {first:.3f} to {last:.3f} only"


CHECKS: tuple[Callable[[Case], None], ...] = (
    check_folds,
    check_start,
    check_parameter_count,
    check_groups,
    check_gradients,
    check_state,
    check_determinism,
    check_moves,
    check_learns,
)
"""Every check; each takes a case and raises AssertionError where the contract is broken."""


def folded(module: PromptParameterization) -> dict[str, Tensor]:
    """Return what is kept of a module: its tensors by site, detached copies."""
    with torch.no_grad():
        return {site: tensor.clone() for site, tensor in module.materialize().items()}


def toy_spec(model: PromptedModel, layered: bool, settings: Mapping[str, Setting]) -> Spec:
    """Return the first values of a text of 10 tokens on the model's backbone: rows, or its keys and values."""
    backbone, generator = model.backbone, torch.Generator().manual_seed(0)
    vocabulary = initializers.from_vocabulary(backbone, 32, generator).rows
    initial: dict[str, Tensor] = {"input": initializers.from_text(backbone, 10, _TEXT).rows}
    if layered:
        bound = BoundPrompt.make(backbone, initial, Template("{soft}{text}"), _WORDS)
        with torch.no_grad():
            past = Prefixes(backbone).run([bound])[0].past
        assert past is not None, "the soft tokens stand in front"
        initial = {f"layers.{n}.key": keys[0] for n, (keys, _) in enumerate(past)}
        initial |= {f"layers.{n}.value": values[0] for n, (_, values) in enumerate(past)}
    return Spec(initial, backbone.embedding_rms, generator, vocabulary, settings)


def toy_loss(model: PromptedModel, module: PromptParameterization, count: int = 16) -> Tensor:
    """Return the mean loss of the toy rows, with a graph to the module's parameters."""
    bound = BoundPrompt.make(model.backbone, folded(module), _TEMPLATE, _WORDS).with_tensors(module.materialize())
    rows = toy_rows(count)
    gold = [_WORDS.labels.index(row["label"]) for row in rows]
    return -model.gold_log_probabilities([model.encode(row, bound) for row in rows], bound, gold).mean()


def _loss(module: PromptParameterization) -> Tensor:
    """A loss that pulls every number of every site its own way, and a little towards zero."""
    draw = torch.Generator().manual_seed(2)
    total = torch.zeros(())
    for tensor in module.materialize().values():
        pull = torch.randn(tensor.shape, generator=draw)
        total = total + (tensor * pull).sum() + 0.01 * tensor.pow(2).sum()
    return total


def _optimizer(module: PromptParameterization) -> torch.optim.Optimizer:
    groups = [{"params": list(group.parameters), "lr": RATE * group.scale} for group in module.groups()]
    return torch.optim.AdamW(groups, weight_decay=0.0)


def _move(module: PromptParameterization, steps: int) -> None:
    optimizer = _optimizer(module)
    for _ in range(steps):
        optimizer.zero_grad()
        _loss(module).backward()
        optimizer.step()
