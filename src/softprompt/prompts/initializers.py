"""First values of a prompt: random, sampled vocabulary, a text, the class labels, another prompt.

Each gives rows at the scale of the backbone's embedded tokens (after the embedding module, where some
families multiply), and says what it did when P differs from the length of its source.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from softprompt.backbones.backbone import Backbone
from softprompt.errors import ConfigError, IncompatiblePromptError
from softprompt.prompts.manifest import WRITTEN_FEATURES
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.shapes import Float

_AT_ONCE = 8_192
COMMON = 5000
"""How many of the vocabulary's first tokens count as common (Lester et al. 2021 sample from 5,000)."""


class Initial(NamedTuple):
    """First values and a sentence about where they come from.

    Attributes:
        rows: [P, D], fp32.
        note: what was done, for the run's record.
    """

    rows: Float[Tensor, "P D"]
    note: str


def from_random(backbone: Backbone, length: int, generator: Generator) -> Initial:
    """Draw P rows from a normal distribution with the RMS of the backbone's embedded tokens."""
    _check_length(length)
    rows = torch.randn(length, backbone.embedding_size, generator=generator) * backbone.embedding_rms
    return Initial(rows, f"{length} random rows at the embeddings' scale ({backbone.embedding_rms:.3g})")


def from_vocabulary(backbone: Backbone, length: int, generator: Generator) -> Initial:
    """Sample P embedded tokens without replacement from the first 5,000 ordinary tokens of the vocabulary.

    Vocabularies list their most frequent tokens first, near enough; special tokens are left out. With more
    rows than candidates the sample is repeated.
    """
    _check_length(length)
    candidates = _common_tokens(backbone)
    order = torch.randperm(len(candidates), generator=generator)
    ids = candidates[order][torch.arange(length) % len(candidates)]
    note = f"{length} tokens sampled from the {len(candidates)} most common"
    return Initial(_embed(backbone, ids), note)


def from_text(backbone: Backbone, length: int, text: str) -> Initial:
    """Embed the tokens of `text`: cut at P, or repeated from its start until P rows are full.

    Raises:
        ConfigError: the text has no token.
    """
    _check_length(length)
    ids = backbone.tokenizer.encode(text, add_special_tokens=False)
    if not ids:
        raise ConfigError(f"the initial text `{text}` has no token; give it some words")
    fit = _fit_said(len(ids), length, "repeated")
    repeated = torch.tensor([ids[i % len(ids)] for i in range(length)])
    return Initial(_embed(backbone, repeated), f"text `{text.strip()}`{fit}")


def from_labels(backbone: Backbone, length: int, words: Sequence[str], generator: Generator) -> Initial:
    """Start row i at the mean of the sub-token embeddings of label i (Lester et al. 2021, arXiv 2104.08691).

    Rows beyond the labels are sampled from the vocabulary; labels beyond P are left out.

    Args:
        backbone: the frozen transformer.
        length: P.
        words: the label words.
        generator: for the sampled rows.
    """
    rows = from_vocabulary(backbone, length, generator).rows
    for i, word in enumerate(words[:length]):
        ids = backbone.tokenizer.encode(word, add_special_tokens=False)
        rows[i] = _embed(backbone, torch.tensor(ids)).mean(0)
    left = f", {len(words) - length} labels left out" if len(words) > length else ""
    sampled = max(0, length - len(words))
    return Initial(rows, f"means of {min(len(words), length)} labels{left}, {sampled} sampled tokens")


def from_prompt(backbone: Backbone, length: int, prompt: SoftPrompt, *, allow_other_weights: bool = False) -> Initial:
    """Take the rows of another prompt: cut at P, or repeated from its start until P rows are full.

    How its rows were written and its answers read does not matter: that comes from the task at hand.

    Raises:
        IncompatiblePromptError: it was trained on another backbone, or has no input rows, or learned rows too.
    """
    _check_length(length)
    features = WRITTEN_FEATURES | {"encoder"}
    prompt.check(backbone.fingerprint, allow_other_weights=allow_other_weights, features=features)
    site = next((site for site in ("input", "encoder.input") if site in prompt.tensors), None)
    if site is None:
        raise IncompatiblePromptError(f"the prompt holds {', '.join(prompt.tensors)} and no input rows to start from")
    rows = prompt.tensors[site].float()
    fit = _fit_said(rows.shape[0], length, "repeated")
    return Initial(rows[torch.arange(length) % rows.shape[0]].clone(), f"prompt {prompt.digest[:12]}{fit}")


def _fit_said(source: int, length: int, longer: str) -> str:
    if source == length:
        return ""
    return f", {longer} from {source} to {length} rows" if source < length else f", cut from {source} to {length} rows"


def _check_length(length: int) -> None:
    if length < 1:
        raise ConfigError(f"a prompt of {length} virtual tokens was asked for; give at least 1")


def _common_tokens(backbone: Backbone) -> Tensor:
    special = set(backbone.tokenizer.all_special_ids)
    ordinary = [i for i in range(min(backbone.vocab_size, COMMON + len(special))) if i not in special]
    return torch.tensor(ordinary[:COMMON])


def _embed(backbone: Backbone, ids: Tensor) -> Tensor:
    """Embedded rows in fp32 on the CPU: [P] -> [P, D]."""
    with torch.no_grad():
        return backbone.embed(ids.to(backbone.device)).float().cpu()


def nearest_tokens(backbone: Backbone, rows: Float[Tensor, "P D"]) -> Tensor:
    """Return the ids [P] of the tokens whose embeddings lie nearest to some rows: of embedded tokens, those tokens.

    Args:
        backbone: the frozen transformer.
        rows: first values, on the CPU.
    """
    found = torch.zeros(len(rows), dtype=torch.long)
    least = torch.full((len(rows),), torch.inf)
    for ids in torch.arange(backbone.vocab_size).split(_AT_ONCE):
        distance, place = torch.cdist(rows, _embed(backbone, ids)).min(dim=1)
        nearer = distance < least
        found = torch.where(nearer, ids[place], found)
        least = torch.where(nearer, distance, least)
    return found


def bias_of_words(backbone: Backbone, words: Sequence[str]) -> Float[Tensor, " C"]:
    """Return what the output rows of each answer's words have for a bias, on the mean; zero where there is none.

    Args:
        backbone: the frozen transformer.
        words: the words of each answer, C of them, each with at least one token.
    """
    none = torch.zeros(len(words))
    if backbone.head is None:
        return none
    ids = [torch.tensor(backbone.tokenizer.encode(word, add_special_tokens=False)) for word in words]
    found = [backbone.head.bias(each.to(backbone.device)) for each in ids]
    known = [bias.detach().cpu().mean() for bias in found if bias is not None]
    return torch.stack(known) if known and len(known) == len(words) else none


def rows_of_words(backbone: Backbone, words: Sequence[str], generator: Generator) -> Float[Tensor, "C D"]:
    """Return where learned rows start: the mean output row of each answer's words.

    A backbone without a head that scores words has none; its rows are drawn at 1/√D, so that scores start near zero.

    Args:
        backbone: the frozen transformer.
        words: the words of each answer, C of them.
        generator: for a backbone without a head.

    Raises:
        ConfigError: words without a token.
    """
    ids = [backbone.tokenizer.encode(word, add_special_tokens=False) for word in words]
    empty = next((word for word, each in zip(words, ids, strict=True) if not each), None)
    if empty is not None:
        raise ConfigError(f"the words `{empty}` have no token, so no learned row can start there; choose others")
    found = [backbone.output_rows(torch.tensor(each)) for each in ids]
    known = [rows.mean(0) for rows in found if rows is not None]
    if len(known) == len(words):
        return torch.stack(known)
    drawn: Tensor = torch.randn(len(words), backbone.hidden_size, generator=generator) / backbone.hidden_size**0.5
    return drawn
