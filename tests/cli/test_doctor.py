"""Each finding of ``sa2net doctor``, at both ends: what is well, what is not, what to do."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from napari_sa2net.cli.doctor import NOTE, OK, PROBLEM, Check

#: the command of this name hides it
doctor = importlib.import_module("napari_sa2net.cli.doctor")


@pytest.mark.parametrize(("free_gib", "status"), [(1.99, NOTE), (2.0, OK)])
def test_memory(monkeypatch, free_gib, status):
    memory = SimpleNamespace(available=free_gib * 2**30, total=8 * 2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    check = doctor._memory()
    assert check.status == status
    assert check.found == "2.0 GiB free of 8.0 GiB"
    assert ("--tile" in check.advice) == (status == NOTE)


def test_memory_without_what_measures_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert doctor._memory() == Check(OK, "not measured (psutil is not installed)")


@pytest.mark.parametrize(("free_gib", "status"), [(4.9, NOTE), (5.0, OK)])
def test_room_for_temporary_files(monkeypatch, free_gib, status):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free_gib * 2**30))
    check = doctor._temporary()
    assert check.status == status
    assert check.found.endswith(f"{free_gib:.0f} GiB free")
    assert ("TMPDIR" in check.advice) == (status == NOTE)


def test_cores_and_precision(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    for fast, word in ((True, "bfloat16 is used"), (False, "float32 is used")):
        monkeypatch.setattr(
            "napari_sa2net.inference.devices.bfloat16_is_fast", lambda f=fast: f
        )
        check = doctor._processor()
        assert check.status == OK
        assert check.found.endswith(f", 1 core, 2 threads, {word}")


def test_a_driver_that_is_not_used_is_a_note(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert doctor._devices("cpu").status == OK
    assert doctor._devices("cpu").found.endswith("; no GPU")
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    check = doctor._devices("cpu")
    assert check.status == NOTE
    assert "CUDA build" in check.advice
    for there in ("torch.cuda.is_available", "torch.backends.mps.is_available"):
        with monkeypatch.context() as patch:
            patch.setattr(there, lambda: True)
            check = doctor._devices("cpu")
            assert (check.status, check.advice) == (OK, "")
            assert "no GPU" not in check.found


def test_models_are_there_and_can_be_kept(monkeypatch, own_home):
    check = doctor._models()
    assert check.status == OK
    assert "nuclei" in check.found
    assert str(own_home) in check.found
    monkeypatch.setattr(doctor, "_writable", lambda _: False)
    check = doctor._models()
    assert check.status == NOTE
    assert "SA2NET_HOME" in check.advice
    own = SimpleNamespace(name="own", bundled=False)
    monkeypatch.setattr("napari_sa2net.models.list_models", lambda: [own])
    check = doctor._models()
    assert check.status == PROBLEM
    assert check.found.startswith("own; the bundled ones are missing")
    monkeypatch.setattr("napari_sa2net.models.list_models", list)
    assert doctor._models().found.startswith("none;")


def test_a_folder_that_is_not_there_yet_is_as_writable_as_what_it_goes_into(
    tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(os, "access", lambda folder, _: asked.append(folder) or True)
    assert doctor._writable(tmp_path / "a" / "b")
    assert asked == [tmp_path]


def test_napari(monkeypatch):
    assert doctor._napari().status == OK
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [])
    check = doctor._napari()
    assert check.status == PROBLEM
    assert "does not know the plugin" in check.found
    monkeypatch.setattr(doctor, "_version", lambda _: None)
    assert doctor._napari().status == NOTE
    assert doctor._qt() == Check(OK, "not needed without napari")


@pytest.mark.parametrize(
    ("code", "out", "err", "display", "wanted"),
    [
        (0, "PyQt6 6.9 xcb\n", "", "", (OK, "PyQt6 6.9 xcb", "")),
        (1, "", "QtBindingsNotFoundError: none\n", ":0", (PROBLEM, "no Qt binding", "Install")),
        (1, "", "No Qt bindings could be found\n", "", (PROBLEM, "no Qt binding", "Install")),
        (-6, "", "could not connect\n", "", (NOTE, "there is no display", "xvfb-run")),
        (-6, "", "lost\nlibEGL.so.1 is missing\n \n", ":0", (PROBLEM, "libEGL", "libegl1")),
        (-6, "what stdout says", "", ":0", (PROBLEM, "what stdout says", "libegl1")),
        (-6, "", "", ":0", (PROBLEM, "Qt ended with code -6", "libegl1")),
    ],
)
def test_the_window_system(monkeypatch, code, out, err, display, wanted):
    run = SimpleNamespace(returncode=code, stdout=out, stderr=err)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: run)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", display)
    check = doctor._qt()
    status, found, advice = wanted
    assert check.status == status
    assert check.found.startswith(found)
    assert advice in check.advice
    assert bool(check.advice) == bool(advice)


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_other_systems_have_their_display_without_a_word(monkeypatch, system):
    run = SimpleNamespace(returncode=1, stdout="", stderr="lost\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: run)
    monkeypatch.setattr(sys, "platform", system)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert doctor._qt().found == "lost"


@pytest.mark.parametrize(
    ("objects", "seconds", "status", "advice"),
    [(5, 1.0, OK, ""), (5, 4.0, NOTE, "GPU"), (0, 1.0, PROBLEM, "import it again")],
)
def test_speed(monkeypatch, objects, seconds, status, advice):
    """Of the second run: the first one is slower than all that follow."""
    clock = [0.0]
    took = iter((60.0, seconds))

    def segment(image, *_, **__):
        assert image.shape == (doctor.PROBE, doctor.PROBE)
        clock[0] += next(took)
        return SimpleNamespace(labels=image[:1].astype(int) * 0 + objects)

    model = SimpleNamespace(name="m", diameter=20.0)
    monkeypatch.setattr("napari_sa2net.models.load_model", lambda _: model)
    monkeypatch.setattr("napari_sa2net.inference.segment.segment", segment)
    monkeypatch.setattr(doctor.time, "perf_counter", lambda: clock[0])
    check = doctor._speed("m", "cpu")
    assert check.status == status
    assert advice in check.advice
    assert bool(check.advice) == bool(advice)
    rate = 512**2 / 1e6 / seconds
    assert check.found.startswith(f"{rate:.2f} megapixels per second with m")
    assert f"in about {2048**2 / 1e6 / rate:.0f} s" in check.found
    assert f"{objects} of " in check.found


def test_what_was_found_is_told_and_a_broken_library_is_one_finding(run, monkeypatch):
    def broken():
        raise OSError("libcudart is missing")

    for name in vars(doctor).copy():
        if name in {"_versions", "_processor", "_memory", "_models", "_temporary", "_napari"}:
            monkeypatch.setattr(doctor, name, lambda: Check(OK, "fine"))
    monkeypatch.setattr(doctor, "_qt", lambda: Check(NOTE, "no display", "Get one."))
    monkeypatch.setattr(doctor, "_speed", lambda *_: Check(OK, "fast"))
    monkeypatch.setattr(doctor, "_devices", lambda _: Check(OK, "cpu"))
    result = run("doctor")
    assert result.code == 0
    assert "✓ versions: fine" in result.out
    assert "• window system: no display\n  → Get one." in result.out
    assert "Everything needed is there." in result.out
    assert run("doctor", "--json").json()["healthy"]
    monkeypatch.setattr(doctor, "_memory", broken)
    result = run("doctor")
    assert result.code == 1
    assert "✗ memory: OSError: libcudart is missing\n  → Reinstall" in result.out
    assert "✓ speed: fast" in result.out
    assert "Something needs mending" in result.out
