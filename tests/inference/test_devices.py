"""Devices by name."""

from __future__ import annotations

import pytest
import torch

from napari_sa2net.errors import DeviceError
from napari_sa2net.inference import devices
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


@pytest.mark.parametrize(
    ("n_cuda", "mps", "name", "wanted"),
    [
        (2, True, "auto", "cuda"),
        (0, True, "", "mps"),
        (0, False, "auto", "cpu"),
        (2, True, "cpu:0", "cpu"),
        (2, False, "CUDA:1", "cuda:1"),
        (2, False, "cuda", "cuda"),
        (2, False, "cuda:2", "2 CUDA device.*cuda:0 to cuda:1"),
        (0, False, "cuda:0", "no CUDA device"),
        (0, True, "mps", "mps"),
        (2, False, "mps", "no Apple GPU"),
        (2, True, "xpu", "not supported"),
    ],
)
def test_what_is_there_is_taken_and_what_is_not_is_said(
    monkeypatch: pytest.MonkeyPatch, n_cuda: int, mps: bool, name: str, wanted: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: n_cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    if " " in wanted:
        with pytest.raises(DeviceError, match=wanted):
            resolve_device(name)
    else:
        assert str(resolve_device(name)) == wanted


def test_devices_are_named_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA {device.index}")
    assert device_name(torch.device("cuda:1")) == "NVIDIA 1"
    assert device_name(torch.device("mps")) == "Apple GPU"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert device_name(torch.device("cpu")) == "CPU, 1 thread"


@pytest.mark.parametrize(
    ("library", "instructions", "gain", "fast"),
    [
        (True, ("_is_amx_tile_supported",), 1.31, True),
        (True, ("_is_avx512_bf16_supported",), 1.31, True),
        (True, ("_is_amx_tile_supported",), 1.29, False),
        (True, (), 9, False),
        (False, ("_is_amx_tile_supported",), 9, False),
    ],
)
def test_bfloat16_is_used_on_a_cpu_where_it_is_measured_to_be_faster(
    monkeypatch: pytest.MonkeyPatch,
    library: bool,
    instructions: tuple[str, ...],
    gain: float,
    fast: bool,
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: library)
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        has = name in instructions
        monkeypatch.setattr(torch.cpu, name, lambda has=has: has, raising=False)
    threads: list[int] = []

    def seconds(dtype: torch.dtype) -> float:
        threads.append(torch.get_num_threads())
        return 1.0 if dtype is torch.bfloat16 else gain

    monkeypatch.setattr(devices, "_convolution_seconds", seconds)
    before = torch.get_num_threads()
    devices.bfloat16_is_fast.cache_clear()
    try:
        assert devices.bfloat16_is_fast() is fast
        wanted = torch.bfloat16 if fast else torch.float32
        assert fast_dtype(torch.device("cpu")) is wanted
    finally:
        devices.bfloat16_is_fast.cache_clear()
    assert set(threads) <= {1}
    assert torch.get_num_threads() == before
