"""Settings, order, schedule, monitors, folders and checkpoints, each by itself."""

import json
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softprompt.errors import ConfigError, StorageError, TrainingError, UnknownNameError
from softprompt.training.batches import BatchOrder, TokenOrder
from softprompt.training.checkpoints import Checkpoint, optimizer_tensors, restore_optimizer
from softprompt.training.config import TrainConfig
from softprompt.training.monitors import GradientWatch, distance, is_finite, token_norms
from softprompt.training.runs import RunFolder
from softprompt.training.schedule import warmup_cosine


def test_a_yaml_file_and_arguments_are_the_same_settings(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("steps: 70\nlearning_rate: 0.01\n")
    assert TrainConfig.read(path, steps=None, seed=3) == TrainConfig(steps=70, learning_rate=0.01, seed=3)


def test_an_unknown_option_offers_the_nearest():
    with pytest.raises(UnknownNameError, match="unknown option `learning_rat`; did you mean `learning_rate`"):
        TrainConfig.read(learning_rat=1)


def test_an_option_out_of_range_says_the_rule():
    with pytest.raises(ConfigError, match=r"option `steps` is 0: Input should be greater than or equal to 1"):
        TrainConfig.read(steps=0)


@pytest.mark.parametrize("text", ["- a\n", "steps: [\n"])
def test_a_settings_file_that_is_none(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"settings are written|cannot read the settings"):
        TrainConfig.read(path)


def order(rows, size, seed=0):
    return BatchOrder(rows, size, seed)


@given(st.integers(1, 90), st.integers(1, 9), st.integers(0, 3))
def test_every_epoch_sees_every_row_once(rows, size, seed):
    batches = order(rows, size, seed)
    for epoch in range(2):
        steps = range(epoch * batches.batches_per_epoch, (epoch + 1) * batches.batches_per_epoch)
        assert sorted(i for step in steps for i in batches.at(step)) == list(range(rows))


@given(st.integers(1, 90), st.integers(1, 9), st.integers(0, 40))
def test_batches_differ_by_one_row_at_most(rows, size, steps):
    batches = order(rows, size)
    sizes = [len(batches.at(step)) for step in range(steps)]
    assert batches.rows(steps) == sum(sizes)
    assert not sizes or (max(sizes) <= size and max(sizes) - min(sizes) <= 1)


@given(st.integers(1, 40), st.integers(4, 60), st.integers(1, 12))
def test_batches_by_tokens_see_every_row_equally_often(rows, tokens, steps):
    batches = TokenOrder(rows, tokens, 0, lambda i: 1 + i % 7)
    seen = [batches.at(step) for step in range(steps)]
    for batch, behind in pairwise(seen):
        taken = sum(1 + i % 7 for i in batch)
        assert taken <= tokens or len(batch) == 1
        assert len(batch) == rows or taken + 1 + behind[0] % 7 > tokens  # as full as it could be
    counts = [sum(batch.count(i) for batch in seen) for i in range(rows)]
    assert max(counts) - min(counts) <= 1
    assert batches.at(0) == seen[0]


@pytest.mark.parametrize(
    "made", [lambda: BatchOrder(960, 24, 0), lambda: TokenOrder(960, 360, 0, lambda i: 20 if i >= 480 else 10)]
)
def test_length_does_not_tell_what_a_batch_holds(made):
    """The long half of the rows are often of one label: batches of like length would be of one label each."""
    one = made()
    batches = [one.at(step) for step in range(40)]
    long = torch.tensor([sum(i >= 480 for i in batch) / len(batch) for batch in batches])
    assert float(long.std()) < 2 * (0.25 / 24) ** 0.5
    assert 0.1 < float(long.min()) < float(long.max()) < 0.9


def test_the_order_is_a_function_of_the_step_alone():
    forward = [order(100, 8).at(step) for step in range(30)]
    one = order(100, 8)
    backward = [one.at(step) for step in reversed(range(30))]
    assert forward == backward[::-1]
    assert forward != [order(100, 8, seed=1).at(step) for step in range(30)]


@given(st.integers(1, 400), st.floats(0, 0.5))
def test_the_rate_rises_then_falls(steps, warmup):
    rates = [warmup_cosine(step, steps, warmup) for step in range(steps)]
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert 0 < min(rates) <= max(rates) <= 1


def test_a_vanishing_and_an_exploding_token_are_each_said_once():
    watch = GradientWatch()
    said = [text for _ in range(30) for text in watch.see([1.0, 1e-9, 1.0, 1e9, 1.0])]
    assert len(said) == 2
    assert "the gradient of virtual token 1 vanishes" in said[0]
    assert "the gradient of virtual token 3 explodes" in said[1]
    assert GradientWatch(**json.loads(json.dumps(watch.state()))) == watch


def test_norms_and_distance():
    start = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    prompt = {"input": start, "readout.weight": torch.ones(3, 2)}
    assert token_norms(prompt) == [5.0, 5.0]
    assert distance({"input": start * 1.5}, prompt) == pytest.approx(0.5)
    layered = {"layers.0.key": start[None] * 3, "layers.0.value": start[None] * 4}  # [H, P, K]
    assert token_norms(layered) == [25.0, 25.0]
    assert distance({site: value * 1.5 for site, value in layered.items()}, layered) == pytest.approx(0.5)
    assert is_finite(torch.tensor(0.0), [start])
    assert not is_finite(torch.tensor(float("nan")), [start])
    assert not is_finite(torch.tensor(0.0), [start, start / 0])


def test_a_run_of_other_settings_is_not_resumed(tmp_path):
    folder = RunFolder(tmp_path)
    folder.begin({"seed": 0}, resume=False)
    with pytest.raises(TrainingError, match="its run had seed = 0, this one has 1"):
        folder.begin({"seed": 1}, resume=True)


def test_a_resumed_run_drops_later_events_and_a_torn_line(tmp_path):
    folder = RunFolder(tmp_path)
    folder.begin({}, resume=False)
    for step in range(1, 6):
        folder.log({"event": "step", "step": step})
    with folder.metrics.open("a") as stream:
        stream.write('{"event": "st')
    folder.forget_after(3)
    assert [event["step"] for event in folder.events()] == [1, 2, 3]


def test_a_full_disk_while_logging_is_said(tmp_path):
    folder = RunFolder(tmp_path / "gone")
    with pytest.raises(StorageError, match=r"cannot write .*metrics\.jsonl"):
        folder.log({})


def test_a_checkpoint_brings_back_the_optimizer(tmp_path):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    Checkpoint(7, optimizer_tensors(optimizer), {"best": {}}).save(tmp_path / "c")
    found = Checkpoint.load(tmp_path / "c")
    fresh = torch.optim.AdamW([weight])
    restore_optimizer(fresh, found.tensors)
    assert found.step == 7
    assert torch.equal(fresh.state[weight]["exp_avg"], optimizer.state[weight]["exp_avg"])
    assert float(fresh.state[weight]["step"]) == 1


def test_a_damaged_checkpoint_is_said(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(b"\x00" * 20)
    with pytest.raises(TrainingError, match=r"`checkpoint\.safetensors` is no checkpoint"):
        Checkpoint.load(path)


def test_nothing_to_resume_is_said(tmp_path, capsys):
    assert not RunFolder(tmp_path).begin({}, resume=True)
    assert "to resume from; starting from the first step" in capsys.readouterr().err


def test_a_damaged_record_of_a_run_is_said(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(TrainingError, match=r"run\.json` is damaged"):
        RunFolder(tmp_path).begin({}, resume=True)
