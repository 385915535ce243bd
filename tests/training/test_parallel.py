"""Two processes that learn one prompt: what each does, what crosses, and that the result is that of one process."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from softprompt.backbones.backbone import Backbone, load_backbone
from softprompt.backbones.hardware import choose_device
from softprompt.backbones.processes import place
from softprompt.backbones.sharding import check_shardable
from softprompt.errors import ConfigError, UnsupportedBackboneError
from softprompt.progress import meter, say
from softprompt.testing.tiny import tiny_backbone
from softprompt.training.parallel import Learned, World
from softprompt.training.runs import RunFolder
from softprompt.training.train import train

HERE = Path(__file__).parent
SRC = HERE.parents[1] / "src"
PATIENCE = 150


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def together(command, folder):
    """Run a command in two processes that know of each other; return what each said."""
    port, started = free_port(), []
    for rank in range(2):
        known = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        settings = {"MASTER_PORT": port, "OMP_NUM_THREADS": "1", "SOFTPROMPT_HOME": str(folder / "home")}
        path = os.pathsep.join([str(SRC), str(HERE)])
        environment = {**os.environ, **known, **settings, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
        with (folder / f"{rank}.out").open("w") as out, (folder / f"{rank}.err").open("w") as err:
            started.append(subprocess.Popen([sys.executable, *command], env=environment, stdout=out, stderr=err))
    end = time.monotonic() + PATIENCE
    while any(process.poll() is None for process in started) and time.monotonic() < end:
        if any(process.poll() for process in started):
            break  # one has failed, and the other would wait for it
        time.sleep(0.05)
    for process in started:
        process.kill()
        process.wait()
    said = [tuple((folder / f"{rank}.{kind}").read_text() for kind in ("out", "err")) for rank in range(2)]
    assert [process.returncode for process in started] == [0, 0], said
    return said


def job(name, folder):
    said = together([HERE / "processes.py", name, folder], folder)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)], said


def losses(folder):
    return [event["loss"] for event in RunFolder(folder).events() if event["event"] == "step"]


def test_two_processes_learn_what_one_learns(tmp_path, monkeypatch):
    (first, second), said = job("learn", tmp_path)
    for found in (first, second):
        assert found["gradient"] < 1e-5
        assert found["own"] > 1e-3, "each process has only a part of the rows"
        assert found["stopped"] == 8
        assert found["resumed"] == found["digest"] == first["digest"]
    assert first["bytes"] < 20_000
    assert "2 processes learn together; each sends" in said[0][1]
    assert said[1] == ("", "stopping after this step; once more stops at once\n")
    monkeypatch.syspath_prepend(HERE)
    import processes

    alone = train(tiny_backbone("gemma3"), processes.task(), run=tmp_path / "alone", **processes.SETTINGS)
    assert alone.fit.steps == 20
    both = losses(tmp_path / "whole")
    assert len(both) == 20
    assert both == pytest.approx(losses(tmp_path / "alone"), abs=1e-4)
    crossed = [event for event in RunFolder(tmp_path / "whole").events() if event["event"] == "processes"]
    assert [event["processes"] for event in crossed] == [2]
    assert crossed[0]["bytes_a_step"] == 4 * (1 + sum(t.numel() for t in alone.prompt.tensors.values()))


@pytest.mark.slow
def test_a_measured_budget_and_a_full_memory_are_the_same_for_all(tmp_path):
    (first, second), said = job("budget", tmp_path)
    assert first == second
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["steps"] == first["steps"]
    assert plan["memory"][-1] == {"step": 0, "tokens": 1024, "layers": False}
    assert "step 1 did not fit in memory with 2048 tokens held at once; from here on it is 1024" in said[0][1]
    assert said[1] == ("", "")


@pytest.mark.slow
def test_a_backbone_in_shards_has_the_gradients_of_a_whole_one(tmp_path):
    whole = tiny_backbone("llama", num_hidden_layers=3)
    whole.model.save_pretrained(tmp_path / "backbone")
    whole.tokenizer.save_pretrained(tmp_path / "backbone")
    (first, second), _ = job("shard", tmp_path)
    outside = sum(p.numel() for name, p in whole.model.named_parameters() if ".layers." not in name)
    for found in (first, second):
        assert found["gradient"] < 1e-5
        assert found["fingerprint"]
        assert found["all"] == sum(p.numel() for p in whole.model.parameters())
        assert found["again"] == first["again"]
        assert "step 1 does not fit in memory with 2048 tokens held at once (processes that share" in found["message"]
    assert first["numbers"] + second["numbers"] - outside == first["all"], "each has its share of the layers"


@pytest.mark.slow
def test_the_command_trains_in_two_processes_and_the_first_one_speaks(tmp_path):
    backbone = tiny_backbone("llama")
    backbone.model.save_pretrained(tmp_path / "backbone")
    backbone.tokenizer.save_pretrained(tmp_path / "backbone")
    from softprompt.testing.toy import toy_rows

    rows = [json.dumps(row) for row in toy_rows(60)]
    (tmp_path / "toy.jsonl").write_text("\n".join(rows))
    command = ["-m", "softprompt", "train", tmp_path / "toy.jsonl", "--backbone", tmp_path / "backbone", "--steps", "3",
               "--virtual-tokens", "3", "--no-race", "--no-report", "--dtype", "fp32", "--save", "toy"]  # fmt: skip
    (out, news), second = together(command, tmp_path)
    assert "kept as toy@v1" in out
    assert "2 processes learn together" in news
    assert second == ("", "")


def test_what_does_not_go_together(tmp_path, monkeypatch):
    backbone = tiny_backbone("llama")
    backbone.model.save_pretrained(tmp_path)
    backbone.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="shard was asked for, but there is one process only; start several"):
        load_backbone(tmp_path, shard=True)
    with pytest.raises(UnsupportedBackboneError, match="of `it` are quantised by `fp8` and cannot lie in shards"):
        check_shardable({"quantization_config": {"quant_method": "fp8"}}, "it")
    long = tiny_backbone("phi3_longrope")
    monkeypatch.setattr("softprompt.backbones.backbone.is_sharded", lambda model: True)
    with pytest.raises(UnsupportedBackboneError, match=r"the rows of `it` run apart by their length \(longrope\)"):
        Backbone(long.model, long.tokenizer, name="it")
    monkeypatch.setenv("WORLD_SIZE", "two")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match="RANK, WORLD_SIZE and LOCAL_RANK are 0, two, 0, which are no numbers"):
        place()


def test_one_of_several_processes_has_its_own_gpu_and_is_silent(monkeypatch, capsys):
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device() == choose_device("cuda") == torch.device("cuda:1")
    assert choose_device("cuda:0") == torch.device("cuda:0")
    say("news")
    with meter("work", 2) as progress:
        progress._every = 0.0
        progress.advance()
    say("an error", everyone=True)
    assert capsys.readouterr() == ("", "an error\n")


def test_rows_are_dealt_out_and_every_row_is_somebodys():
    lengths = [7, 3, 9, 9, 1, 4, 2]
    for size in (1, 2, 3, 9):
        passes = [World(rank, size).passes(lengths, 10) for rank in range(size)]
        assert sorted(i for own in passes for part in own for i in part) == list(range(7))
        assert all(len(part) * max(lengths[i] for i in part) <= 10 for own in passes for part in own)
        level = [World(rank, size, lockstep=True).passes(lengths, 10) for rank in range(size)]
        assert len({len(own) for own in level}) == 1
        assert [[part for part in own if part] for own in level] == passes


def test_alone_nothing_crosses():
    learned = [Learned(torch.tensor(1.0), {"input": torch.ones(2, 3)})]
    world = World()
    assert world.total(learned) == learned
    assert world.crossing(learned) == 0
    assert world.any(True) is True
    assert world.agreed(2.5) == 2.5
