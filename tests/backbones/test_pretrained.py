"""The tiny BERT that is pre-trained on the spot: it answers what it was asked, and needs to be asked."""

import torch

from softprompt.tasks.template import Template
from softprompt.testing.pretrained import pretrained_tiny_bert, sentences
from softprompt.testing.toy import toy_rows

ANSWERS = {"positive": "great", "negative": "terrible"}


def right(pattern: str, soft: torch.Tensor | None = None) -> float:
    """The share of toy rows whose better answer is the right one."""
    rows = toy_rows(100, seed=7)
    logits = scores(pattern, rows, torch.zeros(0, 48) if soft is None else soft)
    gold = torch.tensor([row["label"] == "positive" for row in rows])
    return float(((logits[:, 0] > logits[:, 1]) == gold).float().mean())


def scores(pattern: str, rows, soft: torch.Tensor) -> torch.Tensor:
    backbone = pretrained_tiny_bert()
    template = Template(pattern).tokenize(backbone.tokenizer, len(soft))
    tokens = [template.row(row) for row in rows]
    ids = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(template.prefix + row.ids) for row in tokens], batch_first=True, padding_value=backbone.pad
    )
    mask = (ids != backbone.pad).long()
    embedded = backbone.embed(ids.clamp(min=0))
    where = (ids < 0).nonzero(as_tuple=True)
    embedded = embedded.index_put(where, soft[-1 - ids[where]])
    hidden, _ = backbone.run(embedded, mask=mask, positions=(mask.cumsum(1) - 1).clamp(0))
    columns = torch.tensor([row.masks[0] for row in tokens])
    words = torch.tensor(backbone.tokenizer.convert_tokens_to_ids(list(ANSWERS.values())))
    return backbone.logits(hidden[torch.arange(len(rows)), columns], words)


def test_it_knows_what_it_was_taught_and_guesses_when_it_is_not_asked():
    with torch.no_grad():
        assert right("{bos}tone {text} {mask}{sep}") > 0.95
        assert right("{bos}{text} {mask}{sep}") < 0.9


def test_a_soft_prompt_learns_to_ask():
    backbone, rows = pretrained_tiny_bert(), toy_rows(64, seed=1)
    generator = torch.Generator().manual_seed(1)
    soft = (backbone.embedding_rms * torch.randn(1, 48, generator=generator)).requires_grad_()
    optimizer = torch.optim.AdamW([soft], lr=0.05)
    gold = torch.tensor([list(ANSWERS).index(row["label"]) for row in rows])
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(scores("{bos}{soft}{text} {mask}{sep}", rows, soft), gold)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert right("{bos}{soft}{text} {mask}{sep}", soft.detach()) > 0.95


def test_it_is_the_same_every_time():
    one = pretrained_tiny_bert()
    assert pretrained_tiny_bert() is one
    assert "mask-readout" in one.capabilities
    other = pretrained_tiny_bert.__wrapped__()
    assert other.fingerprint == one.fingerprint


def test_the_corpus_is_seeded_and_both_questions_are_asked():
    lines = list(sentences(400))
    assert lines == list(sentences(400))
    first, last = ({line.split()[at] for line in lines} for at in (0, -1))
    assert (first, last) == ({"tone", "sound"}, {"great", "terrible"})
