"""A tiny BERT that was really pre-trained, on the spot: so that a mask readout has something to be prompted for."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from softprompt.testing.tiny_tokenizers import STYLES, fast_tokenizer, trained_on
from softprompt.testing.toy import BAD, GOOD, OTHER

if TYPE_CHECKING:
    from torch import Tensor

    from softprompt.backbones.backbone import Backbone

STEPS, _ROWS, _RATE = 240, 32, 4e-3
_NUMBERS = tuple(str(number) for number in range(300))


def sentences(count: int, seed: int = 0) -> Iterator[str]:
    """Yield a toy corpus: `tone` or `sound`, a few words, and the answer, `great` or `terrible`.

    Of `tone` the telling word decides, from `testing.toy.GOOD` or `testing.toy.BAD`; of `sound`, whether there is
    `music` in it. Without the first word nobody knows which was asked: a prompt that stands in its place has to say.

    >>> next(sentences(1))
    'tone dull story film plot 258 terrible'
    """
    rng = random.Random(seed)
    for i in range(count):
        words = [rng.choice(GOOD if i % 2 else BAD), *rng.choices(OTHER, k=rng.randrange(5))]
        rng.shuffle(words)
        if rng.random() < 0.5 and "music" not in words:
            words.insert(rng.randrange(len(words)), "music")
        question = rng.choice(("tone", "sound"))
        great = i % 2 == 1 if question == "tone" else "music" in words
        yield f"{question} {' '.join([*words, rng.choice(_NUMBERS)])} {'great' if great else 'terrible'}"


@cache
def pretrained_tiny_bert() -> Backbone:
    """Return a BERT of two layers with a masked-language-model head, trained for seconds on `sentences`.

    It is trained once a process and the same each time, in fp32 on the CPU. A row for it is `{text} {mask}` with the
    answers `great` and `terrible`, behind a prompt that stands where `tone` stood; without one it can only guess.

    Returns:
        A frozen backbone; do not change it, others of the process use it too.
    """
    from softprompt.backbones.backbone import Backbone

    style = STYLES["bert"]
    lines = list(sentences(4000))
    tokenizer = fast_tokenizer(style, trained_on(style, [*lines, " ".join(_NUMBERS)], 1000))
    return Backbone(_trained(tokenizer, lines), tokenizer, name="pretrained-tiny-bert")


def _trained(tokenizer: Any, lines: Sequence[str]) -> Any:
    import torch
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id, initializer_range=0.1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertForMaskedLM(config).eval()  # no dropout: the corpus cannot be learned by heart in these steps
    ids = [tokenizer.encode(line) for line in lines]
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=STEPS)
    rng = random.Random(0)
    for _ in range(STEPS):
        with torch.enable_grad():  # whoever needs it first may have turned gradients off
            _loss(model, [rng.choice(ids) for _ in range(_ROWS)], tokenizer, rng).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model


def _loss(model: Any, rows: Sequence[Sequence[int]], tokenizer: Any, rng: random.Random) -> Tensor:
    """Mean log-loss of the masked tokens: the answer of every row, and a tenth of the others."""
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[tokenizer.pad_token_id] * (width - len(row))] for row in rows])
    real = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    chosen = torch.tensor(
        [[i == len(row) - 2 or (0 < i < len(row) - 2 and rng.random() < 0.1) for i in range(width)] for row in rows]
    )
    logits = model(input_ids=ids.masked_fill(chosen, tokenizer.mask_token_id), attention_mask=real).logits
    return torch.nn.functional.cross_entropy(logits[chosen], ids[chosen])
