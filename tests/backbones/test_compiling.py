"""Compiled layers: the same states and gradients by one graph, and layers as they were where none can be made."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from softprompt.backbones.compiling import can_compile, compiled, is_worth_compiling
from softprompt.testing.tiny import TINY_FAMILIES, tiny_backbone

FAMILIES = [name for name in TINY_FAMILIES if tiny_backbone(name).attention == "grouped"]
SCRIPT = Path(__file__).with_name("compile_family.py")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_one_graph_serves_all_layers_and_all_lengths(family):
    """In a process of its own, for the type checks of this one are not what is to be compiled."""
    command = [sys.executable, str(SCRIPT), family]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_layers_run_as_ever_where_they_cannot_be_compiled(capsys):
    backbone = tiny_backbone("llama")

    def fail():
        raise RuntimeError("no C++ compiler\nwas found")

    with compiled(backbone, fail) as able:
        assert not able
        assert not any("forward" in vars(module) for module in backbone.model.modules())
    assert "could not be compiled, and run as they are: no C++ compiler\n" in capsys.readouterr().err


def test_layers_are_as_they_were_when_the_block_fails(monkeypatch):
    backbone = tiny_backbone("llama")
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)

    def enter_and_fail():
        with compiled(backbone, lambda: None) as able:
            assert able
            assert sum("forward" in vars(module) for module in backbone.model.modules()) == backbone.num_layers
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        enter_and_fail()
    assert not any("forward" in vars(module) for module in backbone.model.modules())


@pytest.mark.parametrize(("gradients", "again", "runs"), [(True, False, 1), (False, False, 0), (True, True, 0)])
def test_only_passes_with_gradients_run_compiled(gradients, again, runs, monkeypatch):
    backbone, ran = tiny_backbone("llama"), []
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: lambda *a, **s: ran.append(1) or function(*a, **s))
    embeddings = torch.randn(2, 5, backbone.embedding_size, requires_grad=gradients)
    mask = torch.ones(2, 5, dtype=torch.long)
    with compiled(backbone, lambda: None):
        for layer in backbone.model.base_model.layers:
            monkeypatch.setattr(layer, "gradient_checkpointing", again)
        backbone.run(embeddings, mask=mask, positions=mask.cumsum(1) - 1)
        assert len(ran) == runs * backbone.num_layers
        ran.clear()
        backbone.run(embeddings, mask=mask, positions=mask.cumsum(1) - 1, keep=True)
        assert not ran, "what is kept is written to the cache"


def test_work_decides(monkeypatch):
    backbone = tiny_backbone("llama")
    weights = sum(p.numel() for layer in backbone.model.base_model.layers for p in layer.parameters())
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    enough = 2 * 1e13 / 4 / weights
    assert is_worth_compiling(backbone, int(1.01 * enough))
    assert not is_worth_compiling(backbone, int(0.99 * enough))
    for other in (tiny_backbone("llama", attention="sdpa"), tiny_backbone("bert"), tiny_backbone("t5")):
        assert not can_compile(other)
        assert not is_worth_compiling(other, 10**30)
