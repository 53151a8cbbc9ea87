"""Which device the network runs on, and in which precision."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache

import torch
import torch.nn.functional as F

from napari_sa2net.errors import DeviceError
from napari_sa2net.words import counted

#: bfloat16 is used on a CPU where it is at least this much faster than float32.
MIN_GAIN = 1.3


def resolve_device(name: str = "auto") -> torch.device:
    """Device of a name.

    Parameters
    ----------
    name : str
        "auto" (CUDA, else MPS, else CPU), "cpu", "mps", "cuda" or "cuda:N".

    Raises
    ------
    DeviceError
        If the name is unknown or this machine has no such device.
    """
    name = name.strip().lower()
    if name in ("", "auto"):
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if _has_mps() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError) as error:
        raise DeviceError(
            f"Unknown device '{name}'. Use auto, cpu, cuda, cuda:0, cuda:1 … or mps."
        ) from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            raise DeviceError(
                "There is no CUDA device that PyTorch can use here (no NVIDIA GPU, no "
                "driver, or a CPU build of PyTorch). Choose 'auto' or 'cpu'."
            )
        if device.index is not None and device.index >= count:
            raise DeviceError(
                f"There is no device '{name}': this machine has {count} CUDA device(s), "
                f"cuda:0 to cuda:{count - 1}."
            )
        return device
    if device.type == "mps":
        if not _has_mps():
            raise DeviceError("There is no Apple GPU (MPS) here. Choose 'auto' or 'cpu'.")
        return device
    raise DeviceError(f"Device '{name}' is not supported. Use auto, cpu, cuda or mps.")


def device_name(device: torch.device) -> str:
    """Name for people, such as "NVIDIA H100" or "CPU, 2 threads"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU"
    return f"CPU, {counted(torch.get_num_threads(), 'thread')}"


def fast_dtype(device: torch.device) -> torch.dtype:
    """Precision that is fastest on the device: float32, bfloat16 or float16."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16
    if device.type == "cpu" and bfloat16_is_fast():
        return torch.bfloat16
    return torch.float32


@lru_cache(maxsize=1)
def bfloat16_is_fast() -> bool:
    """Whether this CPU convolves faster in bfloat16: by its instructions, then by the clock.

    Instructions alone do not tell: virtual machines may show them and emulate, and older
    ones gain little. The test takes some hundredths of a second, once per process.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    if not any(_cpu_has(f) for f in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")):
        return False
    threads = torch.get_num_threads()
    try:
        # One thread, and the best of short runs: other programs must not decide the answer.
        torch.set_num_threads(1)
        slow, fast = (_convolution_seconds(d) for d in (torch.float32, torch.bfloat16))
    finally:
        torch.set_num_threads(threads)
    return slow / fast >= MIN_GAIN


def _cpu_has(feature: str) -> bool:
    probe: Callable[[], bool] | None = getattr(torch.cpu, feature, None)
    return bool(probe and probe())


def _convolution_seconds(dtype: torch.dtype) -> float:
    last = torch.channels_last
    x = torch.ones(1, 32, 128, 128, dtype=dtype).contiguous(memory_format=last)
    w = torch.ones(32, 32, 3, 3, dtype=dtype).contiguous(memory_format=last)
    best = float("inf")
    with torch.inference_mode():
        for _ in range(10):
            start = time.perf_counter()
            F.conv2d(x, w, padding=1)
            best = min(best, time.perf_counter() - start)
    return best


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        hint in text for hint in ("out of memory", "not enough memory", "can't allocate memory")
    )


def give_memory_back() -> None:
    """Hand freed memory back to the system, where the C library holds on to it (glibc).

    After the tiles of a large plane that is half a gigabyte, which what follows would come
    on top of.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


#: glibc's mallopt: from which size, of how many at most, and with what free at its end the
#: heap goes back to the system; and what it comes to by itself where large arrays come and go.
_TRIM, _MAPPED_FROM, _MAPPED = -1, -3, -4
_USUAL = {_TRIM: 64 << 20, _MAPPED_FROM: 32 << 20, _MAPPED: 65536}
#: whether it is kept at present, for what goes on within
_kept = False


@contextmanager
def memory_kept() -> Iterator[None]:
    """Keep freed memory for what comes next, where the C library can be told so (glibc).

    A step of training frees its large arrays and the next asks for the same: their pages
    anew from the system cost a fifth of the time on a CPU, and of prediction a tenth.
    Afterwards all goes back.
    """
    global _kept
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if _kept or libc is None or not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(_TRIM, 2**31 - 1)
    libc.mallopt(_MAPPED, 0)
    _kept = True
    try:
        yield
    finally:
        _kept = False
        for option, value in _USUAL.items():
            libc.mallopt(option, value)
        give_memory_back()
