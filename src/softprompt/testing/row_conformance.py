"""The contract of encoders and encoder-decoders, whose prompts stand in every row: same row, same answer.

Ships with the package, so that whoever adds a family can hold it to the same suite:

    from softprompt.testing.row_conformance import CHECKS

    @pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
    def test_my_family(check):
        check(my_backbone)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from softprompt.backbones.backbone import Backbone
from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.prompted_model import Budget, PromptedModel
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.free_text import Text
from softprompt.tasks.readout import LabelWords, Readout
from softprompt.tasks.tags import TokenTags
from softprompt.tasks.template import Template
from softprompt.testing.conformance import READOUTS, one_by_one, rows, same, scores
from softprompt.testing.flights import at_random, check_passengers

PATTERNS = {
    "prefix": "{bos}{soft}{text}{sep}",
    "soft-first": "{soft}{bos}{text}{sep}",
    "suffix": "{bos}Text: {text}{soft}{sep}",
    "interleaved": "{bos}{soft}Text:{soft} {text}{soft}{sep}",
    "no-prefix": "{text}{soft} is{sep}",
}
MASKED = {
    "prefix": "{bos}{soft}{text} is {mask}{sep}",
    "suffix": "{bos}Text: {text}{soft} is {mask}{sep}",
    "mask-first": "{bos}{mask} is {soft}{text}{sep}",
    "mask-behind": "{bos}{soft} so {mask} is {text}{sep}",
}
WORDS = LabelWords.from_labels(["a", "b"], leading_space=False)
"""Words of one token for every tokenizer, so that a mask can hold them."""
_COUNTED = (Budget(2, 10_000), Budget(64, 10_000), Budget(64, 64))


def prompt(
    backbone: Backbone,
    length: int,
    *,
    pattern: str = PATTERNS["prefix"],
    readout: Readout = WORDS,
    seed: int = 0,
    learned: bool | None = None,
    deep: bool = False,
) -> SoftPrompt:
    """Return a random prompt of `length` virtual tokens at the scale of the backbone's embeddings.

    Args:
        backbone: an encoder or an encoder-decoder.
        length: P.
        pattern: of its template.
        readout: what it is read by.
        seed: of its values.
        learned: it has learned rows; by default where an encoder has no mask to fill in.
        deep: it is keys and values, an encoder-decoder's in its decoder.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    if deep:
        for site, like in _layers(backbone).items():
            tensors[site] = torch.randn(like[0], length, like[1], generator=generator)
    else:
        site = "encoder.input" if backbone.kind == "encoder-decoder" else "input"
        tensors[site] = backbone.embedding_rms * torch.randn(length, backbone.embedding_size, generator=generator)
    needed = backbone.kind == "encoder" and "{mask}" not in pattern
    if needed if learned is None else learned:
        weight = torch.randn(readout.outputs, backbone.hidden_size, generator=generator) / 8
        tensors |= {"readout.weight": weight, "readout.bias": torch.arange(readout.outputs) / readout.outputs}
    return SoftPrompt(tensors, Template(pattern), readout, backbone.fingerprint)


def kinds(backbone: Backbone) -> Iterator[tuple[str, SoftPrompt]]:
    """Yield prompts of every kind that the backbone carries, of different lengths."""
    for number, (name, pattern) in enumerate(PATTERNS.items()):
        for readout in READOUTS:
            yield (
                f"{name}, {readout}",
                prompt(backbone, 3 + 2 * number, pattern=pattern, readout=READOUTS[readout], seed=number),
            )
    yield "learned rows", prompt(backbone, 6, readout=READOUTS["trie"], learned=True)
    if "mask-readout" in backbone.capabilities:
        for name, pattern in MASKED.items():
            yield f"{name}, masked", prompt(backbone, 4, pattern=pattern)
        yield "masked, learned rows", prompt(backbone, 4, pattern=MASKED["prefix"], learned=True)
    if "deep-prompts" in backbone.capabilities:
        yield "deep", prompt(backbone, 7, deep=True)
        if "mask-readout" in backbone.capabilities:
            yield "deep, mask in front", prompt(backbone, 3, deep=True, pattern=MASKED["mask-first"])
            yield "deep, mask in the prefix", prompt(backbone, 3, deep=True, pattern=MASKED["mask-behind"])


def check_alone_and_batched(backbone: Backbone) -> None:
    """Rows score the same alone, in batches of any size and in any order, for every kind of prompt."""
    for name, some in kinds(backbone):
        alone = torch.stack(one_by_one(backbone, rows(), [some] * 8))
        for budget in _COUNTED:
            together = torch.stack(scores(backbone, rows()[::-1], [some] * 8, budget)[::-1])
            same(together, alone, f"{name}, {budget}")


def check_mixed_prompts(backbone: Backbone) -> None:
    """Rows score the same among rows of other prompts of other lengths, placements and readouts."""
    each = [some for _, some in kinds(backbone)]
    alone = one_by_one(backbone, rows(len(each)), each)
    for mixed, single in zip(scores(backbone, rows(len(each)), each), alone, strict=True):
        same(mixed, single, "mixed prompts")


def check_long_prompts(backbone: Backbone) -> None:
    """Prompts longer than an attention window score the same beside short ones, rows longer than it too."""
    for length in (7, 8, 9, 30):
        each = [prompt(backbone, length), prompt(backbone, 2, seed=1)] * 4
        alone = one_by_one(backbone, rows(), each)
        for mixed, single in zip(scores(backbone, rows(), each), alone, strict=True):
            same(mixed, single, f"P={length}")


def check_training_is_serving(backbone: Backbone) -> None:
    """A label's log-probability in the training loss is the one that scoring gives."""
    for name, some in kinds(backbone):
        if getattr(some.readout, "scoring", "") == "full" and not some.has_rows:
            continue  # not yet normalised over the labels while it is learned
        gold = [i % len(some.readout.labels) for i in range(8)]
        trained = _terms(backbone, some, some.tensors, gold)
        served = PromptedModel(backbone).score_labels(rows(), some).log_probabilities
        same(trained, served[torch.arange(8), torch.tensor(gold)], name)


def check_against_plain_forward(backbone: Backbone) -> None:
    """Values and gradients are those of the transformer's own forward pass over one whole row."""
    for name, some in kinds(backbone):
        if some.readout is not READOUTS["single"] and some.readout is not WORDS:
            continue
        if any(site.startswith("layers.") for site in some.tensors):
            continue  # the model's own forward hands no keys and values to its layers
        found, slope = _loss_and_gradient(backbone, some)
        expected, own = _plain_loss_and_gradient(backbone, some)
        same(found, expected, f"loss, {name}")
        same(slope / own.abs().max(), own / own.abs().max(), f"gradient, {name}")


def check_prompt_matters(backbone: Backbone) -> None:
    """Another prompt gives another answer, and gradients reach all of it: it is not silently ignored."""
    for deep in (False, True)[: 1 + ("deep-prompts" in backbone.capabilities)]:
        one, other = (prompt(backbone, 5, seed=seed, deep=deep, learned=False) for seed in (0, 1))
        heads = _head(backbone)
        first, second = (_with(each, heads) for each in (one, other))
        found = [scores(backbone, rows(1), [each])[0] for each in (first, second)]
        assert (found[0] - found[1]).abs().max() > 1e-3, "two different prompts gave the same probabilities"
        _, slopes = _slopes(backbone, first)
        assert all(slope.abs().max() > 0 for slope in slopes), "no gradient reaches a part of the prompt"


def check_learned_rows(backbone: Backbone) -> None:
    """Learned rows read what the head's own rows read: scores are W t(h) + b by hand."""
    patterns = [PATTERNS["prefix"], *([MASKED["prefix"]] if "mask-readout" in backbone.capabilities else [])]
    for pattern in patterns:
        some = prompt(backbone, 4, pattern=pattern, readout=READOUTS["trie"], learned=True)
        hidden = PromptedModel(backbone).score_labels(rows(), some).hidden
        states = hidden if backbone.head is None else backbone.head.states(hidden)
        by_hand = torch.softmax(states @ some.tensors["readout.weight"].T + some.tensors["readout.bias"], dim=-1)
        same(torch.stack(scores(backbone, rows(), [some] * 8)), by_hand, f"rows by hand, {pattern}")


def check_tags(backbone: Backbone) -> None:
    """Each word of a row is tagged the same alone and batched, read at its last token."""
    if backbone.kind != "encoder":  # its decoder has no place for the words of a row, and says so
        return
    tags = TokenTags.from_tags(["B-PER", "I-PER", "O"], column="text")
    some = [row for row in rows() if row["text"].strip()]
    for deep in (False, True)[: 1 + ("deep-prompts" in backbone.capabilities)]:
        one = prompt(backbone, 4, readout=tags, learned=True, deep=deep)
        model = PromptedModel(backbone)
        together = model.read(some, one).log_probabilities
        for row, batched in zip(some, together, strict=True):
            (alone,) = model.read([row], one).log_probabilities
            assert len(alone) == len(row["text"].split()), "a word has no tag"
            same(batched, alone, "tags")


def check_text(backbone: Backbone) -> None:
    """Text is written the same alone, batched and mixed, and its log-probability is that of the training loss."""
    if "generation" not in backbone.capabilities:
        return
    prompts = [
        prompt(backbone, 2, readout=Text(6)),
        prompt(backbone, 7, readout=Text(9), seed=1),
        prompt(backbone, 4, readout=Text(7), deep=True),
    ]
    model, each = PromptedModel(backbone), [prompts[i % 3] for i in range(8)]
    for row, one, batched in zip(rows(), each, model.write(rows(), each), strict=True):
        (single,) = model.write([row], one)
        assert single.tokens == batched.tokens, f"text differs in a batch: {single.text!r}, {batched.text!r}"
        bound = BoundPrompt.of(backbone, one)
        with torch.no_grad():
            term = model.gold_log_probabilities([model.encode(row, bound)], bound, [single.tokens])
        count = len(single.tokens)
        same(torch.tensor([single.log_probability]) / count, term / count, "the log-probability of a text")


def check_flight(backbone: Backbone) -> None:
    """Rows of many prompts come to the same alone and in flight, whoever joins and leaves meanwhile."""
    if "generation" not in backbone.capabilities:
        return
    texts: list[SoftPrompt | BoundPrompt] = [
        prompt(backbone, length, readout=Text(length + 4), seed=length, deep=length == 3) for length in (2, 3, 8)
    ]
    texts.append(PromptedModel(backbone).bare(Template("{text}{sep}"), Text(7)))
    labels = [prompt(backbone, 4), prompt(backbone, 6, readout=READOUTS["trie"])]
    check_passengers(backbone, at_random(texts, labels, rows(18), seed=0))


CHECKS = (
    check_alone_and_batched,
    check_mixed_prompts,
    check_long_prompts,
    check_training_is_serving,
    check_against_plain_forward,
    check_prompt_matters,
    check_learned_rows,
    check_tags,
    check_text,
    check_flight,
)
"""Every check; each takes an fp32 backbone and raises AssertionError where the contract is broken."""


def _layers(backbone: Backbone) -> Mapping[str, tuple[int, int]]:
    """Heads and head size of every layer that a deep prompt stands in."""
    heads = int(getattr(backbone.model.config, "decoder_attention_heads", backbone.model.config.num_attention_heads))
    size = int(getattr(backbone.model.config, "d_kv", backbone.embedding_size // heads))
    return {f"layers.{n}.{part}": (heads, size) for n in range(backbone.num_layers) for part in ("key", "value")}


def _head(backbone: Backbone) -> dict[str, Tensor]:
    """Rows to read an encoder by, the same each time; nothing for an encoder-decoder."""
    if backbone.kind != "encoder":
        return {}
    weight = torch.randn(2, backbone.hidden_size, generator=torch.Generator().manual_seed(9)) / 8
    return {"readout.weight": weight, "readout.bias": torch.zeros(2)}


def _with(some: SoftPrompt, tensors: Mapping[str, Tensor]) -> SoftPrompt:
    return SoftPrompt({**some.tensors, **tensors}, some.template, some.readout, some.fingerprint)


def _terms(backbone: Backbone, some: SoftPrompt, tensors: Mapping[str, Tensor], gold: Sequence[int]) -> Tensor:
    model = PromptedModel(backbone)
    bound = BoundPrompt.of(backbone, some).with_tensors(tensors)
    return model.gold_log_probabilities([model.encode(row, bound) for row in rows()], bound, gold)


def _slopes(backbone: Backbone, some: SoftPrompt) -> tuple[Tensor, tuple[Tensor, ...]]:
    leaves = {site: tensor.clone().requires_grad_() for site, tensor in some.tensors.items()}
    terms = _terms(backbone, some, leaves, [i % len(some.readout.labels) for i in range(8)])
    return terms.detach(), torch.autograd.grad(-terms.mean(), list(leaves.values()))


def _loss_and_gradient(backbone: Backbone, some: SoftPrompt) -> tuple[Tensor, Tensor]:
    terms, slopes = _slopes(backbone, some)
    return terms, slopes[next(i for i, site in enumerate(some.tensors) if site.endswith("input"))]


def _plain_loss_and_gradient(backbone: Backbone, some: SoftPrompt) -> tuple[Tensor, Tensor]:
    """The same by the model's ordinary forward over one row at a time: no padding, no mask of ours, no positions."""
    site = next(site for site in some.tensors if site.endswith("input"))
    rows_of_prompt = some.tensors[site].clone().requires_grad_()
    bound, model = BoundPrompt.of(backbone, some), PromptedModel(backbone)
    terms = []
    for number, row in enumerate(rows()):
        ids = torch.tensor(bound.template.prefix + model.encode(row, bound).ids)
        embedded = backbone.embed(ids.clamp(min=0)).index_put(
            ((ids < 0).nonzero()[:, 0],), rows_of_prompt[-1 - ids[ids < 0]]
        )
        terms.append(_plain_scores(backbone, some, ids, embedded)[number % 2])
    total = torch.stack(terms)
    (slope,) = torch.autograd.grad(-total.mean(), rows_of_prompt)
    return total.detach(), slope


def _plain_scores(backbone: Backbone, some: SoftPrompt, ids: Tensor, embedded: Tensor) -> Tensor:
    """Label log-probabilities of one row, whose words are one token each or read by learned rows."""
    plain = backbone.as_in_transformers()
    words = [backbone.tokenizer.encode(word, add_special_tokens=False)[0] for word in some.readout.words]
    if backbone.kind == "encoder-decoder":
        start = torch.tensor([backbone.answer_start])
        if not some.has_rows:
            logits = plain(inputs_embeds=embedded[None], decoder_input_ids=start).logits[0, -1]
            return torch.log_softmax(logits[words], dim=0)
        state = plain.base_model(inputs_embeds=embedded[None], decoder_input_ids=start).last_hidden_state[0, -1]
    else:
        mask = (ids == backbone.special.mask) if "{mask}" in some.template.pattern else None
        if mask is not None and not some.has_rows:
            return torch.log_softmax(plain(inputs_embeds=embedded[None]).logits[0][mask][0][words], dim=0)
        hidden = plain.base_model(inputs_embeds=embedded[None]).last_hidden_state[0]
        state = hidden[ids >= 0].mean(0) if mask is None else hidden[mask][0]
    states = state[None] if backbone.head is None else backbone.head.states(state[None])
    return torch.log_softmax(states @ some.tensors["readout.weight"].T + some.tensors["readout.bias"], dim=-1)[0]
