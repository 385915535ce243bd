"""Device and dtype: chosen from the machine, unless asked."""

import os
import re

import pytest
import torch

from softprompt.backbones import hardware
from softprompt.backbones.backbone import load_backbone
from softprompt.errors import BackboneError, ConfigError, UnknownNameError

CPU = torch.device("cpu")


def test_the_gpu_if_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert hardware.choose_device() == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert hardware.choose_device() == CPU


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("gpu", "device `gpu` is none; use `cpu`, `cuda` or `cuda:N`"),
        ("mps", "device `mps` is not supported; use `cpu`, `cuda` or `cuda:N`"),
        ("cuda:7", "device `cuda:7` was asked for, but torch sees 1 CUDA devices here; use `cpu`"),
    ],
)
def test_devices_that_are_not_there(monkeypatch, asked, text):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=re.escape(text)):
        hardware.choose_device(asked)


def test_a_device_that_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert hardware.choose_device("cuda:1") == torch.device("cuda", 1)
    assert hardware.choose_device("cuda") == torch.device("cuda")


@pytest.mark.parametrize("able", ["avx512_bf16", "amx_bf16", "bf16"])
def test_bf16_where_the_cpu_computes_in_it(monkeypatch, able):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {able: True, "avx2": True})
    assert hardware.choose_dtype(None, CPU) == torch.bfloat16
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {able: False, "avx2": True})
    assert hardware.choose_dtype(None, CPU) == torch.float32


def test_bf16_where_the_gpu_computes_in_it(monkeypatch):
    for able, dtype in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, able=able: able)
        assert hardware.choose_dtype(None, torch.device("cuda")) == dtype
    assert hardware.choose_dtype(None, torch.device("cuda"), overflows="T5") == torch.float32


def test_a_dtype_may_be_asked_for():
    for asked, dtype in (
        ("bf16", torch.bfloat16),
        ("bfloat16", torch.bfloat16),
        ("fp32", torch.float32),
        ("float32", torch.float32),
    ):
        assert hardware.choose_dtype(asked, CPU) == dtype


def test_fp16_is_for_gpus_and_for_families_that_stay_within_it():
    gpu = torch.device("cuda")
    assert hardware.choose_dtype("fp16", gpu) == hardware.choose_dtype("float16", gpu) == torch.float16
    assert hardware.choose_dtype("bf16", gpu, overflows="T5") == torch.bfloat16
    with pytest.raises(ConfigError, match="dtype `fp16` was asked for on `cpu`; it is for GPUs: use `bf16` or `fp32`"):
        hardware.choose_dtype("fp16", CPU)
    with pytest.raises(ConfigError, match="dtype `fp16` was asked for, but T5 computes numbers beyond its range: use"):
        hardware.choose_dtype("fp16", gpu, overflows="T5")


def test_a_dtype_that_cannot_be_is_refused_before_anything_is_looked_for():
    with pytest.raises(ConfigError, match="it is for GPUs"):
        load_backbone("owner/never-asked-for", dtype="fp16", device="cpu")


def test_a_dtype_that_is_not_served(save, tmp_path):
    save(tmp_path)
    with pytest.raises(UnknownNameError, match="unknown dtype `fp61`; did you mean `fp16`"):
        load_backbone(tmp_path, dtype="fp61")


@pytest.mark.skipif(not hardware._gnu_openmp(), reason="torch computes without GNU's OpenMP here")
def test_a_thread_that_leaves_its_cores_has_no_team_until_it_computes_again():
    def threads():
        return len(os.listdir("/proc/self/task"))

    before = torch.get_num_threads()
    numbers = torch.ones(1 << 20)
    try:
        torch.set_num_threads(1)
        hardware.leave_cores()
        alone = threads()
        torch.set_num_threads(3)
        numbers.exp()
        assert threads() == alone + 2
        hardware.leave_cores()
        assert threads() == alone
        assert float(numbers.exp().sum()) == pytest.approx(2.718281828 * (1 << 20), rel=1e-4)
        assert threads() == alone + 2
    finally:
        torch.set_num_threads(before)
        hardware.leave_cores()


def test_a_gpu_is_lost_where_its_next_call_fails_too(monkeypatch):
    gpu, wrong = torch.device("cuda"), RuntimeError("CUDA error: device-side assert triggered\nmore of it")

    def fail(device):
        raise wrong

    monkeypatch.setattr(torch.cuda, "synchronize", fail)
    with pytest.raises(BackboneError, match="the device `cuda` is lost to this process: CUDA error: device-side"):
        hardware.check_lost(wrong, gpu)
    for other in (ValueError("no"), torch.OutOfMemoryError("CUDA error: out of memory"), RuntimeError("shapes")):
        hardware.check_lost(other, gpu)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    hardware.check_lost(wrong, gpu)
