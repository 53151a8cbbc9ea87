"""How long the way of one click on Segment is: files, plans, and what the image is wrapped in.

A real napari and the real engine, both with a profile hook that is on from the click until the
cells are shown. Counted are, in both processes together:

- files of the package of which a function was entered,
- calls of `plan_image`,
- wrapping classes: classes of the package of which the click made an object that holds an
  array of at least as many pixels as the image has, or holds another such object, as an
  attribute or in a list, tuple or dict that is one. Objects that a process gets as part of a
  message count where they were made. The way ends where the masks are a layer; what is made
  then, to follow edits of the cells, does not count.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.tables import show

SIZE = 256
TIMEOUT_S = 600
PACKAGE = "napari_sa2net"
#: where the engine's figures go; the hook is set up there (`start`) where this is said
REPORT = "SA2NET_CLICK_REPORT"
WANTED_FILES, WANTED_PLANS, WANTED_WRAPPERS = 55, 2, 8


class Trace:
    """Follows what one process does, while it is on."""

    def __init__(self) -> None:
        import napari_sa2net

        self.root = str(Path(napari_sa2net.__file__).parent) + os.sep
        self.on = False
        self.shown = False
        self.files: set[str] = set()
        self.plans = 0
        self.wrappers: dict[type, str] = {}
        threading.setprofile(self._event)
        sys.setprofile(self._event)

    def stop(self) -> None:
        """Follow nothing more."""
        self.on = False
        threading.setprofile(None)
        sys.setprofile(None)

    def figures(self) -> dict[str, Any]:
        """What was seen, ready for JSON."""
        kinds = self.wrappers.items()
        names = {f"{kind.__module__}.{kind.__name__}": what for kind, what in kinds}
        return {"files": sorted(self.files), "plans": self.plans, "wrappers": names}

    def _event(self, frame: FrameType, event: str, _arg: object) -> None:
        if not self.on:
            return
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(self.root):
            self.files.add(code.co_filename.removeprefix(self.root))
            self.plans += code.co_name == "plan_image"
        elif (
            not self.shown
            and event == "return"
            and code.co_name == "__init__"
            and code.co_varnames
        ):
            made = frame.f_locals.get((*code.co_varnames, "self")[0])
            kind = type(made)
            if kind.__module__.startswith(PACKAGE) and kind not in self.wrappers:
                held = [name for name, part in _parts(made) if self._holds(part)]
                if held:
                    self.wrappers[kind] = ", ".join(held)

    def _holds(self, part: Any) -> bool:
        if isinstance(part, dict):
            return any(map(self._holds, list(part.values())))
        if isinstance(part, list | tuple):
            return any(map(self._holds, part))
        shape = getattr(part, "shape", None)
        is_image = type(shape) is tuple and len(shape) > 1 and math.prod(shape) >= SIZE**2
        return type(part) in self.wrappers or (is_image and hasattr(part, "dtype"))


def _parts(made: Any) -> list[tuple[str, Any]]:
    slots = [(name, getattr(made, name, None)) for name in getattr(made, "__slots__", ())]
    return slots + list(getattr(made, "__dict__", {}).items())


def start() -> None:
    """In the engine: on from one signal of the window's process until the other."""
    trace = Trace()

    def begin(*_: object) -> None:
        trace.on = True

    def end(*_: object) -> None:
        trace.on = False
        path = Path(os.environ[REPORT])
        path.with_suffix(".part").write_text(json.dumps(trace.figures()), encoding="utf-8")
        path.with_suffix(".part").replace(path)

    signal.signal(signal.SIGUSR1, begin)
    signal.signal(signal.SIGUSR2, end)


def run() -> list[dict[str, object]]:
    """Measure; one row per figure.

    Needs a display, and a process where torch was never loaded.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "engine.json"
        hook = "from benchmarks.bench_click import start\nstart()\n"
        (Path(folder) / "sitecustomize.py").write_text(hook, encoding="utf-8")
        home = str(Path(__file__).resolve().parent.parent)
        paths = filter(None, (folder, home, os.environ.get("PYTHONPATH")))
        os.environ.update({REPORT: str(report), "PYTHONPATH": os.pathsep.join(paths)})
        window, engine = _click(report)
    files = sorted({*window["files"], *engine["files"]})
    plans = window["plans"] + engine["plans"]
    wrappers = {**window["wrappers"], **engine["wrappers"]}
    print(f"window {len(window['files'])} files, engine {len(engine['files'])}:")
    print("  " + "\n  ".join(files))
    for kind, what in wrappers.items():
        print(f"  {kind} holds it as {what}")
    figures = (
        ("files of the package entered", len(files), WANTED_FILES),
        ("calls of plan_image", plans, WANTED_PLANS),
        ("classes that wrap the image", len(wrappers), WANTED_WRAPPERS),
    )
    return [
        {"figure": what, "value": n, "wanted": f"≤ {wanted}", "reached": n <= wanted}
        for what, n, wanted in figures
    ]


def _click(report: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Click on Segment; what window and engine did."""
    import napari
    from qtpy.QtWidgets import QApplication

    from napari_sa2net.data import synthetic_nuclei

    trace = Trace()  # before the threads that it shall follow
    app = QApplication([])
    viewer = napari.Viewer()
    _, dock = viewer.window.add_plugin_dock_widget("napari-sa2net", "SA2-Net")
    page: Any = dock.pages[0]

    def wait(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + TIMEOUT_S
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError("the window did not get there in time")
            app.processEvents()
            time.sleep(0.01)

    wait(lambda: page.session.info is not None)
    wait(lambda: page.session.info.seconds_per_megapixel is not None)
    image, _ = synthetic_nuclei((SIZE, SIZE), n=40, diameter=22, seed=0)
    viewer.add_image(image, name="nuclei")
    rest = itertools.count()
    wait(lambda: next(rest) > 100)

    n_layers, engine = len(viewer.layers), page.session.info.pid

    def shown() -> None:
        trace.shown = True

    viewer.layers.events.inserted.connect(shown)
    os.kill(engine, signal.SIGUSR1)
    trace.on = True
    page.button.click()
    wait(lambda: len(viewer.layers) > n_layers and not page.session.running)
    trace.stop()
    os.kill(engine, signal.SIGUSR2)
    wait(report.exists)
    viewer.close()
    return trace.figures(), json.loads(report.read_text(encoding="utf-8"))


if __name__ == "__main__":
    show(run())
