"""Encoders and encoder-decoders learn: through `train`, in a bank, and what the settings choose for them."""

import pytest
import torch

from softprompt.backbones.backbone import load_backbone
from softprompt.errors import ConfigError
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.tasks.fitted import fitted_to
from softprompt.tasks.load import load_task
from softprompt.testing.pretrained import pretrained_tiny_bert
from softprompt.testing.row_conformance import prompt
from softprompt.testing.tiny import tiny_backbone
from softprompt.testing.toy import toy_rows
from softprompt.training.bank import gradients
from softprompt.training.candidates import field, needs_rows, settled
from softprompt.training.config import TrainConfig
from softprompt.training.learner import Learner
from softprompt.training.lesson import Lesson
from softprompt.training.train import train

PLAIN = {"race": False, "report": False, "validate_every": 20}


def toy(backbone, train=120, **options):
    splits = {"train": toy_rows(train), "validation": toy_rows(40, 1), "test": toy_rows(100, 7)}
    task = load_task(splits, name="toy", **options)
    return fitted_to(task, backbone.kind, masked="mask-readout" in backbone.capabilities)


def accuracy(backbone, task, some):
    test = task.rows("test")
    found = PromptedModel(backbone).score_labels([row.fields for row in test], some).log_probabilities.argmax(-1)
    return sum(task.labels[int(i)] == row.label for i, row in zip(found, test, strict=True)) / len(test)


@pytest.mark.parametrize(
    ("settings", "least"),
    [
        ({"parameterization": "direct", "learned_rows": False, "virtual_tokens": 1}, 0.99),
        ({}, 0.95),  # keys and values with learned rows, read at the mask
    ],
)
def test_a_prompt_teaches_a_pretrained_encoder_what_to_fill_in(settings, least, tmp_path):
    backbone = pretrained_tiny_bert()
    words = {"positive": "great", "negative": "terrible"}
    task = toy(backbone, words=words, template="{bos}{soft}{text} {mask}{sep}")
    assert accuracy(backbone, task, PromptedModel(backbone).bare(task.template, task.readout)) == 0.73
    result = train(backbone, task, run=tmp_path / "run", steps=40, **PLAIN, **settings)
    assert accuracy(backbone, task, result.prompt) >= least


def test_a_pooled_prompt_learns_without_a_mask(tmp_path):
    backbone = pretrained_tiny_bert()
    splits = {"train": toy_rows(120), "validation": toy_rows(40, 1), "test": toy_rows(100, 7)}
    words = {"positive": "great", "negative": "terrible"}
    task = fitted_to(load_task(splits, name="toy", words=words), "encoder")
    assert task.template.pattern == "{bos}{soft}{text}{sep}"
    result = train(backbone, task, run=tmp_path / "run", steps=40, **PLAIN)
    assert "readout.weight" in result.prompt.tensors
    assert accuracy(backbone, task, result.prompt) >= 0.95


@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.parametrize("kind", ["direct", "deep"])
def test_an_encoder_decoder_learns(family, kind, tmp_path):
    backbone = tiny_backbone(family)
    task = toy(backbone)
    result = train(backbone, task, run=tmp_path / "run", steps=60, learning_rate=0.05, parameterization=kind, **PLAIN)
    first = PromptedModel(backbone).bare(task.template, task.readout)
    assert accuracy(backbone, task, result.prompt) > max(0.6, accuracy(backbone, task, first))
    assert ("encoder.input" if kind == "direct" else "layers.2.key") in result.prompt.tensors


def test_training_goes_on_from_a_prompt_at_the_encoder(tmp_path):
    backbone = tiny_backbone("t5")
    start = prompt(backbone, 4)
    settings = {"init": "prompt", "virtual_tokens": 4, "steps": 1, "learning_rate": 1e-9, **PLAIN}
    result = train(backbone, toy(backbone, 30), run=tmp_path / "run", start=start, **settings)
    torch.testing.assert_close(result.prompt.tensors["encoder.input"], start.tensors["encoder.input"])


def test_text_is_learned_in_the_decoder(tmp_path):
    backbone = tiny_backbone("t5_gated")
    rows = [{"input": row["text"], "target": row["label"]} for row in toy_rows(60)]
    task = fitted_to(load_task(rows, kind="generation"), "encoder-decoder")
    assert task.template.pattern == "{bos}{soft}{input}{sep}"
    losses = [
        train(backbone, task, run=tmp_path / str(n), steps=n, learning_rate=0.05, **PLAIN).fit.validation["loss"]
        for n in (1, 40)
    ]
    assert losses[1] < 0.85 * losses[0]


KINDS = ({"parameterization": "direct"}, {"parameterization": "residual", "virtual_tokens": 7})


@pytest.mark.parametrize("family", ["bert", "minilm", "modernbert", "t5", "bart"])
def test_gradients_in_a_bank_are_those_of_separate_runs(family):
    backbone = tiny_backbone(family)
    model, task = PromptedModel(backbone), toy(backbone, 40)
    deep = ({"parameterization": "deep", "virtual_tokens": 5},) if "deep-prompts" in backbone.capabilities else ()
    base = {"virtual_tokens": 3, "learned_rows": True, "batch_size": 5, "steps": 2}
    bank = [
        Learner(
            model, Lesson(str(i), TrainConfig(**{**base, **kind}), task.template, task.readout, task.rows("train"), [])
        )
        for i, kind in enumerate((*KINDS, *deep))
    ]
    together = gradients(model, [learner.share() for learner in bank], 10_000)
    cut = gradients(model, [learner.share() for learner in bank], 64)
    for learner, each, parts in zip(bank, together, cut, strict=True):
        (alone,) = gradients(model, [learner.share()], 10_000)
        assert torch.allclose(each.loss, alone.loss, atol=1e-5)
        for site, expected in alone.gradient.items():
            largest = expected.abs().max()
            assert largest > 0, (learner.lesson.name, site)
            for found in (each, parts):
                assert ((found.gradient[site] - expected).abs().max() / largest) < 1e-5, (learner.lesson.name, site)


def learner_of(model, task, **settings):
    config = TrainConfig(virtual_tokens=40, learned_rows=True, steps=2, **settings)
    return Learner(model, Lesson("one", config, task.template, task.readout, task.rows("train"), []))


@pytest.mark.parametrize(("family", "entrance"), [("bert", "run"), ("t5", "encode")])
def test_a_pass_counts_the_prompt_that_every_row_of_an_encoder_carries(family, entrance, monkeypatch):
    backbone = tiny_backbone(family)
    model, task, sizes = PromptedModel(backbone), toy(backbone, 40), []
    enter = getattr(backbone, entrance)

    def counted(embeddings, **options):
        sizes.append(embeddings.shape[0] * embeddings.shape[1])
        return enter(embeddings, **options)

    monkeypatch.setattr(backbone, entrance, counted)
    learner = learner_of(model, task, parameterization="direct", batch_size=12)
    sizes.clear()
    gradients(model, [learner.share()], 128)
    assert len(sizes) > 4
    assert max(sizes) <= 128


@pytest.mark.parametrize(("kind", "carried"), [("direct", 40), ("deep", 0)])
def test_batches_by_tokens_count_the_prompt_where_rows_carry_it(kind, carried):
    backbone = tiny_backbone("bert")
    model, task = PromptedModel(backbone), toy(backbone, 40)
    learner = learner_of(model, task, parameterization=kind, batch_tokens=250)
    for step in range(4):
        rows = learner.share(step).rows
        assert sum(carried + len(row.ids) for row in rows) <= 250
        assert len(rows) > 2


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("bert", "deep"),
        ("roberta", "deep"),
        ("minilm", "deep"),
        ("distilbert", "direct"),
        ("t5", "direct"),
        ("llama", "deep"),
    ],
)
def test_the_default_is_what_the_backbone_carries(family, kind):
    backbone = tiny_backbone(family)
    task = toy(backbone)
    chosen = settled(TrainConfig(), task.template, task.readout, backbone, task.rows("train"))
    assert (chosen.parameterization, chosen.learned_rows) == (kind, True)


def test_no_candidate_goes_without_the_rows_that_are_needed():
    backbone = tiny_backbone("minilm")
    task = toy(backbone)
    assert needs_rows(backbone, task.template, task.readout)
    default = settled(TrainConfig(), task.template, task.readout, backbone, task.rows("train"))
    found = field(TrainConfig(), default, rows_needed=True)
    assert {each.parameterization for each in found.values()} == {"deep", "direct"}
    assert all(each.learned_rows for each in found.values())


def test_learned_rows_that_were_asked_for_are_not_varied():
    asked = TrainConfig(learned_rows=True)
    backbone = tiny_backbone("llama")
    task = toy(backbone)
    default = settled(asked, task.template, task.readout, backbone, task.rows("train"))
    assert all(each.learned_rows for each in field(asked, default).values())


def test_learned_rows_start_at_the_words_of_the_mask():
    """At its first values a prompt with rows answers as its words do: rows, bias and the head's transformation."""
    backbone = pretrained_tiny_bert()
    task = toy(backbone, words={"positive": "great", "negative": "terrible"})
    found = []
    for learned in (False, True):
        config = TrainConfig(parameterization="direct", learned_rows=learned)
        lesson = Lesson("one", config, task.template, task.readout, task.rows("train"), [])
        bound = lesson.bind(backbone, lesson.begin(backbone)[0].materialize())
        found.append(PromptedModel(backbone).score_labels([{"text": "a good film"}], bound).log_probabilities)
    torch.testing.assert_close(found[0], found[1].detach(), rtol=0, atol=1e-5)


def test_a_deep_prompt_elsewhere_than_in_front_is_refused():
    backbone = tiny_backbone("bert")
    task = toy(backbone, template="{bos}{text}{soft}{sep}")
    config = TrainConfig(parameterization="deep", learned_rows=True)
    with pytest.raises(ConfigError, match="keeps keys and values in front of the first field"):
        Lesson("one", config, task.template, task.readout, task.rows("train"), []).begin(backbone)


def test_a_deep_prompt_is_refused_where_the_layers_take_none():
    backbone = tiny_backbone("distilbert")
    task = toy(backbone)
    config = TrainConfig(parameterization="deep", learned_rows=True)
    with pytest.raises(
        ConfigError, match=r"`deep` keeps .* `tiny-distilbert` \(DistilBERT, encoder\) takes none from outside; choose"
    ):
        Lesson("one", config, task.template, task.readout, task.rows("train"), []).begin(backbone)


@pytest.mark.real
def test_the_packaged_sentence_encoder_learns(tmp_path):
    backbone = load_backbone("minilm-l6", dtype="fp32")
    task = toy(backbone)
    losses = [train(backbone, task, run=tmp_path / str(n), steps=n, **PLAIN).fit.validation["loss"] for n in (1, 8)]
    assert losses[1] < losses[0]
