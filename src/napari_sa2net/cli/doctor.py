"""``sa2net doctor``: what this machine has, how fast it is, what is wrong and what to do."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from napari_sa2net import __version__
from napari_sa2net.cli import console
from napari_sa2net.cli.options import Device, Json
from napari_sa2net.errors import SA2NetError
from napari_sa2net.words import counted

OK, NOTE, PROBLEM = "ok", "note", "problem"

#: Side of the probe image (px): large enough that start-up does not dominate.
PROBE = 512
#: Megapixels per second below which a GPU or a smaller model is worth mentioning.
SLOW = 0.1

_PACKAGES = (
    "torch",
    "numpy",
    "scikit-image",
    "zarr",
    "tifffile",
    "napari",
    "qtpy",
    "lightning",
)


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes
    ----------
    status : str
        "ok", "note" or "problem".
    found : str
    advice : str
        What to do; empty if nothing.
    """

    status: str
    found: str
    advice: str = ""


def doctor(
    *,
    model: str = "nuclei",
    device: Device = "auto",
    json: Json = False,
) -> int:
    """Check the installation and time the network on this machine.

    Parameters
    ----------
    model
        Model to time.
    """
    probes: dict[str, Callable[[], Check]] = {
        "versions": _versions,
        "processor": _processor,
        "memory": _memory,
        "devices": lambda: _devices(device),
        "models": _models,
        "temporary files": _temporary,
        "napari": _napari,
        "window system": _qt,
        "speed": lambda: _speed(model, device),
    }
    checks = {}
    for name, probe in probes.items():
        try:
            checks[name] = probe()
        except SA2NetError as error:
            checks[name] = Check(PROBLEM, "does not work", str(error))
        except Exception as error:  # the doctor reports a broken library, it does not die of it
            advice = "Reinstall: pip install --force-reinstall napari-sa2net"
            checks[name] = Check(PROBLEM, f"{type(error).__name__}: {error}", advice)
        if not json:
            _show(name, checks[name])
    healthy = all(check.status != PROBLEM for check in checks.values())
    if json:
        console.print_json(
            {
                "version": __version__,
                "healthy": healthy,
                "checks": [{"name": name, **asdict(one)} for name, one in checks.items()],
            }
        )
    else:
        console.stdout().print(
            "Everything needed is there." if healthy else "Something needs mending, see above."
        )
    return 0 if healthy else 1


def _show(name: str, check: Check) -> None:
    mark, style = {OK: ("✓", "green"), NOTE: ("•", "yellow"), PROBLEM: ("✗", "bold red")}[
        check.status
    ]
    out = console.stdout()
    out.print(mark, style=style, end=" ")
    out.print(f"{name}: {check.found}", markup=False)
    if check.advice:
        out.print(f"  → {check.advice}", markup=False)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _versions() -> Check:
    parts = [f"napari-sa2net {__version__}", f"Python {platform.python_version()}"]
    parts += [f"{name} {v}" for name in _PACKAGES if (v := _version(name))]
    return Check(OK, ", ".join(parts))


def _processor() -> Check:
    import torch

    from napari_sa2net.inference.devices import bfloat16_is_fast

    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores, threads = counted(n or 1, "core"), counted(torch.get_num_threads(), "thread")
    precision = "bfloat16 is used" if bfloat16_is_fast() else "float32 is used"
    found = f"{platform.machine()}, {cores}, {threads}, {precision}"
    return Check(OK, found)


def _memory() -> Check:
    # psutil comes with napari; on its own the package can do without it.
    try:
        import psutil
    except ImportError:
        return Check(OK, "not measured (psutil is not installed)")
    memory = psutil.virtual_memory()
    found = f"{memory.available / 2**30:.1f} GiB free of {memory.total / 2**30:.1f} GiB"
    if memory.available < 2 * 2**30:
        return Check(NOTE, found, "Close other programs, or set a smaller --tile.")
    return Check(OK, found)


def _devices(name: str) -> Check:
    import torch

    from napari_sa2net.inference.devices import device_name, resolve_device

    found = device_name(resolve_device(name))
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        return Check(OK, found)
    if shutil.which("nvidia-smi"):
        return Check(
            NOTE,
            f"{found}; there is an NVIDIA driver that PyTorch does not use",
            "Install a CUDA build of PyTorch that fits the driver (see pytorch.org).",
        )
    return Check(OK, f"{found}; no GPU")


def _models() -> Check:
    from napari_sa2net.models import list_models
    from napari_sa2net.models.registry import bundled_models_dir, user_models_dir

    entries = list_models()
    found = ", ".join(entry.name for entry in entries) or "none"
    if not any(entry.bundled for entry in entries):
        return Check(
            PROBLEM,
            f"{found}; the bundled ones are missing from {bundled_models_dir()}",
            "Reinstall: pip install --force-reinstall --no-deps napari-sa2net",
        )
    folder = user_models_dir()
    if not _writable(folder):
        return Check(
            NOTE,
            f"{found}; {folder} cannot be written",
            "Mend its permissions, or set SA2NET_HOME to a folder of yours.",
        )
    return Check(OK, f"{found}; yours are kept in {folder}")


def _writable(folder: Path) -> bool:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK)


def _temporary() -> Check:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free / 2**30
    found = f"{folder}, {free:.0f} GiB free"
    if free < 5:
        return Check(
            NOTE,
            found,
            "Large images are kept there: free some space, or set TMPDIR to a larger disk.",
        )
    return Check(OK, found)


def _napari() -> Check:
    version = _version("napari")
    if version is None:
        return Check(
            NOTE,
            "not installed; the shell and Python work without it",
            'For the window: pip install "napari-sa2net[all]"',
        )
    registered = any(
        entry.name == "napari-sa2net"
        for entry in importlib.metadata.entry_points(group="napari.manifest")
    )
    if not registered:
        return Check(
            PROBLEM,
            f"napari {version} does not know the plugin",
            "Install it into the same environment: pip install napari-sa2net",
        )
    return Check(OK, f"napari {version} knows the plugin")


def _qt() -> Check:
    if _version("napari") is None:
        return Check(OK, "not needed without napari")
    # In a process of its own: a missing system library ends it, and Qt stays out of ours.
    script = (
        "from qtpy.QtWidgets import QApplication; from qtpy import API_NAME, QT_VERSION; "
        "app = QApplication([]); print(API_NAME, QT_VERSION, app.platformName())"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    if run.returncode == 0:
        return Check(OK, run.stdout.strip())
    lines = [line for line in (run.stderr or run.stdout).splitlines() if line.strip()]
    reason = lines[-1] if lines else f"Qt ended with code {run.returncode}"
    if "QtBindingsNotFoundError" in run.stderr or "No Qt bindings" in run.stderr:
        advice = 'Install one: pip install "napari[all]"'
        return Check(PROBLEM, "no Qt binding is installed", advice)
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")) and (
        sys.platform.startswith("linux")
    ):
        return Check(
            NOTE,
            "there is no display",
            "The window needs one (a desktop, ssh -X, or xvfb-run); the shell does not.",
        )
    return Check(
        PROBLEM,
        reason,
        "System libraries for Qt are missing; on Debian or Ubuntu: sudo apt-get install "
        "libegl1 libgl1 libxkbcommon-x11-0 libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1",
    )


def _speed(model: str, device: str) -> Check:
    from napari_sa2net.data import synthetic_nuclei
    from napari_sa2net.inference.segment import segment
    from napari_sa2net.models import load_model

    image, truth = synthetic_nuclei(shape=(PROBE, PROBE), seed=0)
    loaded = load_model(model)
    # The first run compiles kernels and fills caches; the second is what a user will see.
    for _ in range(2):
        start = time.perf_counter()
        result = segment(image, loaded, diameter=loaded.diameter, device=device)
        seconds = time.perf_counter() - start
    rate = PROBE * PROBE / 1e6 / seconds
    objects, expected = int(result.labels.max()), int(truth.max())
    found = (
        f"{rate:.2f} megapixels per second with {loaded.name} "
        f"(a 2048 × 2048 image in about {2048**2 / 1e6 / rate:.0f} s); "
        f"{objects} of {expected} synthetic nuclei"
    )
    if objects == 0:
        return Check(PROBLEM, found, "The model finds nothing: import it again, or use nuclei.")
    if rate < SLOW:
        return Check(NOTE, found, "Slow: a GPU, or the model nuclei-fast, would help.")
    return Check(OK, found)
