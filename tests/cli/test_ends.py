"""How a command line ends, and what it says of models."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from napari_sa2net import cli
from napari_sa2net.cli.models import _flat
from napari_sa2net.training import compare_models as compare_module
from napari_sa2net.training.compare import Change, Interval, Score, Verdict


@pytest.mark.parametrize(
    ("end", "code"),
    [(0, 0), (1, 1), (2, 2), (KeyboardInterrupt(), 130)],
)
def test_a_command_ends_with_its_code(monkeypatch, end, code):
    def run(_: Any) -> int:
        if isinstance(end, BaseException):
            raise end
        return end

    monkeypatch.setattr(cli, "run", run)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as caught:
            cli.main([])
        assert caught.value.code == code
        # that of a batch system, which leaves time to tidy up
        with pytest.raises(SystemExit) as caught:
            signal.getsignal(signal.SIGTERM)(signal.SIGTERM, None)
        assert caught.value.code == 143
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("value", "lines"),
    [
        ({"a": {"b": 1}, "c": [1, 2]}, ["a.b: 1", "c: 1, 2"]),
        ({"a": [{"b": 1}, {"b": 2}]}, ["a.1.b: 1", "a.2.b: 2"]),
        ({"a": [[1, 2], [3]]}, ["a.1: 1, 2", "a.2: 3"]),
        ({"a": [], "b": {}}, ["a: "]),
        ({"a": "two\n  lines"}, ["a: two lines"]),
    ],
)
def test_a_card_in_lines(value, lines):
    assert list(_flat(value)) == lines


@dataclass
class Part:
    name: str
    n_images: int
    change: Change


@dataclass
class Compared:
    first: str
    second: str
    parts: tuple[Part, ...]
    verdict: Verdict
    notes: tuple[str, ...]


def test_a_comparison_in_a_table_and_as_json(run, monkeypatch):
    change = Change(
        difference=0.125,
        low=-0.25,
        high=0.5,
        before=Score(0.5, 0.25, 0.75, 7),
        after=Score(0.625, 0.5, 0.875, 9),
        dice=Interval(0.125, 0.0625, 0.1875),
    )
    parts = (Part("my cells", 3, change),)
    result = Compared("one", "two", parts, Verdict(True, "Yes."), ("Few.",))
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(
        compare_module, "compare_models", lambda *a, **k: asked.append(k) or result
    )
    told = run("models", "compare", "one", "two", "--axes", "CYX", "--channels", "1")
    assert told.code == 0
    rows = [" ".join(line.split()) for line in told.out.splitlines() if "my cells" in line]
    assert rows[0] == "my cells 3 9 AP@0.5 0.500 0.625 +0.125 -0.250 to +0.500"
    assert rows[1] == "my cells 3 9 Dice 0.750 0.875 +0.125 +0.062 to +0.188"
    assert "Yes." in told.out
    assert "Few." in told.err
    assert (asked[0]["axes"], asked[0]["channels"]) == ("CYX", "1")
    plain = run("models", "compare", "one", "two", "--json").json()
    assert plain["schema_version"] == 1
    assert plain["parts"][0]["change"]["dice"]["low"] == 0.0625
    assert plain["notes"] == ["Few."]


def test_of_a_file_without_a_card_one_is_made(run, tmp_path, monkeypatch, tiny_model):
    from napari_sa2net import models

    path = tmp_path / "published.pth"
    path.write_bytes(b"x" * 9)
    card = models.read_card(tiny_model)
    monkeypatch.setattr(models, "open_model", lambda _: SimpleNamespace(card=card))
    shown = run("models", "show", path, "--json").json()
    assert shown["card"]["name"] == card.name
    assert (shown["path"], shown["size_bytes"]) == (str(path), 9)


def test_a_run_goes_on_with_the_axes_that_it_began_with(run, tmp_path):
    from napari_sa2net.training.runs import ASKED, STATE

    for name in (ASKED, STATE):
        (tmp_path / name).write_bytes(b"{}")
    for flag, value in (("--axes", "CYX"), ("--channels", "1")):
        told = run("train", tmp_path, "--resume", tmp_path, flag, value)
        assert told.code == 2
        assert "goes on with those it began with" in told.err
