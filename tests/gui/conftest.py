"""Fixtures of the window's tests: a home with one small model, and an open dock."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import psutil
import pytest
from qtpy.QtCore import QCoreApplication, QEvent, QTimer
from qtpy.QtWidgets import QApplication

from napari_sa2net.app.session import Session

OURS = "napari_sa2net"
VIEWER = "make_napari_viewer"
#: an engine that is told to end does so within a second, on an idle machine
PATIENCE_S = 60
#: what something still works for may hang on garbage
SEARCH_S = 5.0

if TYPE_CHECKING:
    from napari_sa2net.widgets.dock import SA2NetDock


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a display where there is none (napari draws with OpenGL)."""
    if not sys.platform.startswith("linux"):
        return
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return
    mark = pytest.mark.skip(reason="needs a display; run under xvfb-run")
    for item in items:
        if VIEWER in getattr(item, "fixturenames", ()):
            item.add_marker(mark)


@pytest.fixture(scope="session", autouse=True)
def quick_garbage() -> None:
    """The search for what is left after a test skips what was loaded before the first."""
    import napari_sa2net.widgets.dock  # noqa: F401

    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def plugins_found_once() -> Iterator[None]:
    """Each new viewer reads the manifests of all plugins: once is enough."""
    from npe2 import PluginManifest

    found = list(PluginManifest.discover())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PluginManifest, "discover", lambda paths=(): iter(found))
        yield


@pytest.fixture(scope="session", autouse=True)
def quick_windows() -> Iterator[None]:
    """What napari works out anew for each window, and to the same end: once is enough."""
    from napari._qt.qt_main_window import _QtMainWindow
    from napari._vispy import canvas
    from napari.settings import NapariSettings
    from napari.utils.events import EventEmitter
    from vispy.gloo.program import Program

    variables: dict[tuple[str, ...], dict[str, Any]] = {}
    parse = Program._parse_variables_from_code

    def parse_once(program: Any, update_variables: bool = True) -> None:
        code = tuple(shader.code for shader in program._shaders)
        if code not in variables:
            parse(program, update_variables=False)
            variables[code] = dict(program._code_variables)
        program._code_variables = dict(variables[code])
        if update_variables:
            program._process_pending_variables()

    takes_event: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
    check = EventEmitter._check_signature

    def check_once(called: Any) -> bool:
        function = getattr(called, "__func__", None)
        if not isinstance(function, FunctionType):
            return check(called)
        if function not in takes_event:
            takes_event[function] = check(called)
        return takes_event[function]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Program, "_parse_variables_from_code", parse_once)
        patch.setattr(EventEmitter, "_check_signature", staticmethod(check_once))
        # one that is chosen in a test is of that test alone
        patch.setattr(NapariSettings, "_maybe_save", lambda settings: None)
        # after a layer has gone napari looks through all there is: what is young is enough
        patch.setattr(canvas, "gc", SimpleNamespace(collect=partial(gc.collect, 1)))
        # asked about each event of the program: for a menu bar that a person has hidden
        patch.delattr(_QtMainWindow, "eventFilter")
        yield


@pytest.fixture(autouse=True, scope="module")
def nothing_is_left(warm_engine_maker: object) -> Iterator[None]:
    """After a module no window, timer, thread or process that it made is there any more."""
    with _nothing_left("these tests"):
        yield


@pytest.fixture(autouse=True)
def nothing_is_left_of_a_viewer(request: pytest.FixtureRequest) -> Iterator[None]:
    """The same after each test with a viewer; the many small ones would double their time."""
    with _nothing_left("the test") if VIEWER in request.fixturenames else nullcontext():
        yield


@contextmanager
def _nothing_left(of: str) -> Iterator[None]:
    # what tests of other folders share (an engine of theirs, say) is theirs to end
    before = {*_there(), *_at_work()}
    yield
    sought = time.monotonic()
    end = sought + PATIENCE_S
    while True:
        # An engine takes a while to end, and each search for garbage as long as a test.
        left = [words for key, words in _at_work().items() if key not in before]
        if not left or time.monotonic() > sought + SEARCH_S:
            # in a function, so that nothing here holds what was found
            left += _left(before)
            sought = time.monotonic()
        if not left or sought > end:
            break
        time.sleep(0.05)
        _process_events()
    assert not left, f"left after {of}: {', '.join(left)}"
    # what is there now stays: the next searches need not look at it
    gc.freeze()


def _process_events() -> None:
    if QApplication.instance() is not None:
        QApplication.processEvents()
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)


def _left(before: set[object]) -> list[str]:
    _process_events()
    gc.collect()
    return [words for key, words in _there().items() if key not in before]


def _there() -> dict[object, str]:
    """Everything of ours in the window, by what tells it from others, in words."""
    found: dict[object, str] = {id(w): f"window {type(w).__name__}" for w in _windows()}
    found |= {key: f"timer of {owner}" for key, owner in _timers().items()}
    workspace = sys.modules.get(f"{OURS}.widgets.workspace")
    if workspace is not None:
        found |= {id(one): "workspace" for one in workspace._workspaces.values()}
    return found


def _at_work() -> dict[object, str]:
    """Threads and processes of ours, in the same way."""
    found: dict[object, str] = {}
    for thread in threading.enumerate():
        if _is_ours(thread):
            found[thread.ident] = f"thread {thread.name}"
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if child.status() != psutil.STATUS_ZOMBIE and OURS in " ".join(child.cmdline()):
                found[child.pid, child.create_time()] = f"process {' '.join(child.cmdline())}"
    return found


def _windows() -> list[Any]:
    """Top-level widgets of ours."""
    if QApplication.instance() is None:
        return []
    return [w for w in QApplication.topLevelWidgets() if type(w).__module__.startswith(OURS)]


def _timers() -> dict[object, str]:
    """What owns timers that still tick."""
    found: dict[object, str] = {}
    # by type: some lazy objects answer isinstance by doing things
    for timer in [one for one in gc.get_objects() if issubclass(type(one), QTimer)]:
        with suppress(RuntimeError):  # Qt has deleted it
            owner = timer.parent()
            if timer.isActive() and owner and type(owner).__module__.startswith(OURS):
                found[id(timer)] = type(owner).__name__
    return found


def _is_ours(thread: threading.Thread) -> bool:
    work = getattr(thread, "_target", None) or getattr(thread, "function", None)
    module = getattr(work, "__module__", None) or ""
    names = ("sa2net", "learn", "training-set", "corrections", "fingerprint", "journal")
    return module.startswith(OURS) or thread.name.startswith(names)


@pytest.fixture
def home(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home with the model ``tiny``, for this process and the engine's."""
    models = tmp_path / "home" / "models"
    models.mkdir(parents=True)
    shutil.copy(tiny_model, models / "tiny.safetensors")
    monkeypatch.setenv("SA2NET_HOME", str(models.parent))
    # chosen from the start: the engine of each window would load and time the bundled one
    chosen = partial(Session, model="tiny")
    monkeypatch.setattr("napari_sa2net.widgets.workspace.Session", chosen)
    return models.parent


@pytest.fixture
def open_dock(home: Path, make_napari_viewer: Any) -> Iterator[Callable[[], SA2NetDock]]:
    """Opens the dock in a new viewer, with the model ``tiny``; closes it afterwards."""
    docks: list[SA2NetDock] = []

    def open_it() -> SA2NetDock:
        from napari_sa2net.widgets.dock import SA2NetDock

        viewer = make_napari_viewer()
        dock = SA2NetDock(viewer)
        viewer.window.add_dock_widget(dock, name="SA2-Net")
        assert dock.workspace is not None
        dock.workspace.controller.set_model("tiny")
        docks.append(dock)
        return dock

    yield open_it
    for dock in docks:
        dock.shut()


@pytest.fixture(autouse=True)
def _warm(warm_engines: None) -> None:
    """What an engine does is asked here; that it starts is asked in ``engine``."""
