"""What every method that trains weights must do, on decoders of three families."""

import builtins
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from softprompt.errors import MissingExtraError, TemplateError, UnsupportedBackboneError
from softprompt.evaluation.evaluation import gold_indices
from softprompt.evaluation.metrics import calibrated, log_loss
from softprompt.methods import pauses, tuned
from softprompt.methods.catalogue import method
from softprompt.methods.houlsby import BOTTLENECK
from softprompt.methods.lora import RANK
from softprompt.methods.method import Effort
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.tasks.load import load_task
from softprompt.testing.tiny import tiny_backbone
from softprompt.testing.toy import toy_rows

FAMILIES = ("gemma3", "llama", "gpt2")
NAMES = ("lora", "ia3", "houlsby", "bitfit", "full")
PAIRS = [(name, family) for name in NAMES for family in FAMILIES if name != "bitfit" or family == "gpt2"]
RATES = {"full": 30.0, "ia3": 3.0, "bitfit": 10.0}
LAYERS, HIDDEN = 2, 48

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def task():
    return load_task(toy_rows(60))


def states(backbone, task):
    """What the backbone gives for a few rows of text."""
    ids = torch.tensor(backbone.tokenizer.encode(task.splits["test"][0].fields["text"], add_special_tokens=False))
    mask, positions = torch.ones(1, len(ids)).long(), torch.arange(len(ids))[None]
    with torch.no_grad():
        return backbone.run(backbone.embed(ids[None]), mask=mask, positions=positions)[0]


def zero_shot(backbone, task):
    """Log-probabilities of the bare template's label words."""
    pattern = task.template.pattern.replace("{soft}", "")
    model = PromptedModel(backbone, share_prefix=False)
    bound = model.bare(type(task.template)(pattern), task.readout)
    return model.score_labels([example.fields for example in task.splits["test"]], bound).log_probabilities


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_it_learns_and_answers_a_row_alone_as_in_a_batch_and_is_undone_when_off(task, name, family):
    backbone = tiny_backbone(family)
    before, bare = states(backbone, task), zero_shot(backbone, task)
    fitted = method(name).fit(backbone, task, 0, Effort(rate=RATES.get(name, 3.0), examples=192))
    rows = task.splits["test"]
    together = fitted.predictor.log_probabilities(rows)
    alone = np.concatenate([fitted.predictor.log_probabilities([row]) for row in rows])
    assert fitted.course.loss < fitted.course.points[0].loss
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(np.exp(together).sum(1), 1, atol=1e-5)
    assert not torch.equal(states(backbone, task), before)
    if name == "full":
        assert fitted.off is None
        return
    with fitted.off():
        assert torch.equal(states(backbone, task), before)
        assert torch.equal(zero_shot(backbone, task), bare)
    np.testing.assert_array_equal(fitted.predictor.log_probabilities(rows), together)


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_fit_goes_on_to_the_same_numbers(task, name, tmp_path, monkeypatch):
    monkeypatch.setattr(pauses, "_PAUSE", 0)
    monkeypatch.setattr("softprompt.methods.tuning.LOOKS", (24, 24))

    def fit(folder):
        effort = Effort(rate=3.0, examples=72, readout="rows", folder=folder)
        return method(name).fit(tiny_backbone("gpt2"), task, 0, effort)

    whole = fit(None)
    write = pauses.Pauses.write

    def killed(self, *arguments, **options):
        write(self, *arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pauses.Pauses, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path)
    again = fit(tmp_path)
    rows = task.splits["test"]
    np.testing.assert_array_equal(again.predictor.log_probabilities(rows), whole.predictor.log_probabilities(rows))
    assert [point.loss for point in again.course.points] == [point.loss for point in whole.course.points]


def test_where_there_is_enough_to_train_the_layers_are_compiled(task, monkeypatch):
    asked = []

    @contextmanager
    def instead(backbone, warm_up):
        warm_up()
        assert all(parameter.grad is None for parameter in backbone.model.parameters())
        asked.append(backbone)
        yield True

    plain = method("lora").fit(tiny_backbone("gpt2"), task, 0, Effort(examples=48))
    monkeypatch.setattr(tuned, "compiled", instead)
    monkeypatch.setattr(tuned, "is_worth_compiling", lambda _, tokens: tokens >= 48 * 4)
    backbone = tiny_backbone("gpt2")
    found = method("lora").fit(backbone, task, 0, Effort(examples=48))
    assert asked == [backbone]
    assert [point.loss for point in found.course.points] == [point.loss for point in plain.course.points]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_compiled_it_learns_the_same(name):
    command = [sys.executable, str(Path(__file__).with_name("compiled_fit.py")), name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def _linear(family):
    """Sizes of the linear layers of one tiny layer: (in, out) each."""
    if family == "gpt2":
        return [(48, 144), (48, 48), (48, 192), (192, 48)]
    heads = 16 if family == "gemma3" else 12
    return [(48, 4 * heads), (48, 2 * heads), (48, 2 * heads), (4 * heads, 48), (48, 64), (48, 64), (64, 48)]


def expected(name, family, backbone):
    sizes = _linear(family)
    if name == "lora":
        return LAYERS * RANK * sum(a + b for a, b in sizes)
    if name == "houlsby":
        return LAYERS * 2 * (2 * HIDDEN * BOTTLENECK + BOTTLENECK + HIDDEN)
    if name == "ia3":
        return LAYERS * (144 + 192 if family == "gpt2" else 2 * sizes[1][1] + 64)
    if name == "bitfit":  # of all four projections and two norms a layer, and of the last norm
        return LAYERS * (sum(b for _, b in sizes) + 2 * HIDDEN) + HIDDEN
    return sum(parameter.numel() for parameter in backbone.model.parameters())


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_parameters_and_bytes_are_those_of_the_formula(task, name, family):
    backbone = tiny_backbone(family, dtype=torch.bfloat16)
    count = expected(name, family, backbone)
    fitted = method(name).fit(backbone, task, 0, Effort(examples=8))
    assert fitted.trained == count
    assert fitted.kept_bytes == 2 * count


def test_learned_rows_count_too(task):
    fitted = method("lora").fit(tiny_backbone("llama"), task, 0, Effort(examples=8, readout="rows"))
    assert fitted.trained == expected("lora", "llama", None) + 2 * (HIDDEN + 1)
    assert fitted.kept_bytes == 4 * fitted.trained


@pytest.mark.parametrize("name", NAMES)
def test_a_task_is_put_back_in_the_place_of_another(task, name):
    backbone = tiny_backbone("gpt2")
    fitted = method(name).fit(backbone, task, 0, Effort(examples=24, readout="rows"))
    before = fitted.predictor.log_probabilities(task.splits["test"])
    fitted.switch()
    changed = [p for p in backbone.model.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter in changed:
            parameter.add_(0.5)
    assert not np.allclose(fitted.predictor.log_probabilities(task.splits["test"]), before, atol=1e-3)
    fitted.switch()
    np.testing.assert_array_equal(fitted.predictor.log_probabilities(task.splits["test"]), before)


def test_answers_are_calibrated_on_validation_rows_as_prompts_are():
    task = load_task({"train": toy_rows(60), "validation": toy_rows(60, 1), "test": toy_rows(20, 2)})
    fitted = method("lora").fit(tiny_backbone("llama"), task, 0, Effort(rate=3.0, examples=480))
    predictor, rows = fitted.predictor, task.splits["validation"]
    found, gold = predictor.log_probabilities(rows), gold_indices(rows, task.labels)
    assert predictor.temperature != 1
    assert fitted.loss == pytest.approx(log_loss(found, gold))
    assert fitted.loss < fitted.course.loss
    bare = replace(predictor, temperature=1.0).log_probabilities(rows)
    np.testing.assert_allclose(found, calibrated(bare, predictor.temperature), atol=1e-6)
    np.testing.assert_array_equal(found.argmax(1), bare.argmax(1))


def test_words_scored_over_the_vocabulary_keep_all_of_it(task, monkeypatch):
    whole = replace(task, readout=replace(task.readout, scoring="full"))
    monkeypatch.setattr("softprompt.methods.full.CutVocabulary", None)  # calling it would fail
    fitted = method("full").fit(tiny_backbone("gemma3"), whole, 0, Effort(rate=30.0, examples=24))
    assert fitted.course.steps == 2  # a bound on rows is no more than a batch above it


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("readout", ["words", "rows"])
def test_cutting_the_vocabulary_changes_no_number(task, monkeypatch, tied, readout):
    def fit():
        backbone = tiny_backbone("gemma3", tie_word_embeddings=tied)
        fitted = method("full").fit(backbone, task, 0, Effort(rate=30.0, examples=48, readout=readout))
        return backbone, fitted.predictor.log_probabilities(task.splits["test"])

    cut, found = fit()
    monkeypatch.setattr("softprompt.methods.cut_vocabulary.CutVocabulary.fits", staticmethod(lambda backbone: False))
    whole, dense = fit()
    np.testing.assert_allclose(found, dense, atol=1e-5)
    for (name, ours), (_, theirs) in zip(cut.model.named_parameters(), whole.model.named_parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0, msg=name)
    assert (cut.model.get_input_embeddings().weight is cut.model.get_output_embeddings().weight) == tied


@pytest.mark.parametrize("family", ["gemma3", "llama"])
def test_bitfit_refuses_what_has_no_biases(task, family):
    backbone = tiny_backbone(family)
    with pytest.raises(UnsupportedBackboneError, match=f"`tiny-{family}` .* has no biases, and BitFit"):
        method("bitfit").fit(backbone, task, 0, Effort())


@pytest.mark.parametrize("name", ["ia3", "houlsby"])
def test_layers_that_are_not_known_are_refused_by_name(task, name):
    assert "the sub-layers of `tiny-t5` (T5) end is not known" in method(name).refuses(tiny_backbone("t5"), task)


@pytest.mark.parametrize("family", ["bert", "t5", "bart"])
def test_other_kinds_learn_too(task, family):
    fitted = method("lora").fit(tiny_backbone(family), task, 0, Effort(examples=72, readout="rows"))
    rows = task.splits["test"]
    alone = np.concatenate([fitted.predictor.log_probabilities([row]) for row in rows])
    assert fitted.loss < fitted.course.points[0].loss
    np.testing.assert_allclose(fitted.predictor.log_probabilities(rows), alone, atol=1e-5)


def test_words_that_no_mask_holds_are_refused(task):
    with pytest.raises(TemplateError, match="a mask holds one"):
        method("lora").fit(tiny_backbone("roberta"), task, 0, Effort(readout="words"))


def test_what_cannot_be_trained_is_refused(task):
    lora = method("lora")
    assert "no head that scores words" in lora.refuses(tiny_backbone("minilm"), task)
    assert "gradients vanish in fp16" in lora.refuses(tiny_backbone("llama", dtype=torch.float16), task)
    numbers = load_task([{"text": f"row {n}", "label": float(n)} for n in range(60)], kind="regression")
    assert "learns one of several labels" in lora.refuses(tiny_backbone("llama"), numbers)


def test_shards_and_quantised_weights_are_refused(task):
    backbone = tiny_backbone("llama")
    backbone.sharded = True
    assert "lie in shards" in method("full").refuses(backbone, task)
    backbone.sharded = False
    weight = torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), requires_grad=False)
    backbone.model.register_parameter("packed", weight)
    assert "are quantised" in method("full").refuses(backbone, task)


def test_without_peft_the_extra_is_named(task, monkeypatch):
    real = builtins.__import__

    def lacking(name, *rest, **more):
        if name == "peft":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(MissingExtraError, match="need peft, which is not installed"):
        method("lora").fit(tiny_backbone("llama"), task, 0, Effort())


def test_a_checkpoint_of_other_weights_is_not_gone_on_from(task, tmp_path, capsys):
    effort = Effort(examples=24, folder=tmp_path)
    method("houlsby").fit(tiny_backbone("gemma3", seed=0), task, 0, effort)
    other = method("houlsby").fit(tiny_backbone("gemma3", seed=1), task, 0, effort)
    assert "is of another training" in capsys.readouterr().err
    alone = method("houlsby").fit(tiny_backbone("gemma3", seed=1), task, 0, Effort(examples=24))
    assert other.loss == alone.loss
