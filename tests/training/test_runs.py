"""Runs of fine-tuning as they lie on disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from napari_sa2net.config import FineTuneConfig
from napari_sa2net.errors import OutputError, SettingsError, TrainingError
from napari_sa2net.models.registry import add_file
from napari_sa2net.training import runs
from napari_sa2net.training.runs import (
    ASKED,
    SCHEMA_VERSION,
    STATE,
    Asked,
    discard_run,
    folder_input,
    free_name,
    is_run,
    read_asked,
    read_state,
    read_tensors,
    runs_dir,
    tidy,
    unfinished_runs,
    working_on,
    write_asked,
    write_state,
    write_tensors,
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SA2NET_HOME", str(tmp_path))
    return tmp_path


def begun(name: str, time: float | None = None, folder: str = "") -> Path:
    run = runs_dir() / (folder or name)
    asked = Asked(
        name=name,
        training_set="/data/\udce4",  # a name that is no UTF-8
        base="nuclei",
        base_name="nuclei",
        base_sha256="ab",
        config=FineTuneConfig(minutes=2),
        division={"learned": ("a",)},
    )
    write_asked(run, asked)
    assert read_asked(run) == asked
    if time is not None:
        write_state(run, {"step": 3})
        os.utime(run / STATE, (time, time))
    return run


def test_what_can_go_on_is_listed_the_newest_first(tiny_model: Path) -> None:
    assert unfinished_runs() == []
    old, new, between = (begun(name, t) for name, t in (("a", 1.0), ("b", 3.0), ("c", 2.0)))
    begun("no round yet")
    damaged = begun("d", 4.0)
    (damaged / ASKED).write_text("{}")
    (runs_dir() / "notes").mkdir()
    found = unfinished_runs()
    assert [(one.run, one.asked.name, one.time) for one in found] == [
        (new, "b", 3.0),
        (between, "c", 2.0),
        (old, "a", 1.0),
    ]
    with working_on(new):
        assert [one.run for one in unfinished_runs()] == [between, old]
    add_file(tiny_model, "c")  # its child is born: it has ended
    assert [one.run for one in unfinished_runs()] == [new, old]
    tidy(new)
    tidy(new)
    assert [one.run for one in unfinished_runs()] == [old]
    assert is_run(new)
    assert not is_run(runs_dir() / "notes")


def test_a_run_is_deleted_only_where_nobody_is_at_work() -> None:
    run = begun("a", 1.0)
    with working_on(run):
        with pytest.raises(OutputError, match="Another window is learning"):
            discard_run(run)
        with pytest.raises(OutputError, match="Another window"), working_on(run):
            pass
        with pytest.raises(SettingsError, match="mine"), working_on(run, SettingsError("mine")):
            pass
    with pytest.raises(ZeroDivisionError), working_on(run):
        1 / 0  # noqa: B018
    discard_run(run)
    assert not run.exists()
    with pytest.raises(SettingsError, match="no fine-tuning in"):
        discard_run(run)
    with working_on(run):
        assert run.is_dir()
    (runs_dir() / "file").touch()
    with (
        pytest.raises(OutputError, match="cannot be made"),
        working_on(runs_dir() / "file" / "x"),
    ):
        pass


def test_a_run_that_cannot_be_deleted_is_said_and_not_offered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = begun("a", 1.0)

    def held(_: Any) -> None:
        raise OSError("a file is open")

    monkeypatch.setattr(runs.shutil, "rmtree", held)
    with pytest.raises(OutputError, match=r"cannot be deleted .*a file is open"):
        discard_run(run)
    assert unfinished_runs() == []


def test_names_that_are_free(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert free_name("nuclei") == free_name("nuclei.safetensors") == "nuclei-tuned"
    add_file(tiny_model, "nuclei-tuned")
    assert free_name("nuclei") == "nuclei-tuned-2"
    begun("other", 1.0, folder="nuclei-tuned-2")  # where a run lies that can go on
    assert free_name("nuclei") == "nuclei-tuned-3"
    begun("another", None, folder="nuclei-tuned-3")
    assert free_name("nuclei") == "nuclei-tuned-3"
    assert free_name("x" * 80) == "x" * 50 + "-tuned"
    monkeypatch.setattr(runs, "find_model", lambda _: "taken")
    with pytest.raises(SettingsError, match="All names like nuclei-tuned"):
        free_name("nuclei")


def test_what_was_said_of_a_folder_alone_goes_into_the_card() -> None:
    assert folder_input(None, None) == {}
    assert folder_input("YXC", (0, 1)) == {"axes": "YXC", "channels": [0, 1]}
    assert folder_input(None, ()) == {"channels": []}


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"name": 3}'])
def test_what_was_asked_and_cannot_be_read_says_what_to_do(content: str) -> None:
    run = begun("a", 1.0)
    (run / ASKED).write_text(content)
    with pytest.raises(
        SettingsError, match=r"damaged or of another version\. Start a new run\.$"
    ):
        read_asked(run)


def test_settings_of_before_are_read(home: Path) -> None:
    run = begun("a")
    said = json.loads((run / ASKED).read_bytes())
    later = ("commit_ids", "places", "caveats", "axes", "channels", "image_diameters")
    for name in (*later, "schedule", "promote", "registered", "command"):
        del said[name]
    (run / ASKED).write_text(json.dumps(said))
    asked = read_asked(run)
    assert (asked.commit_ids, asked.caveats, asked.axes) == ({}, (), None)
    assert (asked.places, asked.channels, asked.schedule) == ({}, None, ())
    # it ends among the user's models, offered if it is better
    assert (asked.registered, asked.promote, asked.command) == (True, None, "")


def test_a_state_comes_back_or_says_why_not(tmp_path: Path) -> None:
    run = begun("a")
    with pytest.raises(SettingsError, match="nothing to go on with"):
        read_state(run)
    write_state(run, {"weights": torch.arange(3), "step": 3})
    state = read_state(run)
    assert torch.equal(state["weights"], torch.arange(3))
    assert state["step"] == 3
    assert state["schema_version"] == SCHEMA_VERSION
    whole = (run / STATE).read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"x" * 100):
        (run / STATE).write_bytes(damaged)
        with pytest.raises(TrainingError, match=r"state.pt is damaged. Start a new run."):
            read_state(run)
    write_tensors(run / STATE, {"schema_version": SCHEMA_VERSION + 1})
    with pytest.raises(TrainingError, match=r"another version\. Begin anew"):
        read_tensors(run / STATE, SCHEMA_VERSION, "Begin anew.")
    write_tensors(run / STATE, {"of": "something else"})
    with pytest.raises(TrainingError, match="damaged"):
        read_state(run)


def test_a_full_disk_is_said_and_the_state_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    run = begun("a", 1.0)
    before = (run / STATE).read_bytes()

    def full(self: Any, data: Any) -> int:
        self.error = OSError(28, "No space left on device")
        raise self.error

    monkeypatch.setattr(runs._Target, "write", full)
    with pytest.raises(OutputError, match="No space left"):
        write_state(run, {"step": 4})
    assert (run / STATE).read_bytes() == before
    monkeypatch.undo()

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("not of the disk")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(RuntimeError, match="not of the disk"):
        write_tensors(run / "other", {})
    assert not (run / "other").exists()
