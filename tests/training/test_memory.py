"""What a step holds in memory: cut into passes, found where it must be, written down, and repeated by a resume."""

import json
import signal

import pytest
import torch

from softprompt.backbones.hardware import is_out_of_memory
from softprompt.errors import OutOfMemoryError, TrainingError
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.testing.tiny import tiny_backbone
from softprompt.training import memory, trainer
from softprompt.training.bank import gradients
from softprompt.training.batches import TokenOrder
from softprompt.training.config import TrainConfig
from softprompt.training.learner import Learner
from softprompt.training.lesson import Lesson
from softprompt.training.memory import Holding, first_holding, graph_bytes, machine_memory, read_plan
from softprompt.training.parallel import Learned
from softprompt.training.runs import RunFolder
from softprompt.training.scaling import LossScale
from softprompt.training.train import train

SETTINGS = {"steps": 12, "batch_size": 8, "virtual_tokens": 4, "race": False, "report": False, "checkpoint_every": 5}


def losses(folder):
    return [event["loss"] for event in RunFolder(folder).events() if event["event"] == "step"]


def fails_beyond(tokens, from_call=1):
    """The passes of a machine that is full beyond so many tokens."""
    calls = []

    def passes(*arguments):
        calls.append(arguments[2])
        if arguments[2] > tokens and len(calls) >= from_call:
            gradients(*arguments)  # what a pass leaves behind when it fails late must not count twice
            raise torch.OutOfMemoryError("CUDA out of memory")
        return gradients(*arguments)

    return passes, calls


def test_small_passes_add_up_to_a_big_one(backbone, task, tmp_path):
    train(backbone, task, run=tmp_path / "big", **SETTINGS)
    train(backbone, task, run=tmp_path / "small", tokens_at_once=16, **SETTINGS)
    train(backbone, task, run=tmp_path / "again", tokens_at_once=16, checkpoint_layers=True, **SETTINGS)
    assert len(losses(tmp_path / "big")) == 12
    assert losses(tmp_path / "small") == pytest.approx(losses(tmp_path / "big"), abs=1e-4)
    assert losses(tmp_path / "again") == pytest.approx(losses(tmp_path / "small"), abs=1e-4)


def test_a_step_that_does_not_fit_is_done_again_in_smaller_passes(backbone, task, tmp_path, monkeypatch, capsys):
    passes, calls = fails_beyond(512, from_call=8)
    monkeypatch.setattr(trainer, "gradients", passes)
    shrunk = train(backbone, task, run=tmp_path / "shrunk", **SETTINGS)
    assert calls == [2048] * 8 + [1024] + [512] * 5
    assert shrunk.fit.steps == 12
    said = capsys.readouterr().err
    assert said.count("did not fit in memory") == 2
    assert "step 8 did not fit in memory with 2048 tokens held at once; from here on it is 1024" in said
    plan = json.loads((tmp_path / "shrunk" / "plan.json").read_text())
    assert [tuple(each.values()) for each in plan["memory"]] == [(0, 2048, False), (7, 1024, False), (7, 512, False)]
    monkeypatch.undo()
    whole = train(backbone, task, run=tmp_path / "whole", **SETTINGS)
    assert losses(tmp_path / "shrunk") == pytest.approx(losses(tmp_path / "whole"), abs=1e-4)
    assert whole.prompt.provenance == shrunk.prompt.provenance


def test_a_resumed_run_cuts_its_steps_as_they_were_cut(backbone, task, tmp_path, monkeypatch):
    passes, _ = fails_beyond(64, from_call=8)
    monkeypatch.setattr(trainer, "gradients", passes)
    whole = train(backbone, task, run=tmp_path / "whole", **SETTINGS).prompt
    passes, calls = fails_beyond(64, from_call=8)

    def killed(*arguments):
        learned = passes(*arguments)
        if arguments[2] == 64 and len(calls) > 14:
            raise SystemExit
        return learned

    monkeypatch.setattr(trainer, "gradients", killed)
    with pytest.raises(SystemExit):
        train(backbone, task, run=tmp_path / "parts", **SETTINGS)
    again = []
    monkeypatch.setattr(trainer, "gradients", lambda *given: (again.append(given[2]), gradients(*given))[1])
    resumed = train(backbone, task, run=tmp_path / "parts", resume=True, **SETTINGS).prompt
    assert again[:3] == [2048, 2048, 64], "steps 6 and 7 as they were, the eighth as it became"
    assert resumed.to_bytes() == whole.to_bytes()
    fresh = []
    monkeypatch.setattr(trainer, "gradients", lambda *given: (fresh.append(given[2]), gradients(*given))[1])
    train(backbone, task, run=tmp_path / "parts", **SETTINGS)
    assert set(fresh) == {2048}, "a run that starts anew forgets the plan"


def test_at_few_tokens_layers_are_run_again_unless_that_was_forbidden():
    tried, held = [], Holding(0, 1024, False)
    while held is not None:
        tried.append((held.tokens, held.layers))
        held = held.smaller(3, None)
    assert tried == [(1024, False), (512, False), (512, True), (256, True), (128, True), (64, True), (32, True),
                     (16, True)]  # fmt: skip
    assert Holding(0, 512, False).smaller(3, False) == Holding(3, 256, False)
    assert Holding(0, 512, True).smaller(3, True) == Holding(3, 256, True)


def test_what_fits_nowhere_ends_with_what_to_do(backbone, task, tmp_path, monkeypatch):
    passes, calls = fails_beyond(0)
    monkeypatch.setattr(trainer, "gradients", passes)
    with pytest.raises(OutOfMemoryError, match="step 1 does not fit in memory with 16 tokens held at once; set"):
        train(backbone, task, run=tmp_path, **SETTINGS)
    assert calls[-1] == 16

    def broken(*_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(trainer, "gradients", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        train(backbone, task, run=tmp_path, **SETTINGS)


def test_layers_are_run_again_where_it_is_asked_for(backbone, task, tmp_path, monkeypatch):
    seen = []
    layer = backbone.model.base_model.layers[0]
    monkeypatch.setattr(trainer, "gradients", lambda *given: (seen.append(layer.training), gradients(*given))[1])
    train(backbone, task, run=tmp_path / "on", checkpoint_layers=True, **SETTINGS)
    train(backbone, task, run=tmp_path / "off", **SETTINGS)
    assert seen == [True] * 12 + [False] * 12
    assert losses(tmp_path / "on") == losses(tmp_path / "off")


def test_a_cpu_holds_what_a_quarter_of_its_memory_can(backbone, monkeypatch):
    each = graph_bytes(backbone)
    assert each > 4 * backbone.num_layers * backbone.embedding_size
    assert first_holding(backbone, TrainConfig()) == Holding(0, 2048, False)
    monkeypatch.setattr(memory, "machine_memory", lambda: int(4 * 1024 * each))
    assert first_holding(backbone, TrainConfig()) == Holding(0, 1024, False)
    assert first_holding(backbone, TrainConfig(tokens_at_once=2048)) == Holding(0, 2048, False)
    monkeypatch.setattr(memory, "machine_memory", lambda: int(4 * 300 * each))
    assert first_holding(backbone, TrainConfig()) == Holding(0, 512, True)
    assert first_holding(backbone, TrainConfig(checkpoint_layers=False)) == Holding(0, 256, False)
    monkeypatch.setattr(memory, "machine_memory", lambda: 1)
    assert first_holding(backbone, TrainConfig()) == Holding(0, 16, True)
    assert graph_bytes(tiny_backbone("t5")) > 0
    assert machine_memory() > 2**20


def test_a_full_memory_is_told_from_other_errors():
    assert is_out_of_memory(torch.OutOfMemoryError())
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried …"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


def test_a_damaged_plan_is_refused(tmp_path):
    path = tmp_path / "plan.json"
    assert read_plan(path) == {}
    path.write_text("{")
    with pytest.raises(TrainingError, match=r"is damaged .*; start anew without --resume"):
        read_plan(path)


@pytest.mark.parametrize("tokens", [16, 40, 200])
def test_batches_by_tokens_hold_every_row_once_an_epoch(tokens):
    lengths = [3 + 7 * i % 31 for i in range(100)]
    order = TokenOrder(100, tokens, 3, lengths.__getitem__)
    steps, seen = 0, []
    while len(seen) < 200:
        batch = order.at(steps)
        assert len(batch) == 1 or sum(lengths[i] for i in batch) <= tokens
        seen += batch
        steps += 1
    assert sorted(seen[:100]) == sorted(seen[100:200]) == list(range(100))
    assert seen[:100] != seen[100:200]
    fresh = TokenOrder(100, tokens, 3, lengths.__getitem__)
    assert fresh.at(steps - 1) == order.at(steps - 1), "a pure function of the seed and the step"
    assert fresh.at(0) == order.at(0)
    other = TokenOrder(100, tokens, 4, lengths.__getitem__)
    assert other.at(0) != order.at(0)


def test_few_rows_are_one_batch_again_and_again():
    order = TokenOrder(3, 1000, 0, lambda row: 5)
    assert [sorted(order.at(step)) for step in range(3)] == [[0, 1, 2]] * 3


def learner(dtype, task):
    model = PromptedModel(tiny_backbone("llama", dtype=dtype))
    config = TrainConfig(**SETTINGS, parameterization="direct")
    return model, Learner(model, Lesson("one", config, task.template, task.readout, task.rows("train"), []))


def test_a_scaled_loss_has_the_same_gradient(task):
    model, one = learner(torch.float32, task)
    (plain,) = gradients(model, [one.share()], 64)
    (scaled,) = gradients(model, [one.share()], 64, scale=2.0**10)
    assert torch.equal(scaled.loss, plain.loss)
    assert torch.allclose(scaled.gradient["input"], plain.gradient["input"], rtol=1e-5)
    model, half = learner(torch.float16, task)
    share = half.share()
    tiny = share._replace(weights=[1e-6 * weight for weight in share.weights])
    (lost,) = gradients(model, [tiny], 64)
    (kept,) = gradients(model, [half.share()._replace(weights=tiny.weights)], 64, scale=2.0**16)
    expected = 1e-6 * plain.gradient["input"]
    assert (kept.gradient["input"] - expected).norm() < 0.05 * expected.norm()
    assert (lost.gradient["input"] - expected).norm() > 0.5 * expected.norm()


def answers(*values):
    """Passes that have these gradients, one a call."""
    each = iter(values)
    return lambda: [Learned(torch.tensor(1.0), {"input": torch.tensor([next(each)])})]


def test_an_overflow_is_done_again_with_half_the_scale():
    scale = LossScale.for_dtype(torch.float16)
    (learned,) = scale.run(answers(float("inf"), float("nan"), 2.0))
    assert learned.gradient["input"].item() == 2.0
    assert (scale.value, scale.good) == (16384.0, 1)
    scale.good = 1998
    scale.run(answers(1.0))
    assert (scale.value, scale.good) == (16384.0, 1999)
    scale.run(answers(1.0))
    assert (scale.value, scale.good) == (32768.0, 0)


def test_what_is_not_finite_by_itself_is_handed_on_and_the_scale_stays():
    scale = LossScale(4.0, 5, on=True)
    (learned,) = scale.run(answers(*[float("nan")] * 3))
    assert torch.isnan(learned.gradient["input"]).all()
    assert (scale.value, scale.good) == (4.0, 5)
    calls = []
    scale.run(lambda: (calls.append(1), [Learned(torch.tensor(float("nan")), {})])[1])
    off = LossScale.for_dtype(torch.bfloat16)
    off.run(lambda: (calls.append(1), answers(float("nan"))())[1])
    assert (scale.value, off.value, len(calls)) == (4.0, 1.0, 2)


def test_a_backbone_in_fp16_trains_and_its_scale_is_resumed(task, tmp_path, monkeypatch):
    backbone = tiny_backbone("llama", dtype=torch.float16)
    whole = train(backbone, task, run=tmp_path / "whole", **SETTINGS).prompt
    scales = []

    def interrupted(*given):
        scales.append(given[4])
        if len(scales) == 6:
            signal.raise_signal(signal.SIGINT)
        return gradients(*given)

    monkeypatch.setattr(trainer, "gradients", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(backbone, task, run=tmp_path / "parts", **SETTINGS)
    resumed = train(backbone, task, run=tmp_path / "parts", resume=True, **SETTINGS).prompt
    assert resumed.to_bytes() == whole.to_bytes()
    assert max(scales) <= 65536
    assert min(scales) > 1
    found = losses(tmp_path / "whole")
    plain = tiny_backbone("llama")
    train(plain, task, run=tmp_path / "plain", **SETTINGS)
    assert found == pytest.approx(losses(tmp_path / "plain"), rel=0.05)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_gpu_learns_what_a_cpu_learns(dtype, task, tmp_path):
    backbone = tiny_backbone("llama", dtype=dtype)
    backbone.model.to("cuda")
    train(backbone, task, run=tmp_path / "gpu", **SETTINGS)
    train(tiny_backbone("llama"), task, run=tmp_path / "cpu", **SETTINGS)
    assert losses(tmp_path / "gpu") == pytest.approx(losses(tmp_path / "cpu"), rel=0.1)
