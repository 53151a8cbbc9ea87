"""Devices by name."""

from __future__ import annotations

import pytest
import torch

from napari_sa2net.errors import DeviceError
from napari_sa2net.inference.devices import (
    device_name,
    fast_dtype,
    is_out_of_memory,
    resolve_device,
)


def test_cpu_is_always_there() -> None:
    assert resolve_device("cpu") == resolve_device(" CPU ") == torch.device("cpu")
    assert "CPU" in device_name(torch.device("cpu"))
    assert fast_dtype(torch.device("cpu")) in (torch.float32, torch.bfloat16)


def test_auto_takes_what_there_is() -> None:
    device = resolve_device("auto")
    assert (device.type == "cuda") == torch.cuda.is_available()


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "tpu", "xla", "cuda:99", "meta", "cpu:x"])
def test_missing_devices_say_what_to_do(name: str) -> None:
    with pytest.raises(DeviceError, match=r"auto|has"):
        resolve_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
def test_no_cuda() -> None:
    with pytest.raises(DeviceError, match="'cpu'"):
        resolve_device("cuda")


def test_out_of_memory_of_every_device() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA"))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: not enough memory: you tried"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_a_real_allocation_failure_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_that_a_gpu_only_emulates_is_not_fast(
    monkeypatch: pytest.MonkeyPatch, has: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda emulated=True: emulated or has)
    fast = torch.bfloat16 if has else torch.float16
    assert fast_dtype(torch.device("cuda")) is fast
    assert fast_dtype(torch.device("mps")) is torch.float32
