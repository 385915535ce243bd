"""The contract of a backbone family: same row, same answer, whatever it shares a batch with.

Ships with the package, so that whoever adds a family can hold it to the same suite:

    from softprompt.testing.conformance import CHECKS

    @pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
    def test_my_family(check):
        check(my_backbone)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from softprompt.backbones.backbone import Backbone
from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.prefixes import Prefixes
from softprompt.modeling.prompted_model import Budget, PromptedModel
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.free_text import Text
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.template import Template
from softprompt.testing.flights import at_random, check_passengers

TOLERANCE = 1e-5
"""Largest difference of a probability, or of a gradient relative to its largest entry, in fp32."""

PATTERNS = {
    "prefix": "{bos}{soft}Text: {text}\nLabel:",
    "soft-first": "{soft}{bos}Text: {text}\nLabel:",
    "suffix": "{bos}Text: {text}{soft}\nLabel:",
    "interleaved": "{bos}{soft}Text:{soft} {text}{soft}\nLabel:",
    "no-prefix": "{text}{soft} is",
}
READOUTS = {
    "single": LabelWords.from_labels(["good", "bad"]),
    # Shared first tokens, and one label that begins another.
    "trie": LabelWords.from_labels(["spam", "spam free", "spam free prize", "ham", "negative", "neutral"]),
    "full": LabelWords.from_labels(["spam", "spam free", "ham"], scoring="full"),
}
_TEXTS = ("good", "a gripping film", "the story is bad and the ending worse", "See you at home for dinner tonight")
LONG = " ".join(_TEXTS[1:])


def rows(count: int = 8) -> list[Mapping[str, str]]:
    """Return rows of mixed lengths; the longer ones exceed the tiny families' window of 8."""
    texts = [*_TEXTS, LONG, "", "!"]
    return [{"text": texts[i % len(texts)] + (" good" * (i // len(texts)))} for i in range(count)]


def prompt(
    backbone: Backbone, length: int, *, seed: int = 0, pattern: str = "prefix", readout: str = "single"
) -> SoftPrompt:
    """Return a random prompt of `length` virtual tokens at the scale of the backbone's embeddings."""
    values = torch.randn(length, backbone.embedding_size, generator=torch.Generator().manual_seed(seed))
    scaled = values * backbone.embedding_rms
    return SoftPrompt({"input": scaled}, Template(PATTERNS[pattern]), READOUTS[readout], backbone.fingerprint)


def check_alone_and_batched(backbone: Backbone) -> None:
    """Rows score the same alone, in batches of any size and in any order, for every placement and readout."""
    for pattern in PATTERNS:
        for readout in READOUTS:
            some = prompt(backbone, 5, pattern=pattern, readout=readout)
            alone = torch.stack(one_by_one(backbone, rows(), [some] * 8))
            for budget in (Budget(2, 10_000), Budget(64, 10_000), Budget(64, 64)):
                together = torch.stack(scores(backbone, rows()[::-1], [some] * 8, budget)[::-1])
                same(together, alone, f"{pattern}, {readout}, {budget}")


def check_mixed_prompts(backbone: Backbone) -> None:
    """Rows score the same among rows of other prompts of other lengths, placements and readouts."""
    kinds = [
        prompt(backbone, 1, seed=1),
        prompt(backbone, 12, seed=2, readout="trie"),
        prompt(backbone, 5, seed=3, pattern="suffix"),
        prompt(backbone, 3, seed=4, pattern="interleaved", readout="full"),
        prompt(backbone, 2, seed=5, pattern="no-prefix"),
    ]
    each = [kinds[i % len(kinds)] for i in range(15)]
    alone = one_by_one(backbone, rows(15), each)
    for mixed, single in zip(scores(backbone, rows(15), each), alone, strict=True):
        same(mixed, single, "mixed prompts")


def check_large_batch(backbone: Backbone) -> None:
    """64 rows of mixed lengths, in a shuffled order and behind prompts of two lengths, score as they do alone."""
    some, kinds = rows(64), [prompt(backbone, 4, seed=1), prompt(backbone, 9, seed=2)]
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0)).tolist()
    mixed = scores(backbone, [some[i] for i in order], [kinds[i % 2] for i in order])
    alone = one_by_one(backbone, some, [kinds[i % 2] for i in range(64)])
    for found, i in zip(mixed, order, strict=True):
        same(found, alone[i], f"row {i} of 64")


def check_long_prefix(backbone: Backbone) -> None:
    """Prompts longer than the attention window, and rows longer than it, score the same alone and batched."""
    for length in (7, 8, 9, 30):
        each = [prompt(backbone, length), prompt(backbone, 2, seed=1)] * 4
        alone = one_by_one(backbone, rows(), each)
        for mixed, single in zip(scores(backbone, rows(), each), alone, strict=True):
            same(mixed, single, f"P={length}")


def check_shared_prefix_is_the_row_path(backbone: Backbone) -> None:
    """Probabilities and gradients are those of carrying the prefix in every row."""
    for readout in READOUTS:
        some = prompt(backbone, 6, readout=readout)
        shared, carried = (_loss_and_gradient(backbone, some, share) for share in (True, False))
        same(shared[0], carried[0], f"loss, {readout}")
        same(shared[1] / carried[1].abs().max(), carried[1] / carried[1].abs().max(), f"gradient, {readout}")


def check_training_is_serving(backbone: Backbone) -> None:
    """A label's log-probability in the training loss is the one that scoring gives."""
    for readout in ("single", "trie"):
        some = prompt(backbone, 5, readout=readout)
        model, bound = PromptedModel(backbone), BoundPrompt.of(backbone, some)
        gold = [i % len(some.readout.labels) for i in range(8)]
        encoded = [model.encode(row, bound) for row in rows()]
        with torch.no_grad():
            trained = model.gold_log_probabilities(encoded, bound, gold)
        served = model.score_labels(rows(), some).log_probabilities[torch.arange(8), torch.tensor(gold)]
        same(trained, served, readout)


def check_against_plain_forward(backbone: Backbone) -> None:
    """Probabilities are those of the transformer's own forward pass over the whole concatenated row."""
    for pattern in PATTERNS:
        some = prompt(backbone, 4, pattern=pattern)
        served = torch.stack(scores(backbone, rows(), [some] * 8))
        same(served, torch.stack([_plain(backbone, some, row) for row in rows()]), pattern)


def check_prompt_matters(backbone: Backbone) -> None:
    """Another prompt gives another answer: the virtual tokens are not silently ignored."""
    one, other = (scores(backbone, rows(1), [prompt(backbone, 5, seed=seed)])[0] for seed in (0, 1))
    assert (one - other).abs().max() > 1e-3, "two different prompts gave the same probabilities"


def check_keys_and_values(backbone: Backbone) -> None:
    """A prompt of keys and values answers as the rows they come from, mixed with prompts of rows or alone."""
    if backbone.position_switch is not None:  # such a backbone cannot keep keys, and says so
        return
    some, other = prompt(backbone, 5), prompt(backbone, 3, seed=1)
    layered = key_values_of(backbone, some)
    expected = torch.stack(scores(backbone, rows(), [some] * 8))
    same(torch.stack(scores(backbone, rows(), [layered] * 8)), expected, "keys and values of rows")
    each = [layered, other, key_values_of(backbone, other), some] * 2
    alone = one_by_one(backbone, rows(), each)
    for mixed, single in zip(scores(backbone, rows(), each), alone, strict=True):
        same(mixed, single, "keys and values among rows")


def check_cold_prompts(backbone: Backbone) -> None:
    """A prompt's first row carries its prefix and scores as ever; what is kept of it then is the prefix."""
    warm, cold = prompt(backbone, 7, seed=1), [prompt(backbone, length, seed=length) for length in (2, 12)]
    if backbone.position_switch is None:
        cold.append(key_values_of(backbone, prompt(backbone, 4, seed=3)))
    model, each, some = PromptedModel(backbone), [warm, *cold, warm], rows(len(cold) + 2)
    model.score(some[:2], [warm] * 2)
    found = [torch.tensor([*answer.probabilities.values()]) for answer in model.score(some, each)]
    for row, own, one in zip(some, each, found, strict=True):
        same(one, scores(backbone, [row] * 2, [own] * 2)[0], "the first row of a prompt")
    for own in cold:
        kept = [far for far in (False, True) if not model.cache.lacks((own.digest, far))]
        assert kept, "the first row of a prompt left no prefix"
        for far in kept:
            alone = Prefixes(backbone).run([BoundPrompt.of(backbone, own)], far=far)
            there = model.cache.find((own.digest, far), alone.pop)
            (wanted,) = alone  # for it was kept
            for pair, expected in zip(there.past or (), wanted.past or (), strict=True):
                for tensor, right in zip(pair, expected, strict=True):
                    same(tensor / right.abs().max(), right / right.abs().max(), "the prefix that is kept")


def key_values_of(backbone: Backbone, some: SoftPrompt) -> SoftPrompt:
    """Return the prompt of keys and values that answers as `some`, a prompt of rows in front of the first field."""
    bound = BoundPrompt.of(backbone, some)
    with torch.no_grad():
        past = Prefixes(backbone).run([bound])[0].past
    assert past is not None, "a prompt in front has a prefix"
    start = len(bound.split[0])
    slots = slice(start, start + some.length)
    tensors: dict[str, Tensor] = {}
    for layer, (keys, values) in enumerate(past):
        tensors |= {f"layers.{layer}.key": keys[0, :, slots], f"layers.{layer}.value": values[0, :, slots]}
    return SoftPrompt(tensors, some.template, some.readout, backbone.fingerprint)


def check_learned_rows(backbone: Backbone) -> None:
    """Learned rows read the same state in training and in use, alone and batched, whatever the labels' words."""
    some = prompt(backbone, 4, readout="trie")
    count, generator = len(some.readout.labels), torch.Generator().manual_seed(2)
    weight = torch.randn(count, backbone.hidden_size, generator=generator)
    tensors = {**some.tensors, "readout.weight": weight, "readout.bias": torch.arange(count) / count}
    with_rows = SoftPrompt(tensors, some.template, some.readout, backbone.fingerprint)
    alone = torch.stack(one_by_one(backbone, rows(), [with_rows] * 8))
    same(torch.stack(scores(backbone, rows(), [with_rows] * 8)), alone, "learned rows")
    model, bound = PromptedModel(backbone), BoundPrompt.of(backbone, with_rows)
    hidden = model.score_labels(rows(), with_rows).hidden
    same(torch.softmax(hidden @ weight.T + tensors["readout.bias"], dim=-1), alone, "rows by hand")
    gold = [i % count for i in range(8)]
    with torch.no_grad():
        trained = model.gold_log_probabilities([model.encode(row, bound) for row in rows()], bound, gold)
    same(trained.exp(), alone[torch.arange(8), torch.tensor(gold)], "learned rows in training")


def check_text(backbone: Backbone) -> None:
    """Text is written the same alone, batched and mixed, and its log-probability is that of the training loss."""
    pattern = Template("{bos}{soft}Text: {text}\nAnswer:")
    tokens = [prompt(backbone, length, seed=length).tensors for length in (2, 7)]
    prompts = [SoftPrompt(each, pattern, Text(n), backbone.fingerprint) for each, n in zip(tokens, (6, 9), strict=True)]
    model, each = PromptedModel(backbone), [prompts[i % 2] for i in range(8)]
    together = model.write(rows(), each)
    for row, one, batched in zip(rows(), each, together, strict=True):
        (single,) = model.write([row], one)
        assert single.tokens == batched.tokens, f"text differs in a batch: {single.text!r}, {batched.text!r}"
        bound = BoundPrompt.of(backbone, one)
        with torch.no_grad():
            term = model.gold_log_probabilities([model.encode(row, bound)], bound, [single.tokens])
        found = torch.tensor([single.log_probability]) / len(single.tokens)
        same(found, term / len(single.tokens), "the log-probability of a text")


def check_flight(backbone: Backbone) -> None:
    """Rows of many prompts come to the same alone and in flight, whoever joins and leaves meanwhile."""
    pattern = Template("{bos}{soft}Text: {text}\nAnswer:")
    tokens = [prompt(backbone, length, seed=length).tensors for length in (2, 7, 12)]
    texts: list[SoftPrompt | BoundPrompt] = [
        SoftPrompt(each, pattern, Text(n), backbone.fingerprint) for each, n in zip(tokens, (6, 9, 12), strict=True)
    ]
    if backbone.position_switch is None:
        texts.append(key_values_of(backbone, SoftPrompt(tokens[1], pattern, Text(8), backbone.fingerprint)))
    texts.append(PromptedModel(backbone).bare(Template("{text} is"), Text(7)))
    labels = [prompt(backbone, 4), prompt(backbone, 9, readout="trie")]
    check_passengers(backbone, at_random(texts, labels, rows(18), seed=0))


CHECKS = (
    check_alone_and_batched,
    check_mixed_prompts,
    check_large_batch,
    check_long_prefix,
    check_shared_prefix_is_the_row_path,
    check_training_is_serving,
    check_against_plain_forward,
    check_prompt_matters,
    check_keys_and_values,
    check_cold_prompts,
    check_learned_rows,
    check_text,
    check_flight,
)
"""Every check; each takes an fp32 backbone and raises AssertionError where the contract is broken."""


def scores(
    backbone: Backbone, some: Sequence[Mapping[str, str]], prompts: Sequence[SoftPrompt], budget: Budget | None = None
) -> list[Tensor]:
    """Label probabilities of each row, [C] each."""
    answers = PromptedModel(backbone, budget=budget).score(some, prompts)
    return [torch.tensor([*answer.probabilities.values()]) for answer in answers]


def one_by_one(backbone: Backbone, some: Sequence[Mapping[str, str]], prompts: Sequence[SoftPrompt]) -> list[Tensor]:
    """Label probabilities of each row by a pass of its own, [C] each; the model keeps what it has bound."""
    model = PromptedModel(backbone)
    answers = [model.score([row], [prompt])[0] for row, prompt in zip(some, prompts, strict=True)]
    return [torch.tensor([*answer.probabilities.values()]) for answer in answers]


def _loss_and_gradient(backbone: Backbone, some: SoftPrompt, share: bool) -> tuple[Tensor, Tensor]:
    model = PromptedModel(backbone, share_prefix=share)
    tokens = some.tensors["input"].clone().requires_grad_()
    bound = BoundPrompt.of(backbone, some).with_tensors({"input": tokens})
    gold = [i % len(some.readout.labels) for i in range(8)]
    terms = model.gold_log_probabilities([model.encode(row, bound) for row in rows()], bound, gold)
    (gradient,) = torch.autograd.grad(-terms.mean(), tokens)
    return terms.detach(), gradient


def _plain(backbone: Backbone, some: SoftPrompt, row: Mapping[str, str]) -> Tensor:
    """Label probabilities by the model's ordinary forward over one whole row: no cache, no padding, no sharing."""
    bound = BoundPrompt.of(backbone, some)
    ids = torch.tensor(bound.template.prefix + PromptedModel(backbone).encode(row, bound).ids)
    embedded = backbone.embed(ids.clamp(min=0))
    assert bound.virtual_tokens is not None
    embedded[ids < 0] = bound.virtual_tokens[-1 - ids[ids < 0]].to(embedded.dtype)
    with torch.no_grad():
        logits = backbone.as_in_transformers()(inputs_embeds=embedded[None], use_cache=False).logits[0, -1].double()
    words = [backbone.tokenizer.encode(word, add_special_tokens=False)[0] for word in some.readout.words]
    return torch.softmax(logits[words], dim=0)


def same(found: Tensor, expected: Tensor, what: str) -> None:
    """Hold two tensors of probabilities or relative gradients to the tolerance."""
    difference = float((found.double() - expected.double()).abs().max())
    assert difference < TOLERANCE, f"{what}: differs by {difference:.1e}, more than {TOLERANCE:.0e}"
