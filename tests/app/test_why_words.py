"""Maps, histories and what-ifs in words."""

from __future__ import annotations

import math

import numpy as np
import pytest

from napari_sa2net.app.see_why import (
    history_words,
    layer_name,
    map_help,
    map_symbol,
    map_title,
    what_if_words,
)
from napari_sa2net.app.session import STAGE, WhatIfSettings, difference_words
from napari_sa2net.engine.messages import AttentionMap, StageStep, WhatIfResult
from napari_sa2net.interpret.maps import Changes

NAMES = [
    *(f"scale_gate_{i}" for i in (1, 2, 3, 4)),
    "global_query",
    *(f"local_gate_{i}" for i in (1, 2, 3, 4)),
    *(f"aua_{s}" for s in (8, 4, 2, 1)),
]


def test_names_of_layers_are_short_and_apart():
    names = [layer_name(name, "nuclei_03") for name in NAMES]
    names += [layer_name(STAGE, "nuclei_03", stride=4), layer_name("change", "nuclei_03")]
    assert len(set(names)) == len(names)
    assert layer_name("aua_4", "nuclei_03") == "why: detail 1/4 (nuclei_03)"
    assert layer_name("local_gate_1", "a", channel=4) == "why: nearby 1, channel 4 (a)"
    assert all(name.startswith("why: ") and name.endswith("(nuclei_03)") for name in names)


JARGON = {"ψ", "γ", "gate", "gates", "query", "aua", "skip", "exponent"}


@pytest.mark.parametrize("name", NAMES)
def test_every_map_says_what_it_is_and_what_not(name):
    shown = AttentionMap(name, np.zeros((2, 2)), 4, (4, 4), (0, 0), 0, 1, n_channels=8)
    words = map_help(shown)
    assert " not " in words
    assert len(words) < 220
    # measured: `python -m benchmarks evidence`
    own = name in ("aua_4", "aua_2", "aua_1") or name.startswith("scale_gate")
    assert ("trained anew" in words) == own
    if name.startswith("local"):
        assert "Mean" in words
    assert map_title(name).split(" ")[0] in ("detail", "scale", "overall", "nearby")
    assert not JARGON & set(f"{words} {map_title(name)}".lower().split())
    # What papers and files call it is told where somebody asks.
    assert name in map_symbol(name)


def what_if(**numbers):
    fields = {
        "key": "k", "labels": None, "change": None, "box": (0, 1, 0, 1), "appeared": 0,
        "vanished": 0, "split": 0, "merged": 0, "gained_px": 0, "lost_px": 0, "n_before": 9,
        "n_after": 9, "seconds": 1.0, "from_cache": True,
    }  # fmt: skip
    return WhatIfResult(**{**fields, **numbers})


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({}, "No pixel changes · 9 cells in the view"),
        (
            {"n_after": 7, "gained_px": 318, "split": 1},
            "−2 cells, +318 px, 1 split · of 9 cells in the view",
        ),
        ({"n_after": 10, "lost_px": 12345}, "+1 cell, −12,345 px · of 9 cells in the view"),
        (
            {"appeared": 1, "vanished": 1, "merged": 2},
            "2 merged, 1 appeared, 1 vanished · of 9 cells in the view",
        ),
        ({"n_before": 1, "n_after": 0}, "−1 cell · of 1 cell in the view"),
    ],
)
def test_what_if_in_one_line(numbers, words):
    assert what_if_words(what_if(**numbers), "in the view") == words


def test_history_in_words():
    nan = math.nan
    lines = history_words(
        (
            StageStep(8, 0, 0, nan, nan),
            StageStep(4, 1, 90, nan, nan, "appeared"),
            StageStep(2, 1, 80, 1.84, 4.2, "split"),
            StageStep(1, 1, 84, 0.4, 1.0),
        )
    )
    assert [stage for stage, _ in lines] == ["1/8", "1/4", "1/2", "full"]
    assert lines[0][1] == "not there yet"
    assert lines[1][1] == "appears"
    assert lines[2][1] == "split off · boundary moved 1.8 px, at most 4.2"
    assert lines[3][1] == "boundary moved 0.4 px, at most 1.0"
    assert history_words(()) == []


def test_a_cell_that_was_there_before_is_gone_and_comes_back():
    nan = math.nan
    steps = (
        StageStep(8, 1, 90, nan, nan),
        StageStep(4, 0, 0, nan, nan, "vanished"),
        StageStep(2, 0, 0, nan, nan),
        StageStep(1, 1, 84, nan, nan, "appeared"),
    )
    words = [words for _, words in history_words(steps)]
    assert words == ["there", "gone", "gone", "comes back"]


def test_what_a_person_drew_is_no_work_of_the_network():
    nan = math.nan
    steps = (StageStep(2, 0, 0, nan, nan), StageStep(1, 1, 84, 1.5, 3.0, "appeared"))
    words = history_words(steps, by_hand=True)
    assert words == [("1/2", "nothing here"), ("full", "drawn or changed by hand")]


def test_as_trained():
    assert WhatIfSettings().is_default
    assert not WhatIfSettings(gamma=(1.0, 0.0, 1.0, 1.0)).is_default
    assert not WhatIfSettings(se_gamma=(None, 0.0, None, None)).is_default


def test_maps_of_another_network_mean_something_else_under_the_same_name():
    shown = AttentionMap("aua_4", np.zeros((2, 2)), 4, (4, 4), (0, 0), 0, 1)
    assert "reaches the 1/4 stage" in map_help(shown, "focal_unet")
    assert map_help(shown) != map_help(shown, "focal_unet")
    assert "attention gate α at stage 1/4, aua_4." in map_symbol("aua_4", "focal_unet")
    assert "not the probability" in map_help(shown, "focal_unet")


@pytest.mark.parametrize(
    ("counts", "more", "words"),
    [
        ((0, 0, 0, 0, 0, 0), 0, ""),
        ((4, 0, 2, 0, 318, 40), 4, "+4 cells, +318 px, −40 px, 2 split, 4 appeared"),
        ((0, 1, 0, 3, 0, 1200), -1, "−1 cell, −1,200 px, 3 merged, 1 vanished"),
        ((0, 0, 0, 0, 5, 0), 0, "+5 px"),
        ((1, 1, 0, 0, 5, 5), 0, "+5 px, −5 px, 1 appeared, 1 vanished"),
    ],
)
def test_what_differs_in_words(counts, more, words) -> None:
    assert difference_words(Changes(*counts, np.zeros((1, 1), np.int8)), more) == words
