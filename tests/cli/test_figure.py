from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.text import Text

from napari_sa2net.cli.figure import (
    MOST,
    NAMES,
    Shown,
    draw,
    outline,
    outline_segments,
    round_length,
    save_picture,
)
from napari_sa2net.data import synthetic_nuclei
from napari_sa2net.data.write import render
from napari_sa2net.interpret.maps import ADDED, REMOVED, place
from napari_sa2net.interpret.refinement import refinement_table
from napari_sa2net.nn import ATTENTION_NAMES

SVG = "{http://www.w3.org/2000/svg}"


def shown(names=ATTENTION_NAMES, **more) -> Shown:
    image, labels = synthetic_nuclei(shape=(48, 64), n=6, diameter=12, seed=1)
    rng = np.random.default_rng(0)
    maps = {}
    for name in names:
        stride = int(name[4:]) if name.startswith("aua_") else 4
        values = rng.normal(size=(48 // stride, 64 // stride)).astype(np.float32)
        maps[name] = place(name, values, (1.0, 1.0), (0, 48, 0, 64))
    stages = {8: labels * (labels != 2), 4: labels, 2: labels, 1: labels}
    table = refinement_table(stages, (labels > 0).astype(float))
    given = {"name": "n", "image": image, "labels": labels, "maps": maps, "stages": stages}
    return Shown(**{**given, "objects": table, **more})


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


def panel(figure, title):
    (axes,) = [axes for axes in figure.axes if axes.get_title() == title]
    return axes


def test_every_map_is_there_with_its_stage_and_colour_bar():
    figure = draw(shown())
    words = texts(figure)
    wanted = {f"detail {name}" for name in NAMES.values()}
    wanted |= {f"scale {i}" for i in (1, 2, 3, 4)} | {f"nearby {i}" for i in (1, 2, 3, 4)}
    assert wanted | {"overall", "stage 1/8", "full size", "10 px"} <= set(words)
    gate = panel(figure, "scale 2")
    drawn = gate.images[0]
    low, high = drawn.get_clim()
    assert low == -high < 0  # white is 0
    below, above = drawn.cmap([0.0, 1.0])
    assert below[0] > below[2]  # orange takes away
    assert above[2] > above[0]  # blue adds, as in the window
    assert np.allclose(drawn.cmap(drawn.norm(0))[:3], 1, atol=0.05)
    assert panel(figure, "detail 1/8").images[0].get_clim() == (0, 1)
    bars = [child for child in gate.child_axes if hasattr(child, "_colorbar")]
    assert len(bars) == 1


def test_a_map_lies_over_the_image():
    figure = draw(shown())
    for title in ("detail 1/8", "scale 1", "detail full"):
        axes = panel(figure, title)
        assert tuple(axes.images[0].get_extent()) == (-0.5, 63.5, 47.5, -0.5)
        # numbers of pixels would run into the panels beside it
        assert not [*axes.get_xticks(), *axes.get_yticks()]


def test_a_window_cuts_everything_alike():
    whole = shown()
    figure = draw(replace(whole, window=(8, 40, 16, 48)))
    assert "of which a part is shown" in " ".join(texts(figure))
    axes = panel(figure, "detail 1/8")
    assert axes.get_xlim() == (-0.5, 31.5)
    assert tuple(axes.images[0].get_extent()) == (-16.5, 47.5, 39.5, -8.5)
    for title in ("image and result", "mask at 1/8", "mask = result"):
        assert panel(figure, title).images[0].get_array().shape[:2] == (32, 32)


def test_rows_that_a_model_has_nothing_for_are_left_out():
    figure = draw(shown([name for name in ATTENTION_NAMES if name.startswith("aua_")]))
    words = " ".join(texts(figure))
    assert "detail 1/8" in words
    assert not {"scales", "nearby", "overall"} & set(words.split())
    some = shown(["aua_1", "scale_gate_1"])
    words = " ".join(texts(draw(replace(some, stages={1: some.labels}))))
    assert "no detail 1/8" in words
    assert "no such stage" in words
    assert "detail" not in " ".join(texts(draw(shown([]))))


@pytest.mark.parametrize("kind", ["none", "colour", "uint16 colour", "nan", "flat"])
def test_odd_images(kind):
    given = shown()
    if kind == "none":
        table = given.objects.iloc[:0]
        empty = np.zeros_like(given.labels)
        given = replace(given, labels=empty, stages={1: empty}, objects=table)
    elif kind == "nan":
        given = replace(given, image=np.full(given.labels.shape, np.nan))
    elif kind == "flat":
        given = replace(given, image=np.full(given.labels.shape, 7, np.uint8))
    else:
        dtype = np.uint16 if "16" in kind else np.uint8
        given = replace(given, image=np.ones((*given.labels.shape, 3), dtype))
    words = texts(draw(given))
    assert "image and result" in words
    assert any(f"{len(given.objects)} object" in word for word in words)


def test_micrometres_and_the_same_bytes_again():
    given = shown(["aua_1"], pixel_size_um=0.5)
    figure = draw(given)
    svg = render(figure, "svg")
    # Text stays text.
    words = [
        "".join(e.itertext()).strip() for e in ElementTree.fromstring(svg).iter(f"{SVG}text")
    ]
    assert {"5 µm", "detail full"} <= set(words)
    assert render(draw(given), "svg") == svg
    assert render(figure, "png").startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("longest", "wanted"), [(64, 50), (20, 20), (19.9, 10), (0.3, 0.2), (1, 1), (5000, 5000)]
)
def test_scale_bars_have_round_lengths(longest, wanted):
    assert round_length(longest) == pytest.approx(wanted)


def test_a_line_of_pixels_can_be_seen():
    given = shown(["aua_1"])
    line = given.labels[20:21]
    figure = draw(
        replace(given, image=given.image[20:21], labels=line, stages={8: line, 1: line})
    )
    axes = panel(figure, "image and result")
    axes.apply_aspect()
    box = axes.get_position()
    assert box.height * figure.get_figheight() > 0.4
    assert "height stretched" in " ".join(texts(figure))
    assert "stretched" not in " ".join(texts(draw(given)))


def test_a_scale_bar_is_never_shorter_than_a_pixel():
    given = shown(["aua_1"])
    for width, wanted in ((3, []), (4, ["1 px"]), (10, ["2 px"])):
        cut = given.labels[:10, :width]
        small = replace(given, image=given.image[:10, :width], labels=cut, stages={1: cut})
        assert [word for word in texts(draw(small)) if word.endswith(" px")] == wanted


def test_what_was_not_run_is_not_left_black():
    empty = np.zeros((20, 30), np.int32)
    given = replace(shown([]), image=np.full((20, 30), 7), labels=empty, ran=False)
    given = replace(given, stages=dict.fromkeys((8, 4, 2, 1), empty))
    figure = draw(given)
    words = texts(figure)
    assert any("one value everywhere" in word for word in words)
    assert words.count("network not run") == 4


@pytest.mark.parametrize("shape", [(2 * MOST + 2, 2 * MOST + 7), (1, 3 * MOST)])
def test_large_images_are_drawn_as_coarse_as_they_are_seen(shape):
    labels = np.zeros(shape, np.int32)
    labels[:, : shape[1] // 2] = 1
    values = np.zeros((-(-shape[0] // 4), -(-shape[1] // 4)), np.float32)
    values[:, : shape[1] // 8] = 1
    table = pd.DataFrame({"label": [1], "refinement_px": [1.0], "contested": [0.5]})
    given = Shown(
        "big",
        labels.astype(np.uint8),
        labels,
        {"aua_4": place("aua_4", values, (1.0, 1.0), (0, shape[0], 0, shape[1]))},
        dict.fromkeys((8, 4, 2, 1), labels),
        table,
    )
    figure = draw(given)
    drawn = [image for axes in figure.axes for image in axes.images]
    assert max(size for image in drawn for size in image.get_size()) <= MOST
    axes = panel(figure, "detail 1/4")
    left, right, _, _ = axes.images[0].get_extent()
    step = -(-shape[1] // MOST)
    # both ends within a pixel that is seen
    assert left == pytest.approx(-0.5)
    assert right == pytest.approx(shape[1] / step - 0.5, abs=2)
    (bar,) = [word for word in texts(figure) if word.endswith(" px")]
    assert int(bar.split()[0]) in (500, 1000)
    # half of the image is the object, at the place where it is
    shares = panel(figure, "mask = result").images[0].get_array().mean(axis=0)
    assert np.flatnonzero(np.diff(shares)) == pytest.approx(shape[1] / step / 2, abs=2)


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 900), (float, 0.02)])
def test_colours_of_any_depth_are_shown_with_outlines(dtype, top):
    rng = np.random.default_rng(0)
    image = (rng.random((48, 64, 3)) * top).astype(dtype)
    axes = panel(draw(shown(("global_query",), image=image)), "image and result")
    seen = axes.images[0].get_array()
    if dtype == np.uint8:
        np.testing.assert_array_equal(seen, image)
    else:
        assert (seen.min(), seen.max()) == (0, 1)
        between = np.corrcoef(seen.ravel(), image.ravel())[0, 1]
        assert between > 0.99
    assert any(isinstance(artist, PathPatch) for artist in axes.get_children())


def test_outlines_run_between_pixels():
    labels = np.zeros((5, 6), int)
    labels[1:3, 1:4] = 1
    labels[1:3, 4] = 2
    lines = {tuple(map(tuple, line)) for line in outline_segments(labels).tolist()}
    assert lines == {
        ((0.5, 0.5), (4.5, 0.5)),
        ((0.5, 2.5), (4.5, 2.5)),
        ((0.5, 0.5), (0.5, 2.5)),
        ((3.5, 0.5), (3.5, 2.5)),
        ((4.5, 0.5), (4.5, 2.5)),
    }
    assert len(outline_segments(np.zeros((3, 3), int))) == 0


def test_an_object_is_coloured_by_its_own_value():
    labels = np.zeros((10, 10), int)
    labels[1:4, 1:4], labels[6:9, 6:9] = 5, 90
    table = pd.DataFrame({"label": [90, 5], "refinement_px": [2.0, 1.0], "contested": 0.5})
    given = replace(shown(["aua_1"]), labels=labels, stages={1: labels}, objects=table)
    figure = draw(replace(given, image=np.zeros((10, 10))))
    values = panel(figure, "boundary moved (px)").images[1].get_array()
    assert (values[2, 2], values[7, 7]) == (1, 2)
    assert np.ma.getmaskarray(np.ma.masked_invalid(values))[0, 0]


@pytest.mark.parametrize("colour", [False, True])
def test_a_picture_of_a_result_has_image_outlines_and_maps(tmp_path, monkeypatch, colour):
    made = []
    begin = Figure.__init__

    def noted(self, *given, **more):
        made.append(self)
        begin(self, *given, **more)

    monkeypatch.setattr(Figure, "__init__", noted)
    image, labels = synthetic_nuclei(shape=(40, 50), n=5, diameter=10, seed=1)
    image[0, 0] = 60_000 if image.dtype == np.uint16 else 255  # one hot pixel
    shown_image = np.stack([image.astype(np.uint8)] * 3, -1) if colour else image
    values = np.linspace(0, 1, image.size).reshape(image.shape).astype(np.float32)
    path = save_picture(tmp_path / "a.png", shown_image, labels, {"edges": values}, "Nuclei")
    assert path.read_bytes().startswith(b"\x89PNG")
    (figure,) = made
    n = len(np.unique(labels)) - 1
    assert figure.get_suptitle() == "Nuclei"
    panels = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    assert list(panels) == ["image", f"{n} cells outlined", "edges"]
    assert not any(axes.axison for axes in panels.values())
    first, second, third = panels.values()
    for axes in (first, second):
        np.testing.assert_array_equal(axes.images[0].get_array(), shown_image)
        if not colour:  # the hot pixel takes no range
            low, high = axes.images[0].get_clim()
            assert image.min() <= low < high < image[0, 0]
    edges = second.images[1].get_array()
    np.testing.assert_array_equal(edges[..., 3] > 0, outline(labels))
    # yellow on grey, green on stains, which are red and blue
    line = edges[outline(labels)][0]
    assert line[1] > 0.75
    assert (line[0] > 0.9, line[2] > 0.5, line[3]) == (not colour, False, 1)
    assert len(first.images) == len(third.images) == 1
    low, high = third.images[0].get_clim()
    assert (low, high) == pytest.approx((0.005, 0.995), abs=1e-3)


@pytest.mark.parametrize("shape", [(48, 64), (10, 64), (64, 10)])
def test_panels_stand_in_rows_and_columns_and_meet_nothing(shape):
    """On the page, as wide and high as their image, below the name of their stage."""
    given = shown()
    labels = np.resize(given.labels, shape)
    given = replace(
        given, image=labels * 9.0, labels=labels, stages=dict.fromkeys((8, 4, 2, 1), labels)
    )
    figure = draw(given)
    wide, high = figure.get_size_inches()
    panels = [axes for axes in figure.axes if axes.get_title()]
    boxes = np.array([axes.get_position(original=True).extents for axes in panels])
    assert (boxes > 0).all()
    assert (boxes < 1).all()
    boxes *= [wide, high, wide, high]
    rows = np.unique(boxes[:, 1].round(6))
    columns = np.unique(boxes[:, 0].round(6))
    assert len(rows) * len(columns) == len(panels) == 20
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    assert np.ptp(width) < 1e-6
    assert np.ptp(height) < 1e-6
    ratio = float(np.clip(shape[0] / shape[1], 0.4, 2.5))
    assert height[0] / width[0] == pytest.approx(ratio)
    # room for a title above each, and for a colour bar beside it
    assert (np.diff(rows) - height[0] > 0.1).all()
    assert (np.diff(columns) - width[0] > 0.2).all()
    assert len({round(gap, 6) for gap in np.diff(columns)[1:]}) == 1
    assert high - boxes[:, 3].max() > 0.4
    heads = [one for one in figure.texts if one.get_text() in STAGES_IN_WORDS]
    assert [one.get_text() for one in heads] == STAGES_IN_WORDS
    for head, left in zip(heads, columns[1:], strict=True):
        x, y = head.get_position()
        assert x * wide == pytest.approx(left + width[0] / 2)
        assert boxes[:, 3].max() < y * high < high
    for axes in panels:
        assert axes.get_xlim() == (-0.5, shape[1] - 0.5)
        assert axes.get_ylim() == (shape[0] - 0.5, -0.5)
    named = [axes.get_ylabel() for axes in panels if axes.get_ylabel()]
    assert named == ["boundary", "detail", "scales", "nearby"]


STAGES_IN_WORDS = ["stage 1/8", "stage 1/4", "stage 1/2", "full size"]


def lines_of(axes):
    return [one for one in axes.get_children() if isinstance(one, PathPatch)]


@pytest.mark.parametrize("bright", [True, False])
def test_outlines_are_seen_on_what_lies_below_them(bright):
    given = shown()
    image = np.where(given.labels > 0, 9.0, 1.0) if bright else 9.0 - given.labels
    figure = draw(replace(given, image=image))
    on_image, black, white = ("#f0e442" if bright else "#000000"), "#000000", "#ffffff"
    for title, colour, n in (
        ("image and result", on_image, 1),
        ("mask at 1/8", on_image, 1),
        ("mask = result", on_image, 1),
        ("detail 1/4", white, 1),  # a dark map
        ("scale 2", black, 1),  # one that is white at 0
        ("boundary moved (px)", None, 0),
    ):
        lines = lines_of(panel(figure, title))
        assert [to_hex(one.get_edgecolor()) for one in lines] == [colour] * n, title
        assert all(not one.get_fill() for one in lines)


def test_what_a_stage_added_and_removed_is_coloured():
    stages = {stride: np.zeros((12, 12), np.int32) for stride in (8, 4, 2, 1)}
    stages[8][2:6, 2:6] = 1
    stages[4][2:6, 3:7] = 1  # moved by one
    stages[2][2:6, 3:7] = 1
    given = replace(shown(["aua_1"]), image=np.ones((12, 12)), labels=stages[2], stages=stages)
    figure = draw(given)
    assert len(panel(figure, "mask at 1/8").images) == 1  # nothing was before it
    over = panel(figure, "mask at 1/4").images[1].get_array()
    seen = {
        name: np.argwhere(np.isclose(over, to_rgba(colour)).all(-1)).tolist()
        for name, colour in (("added", ADDED), ("removed", REMOVED))
    }
    assert seen["added"] == [[y, 6] for y in range(2, 6)]
    assert seen["removed"] == [[y, 2] for y in range(2, 6)]
    assert not panel(figure, "mask at 1/2").images[1].get_array().any()
    gone = panel(figure, "mask = result").images[1].get_array()
    assert np.isclose(gone, to_rgba(REMOVED)).all(-1).sum() == 16
    (legend,) = figure.legends
    keys = [one.get_text() for one in legend.get_texts()]
    assert keys == ["added since the stage before", "removed"]
    colours = [to_rgba(one.get_facecolor()) for one in legend.get_patches()]
    assert colours == [to_rgba(ADDED), to_rgba(REMOVED)]


@pytest.mark.parametrize(
    ("size", "words", "pixels"), [(None, "10 px", 10), (0.4, "5 µm", 12.5)]
)
def test_a_scale_bar_is_as_long_as_it_says(size, words, pixels):
    axes = panel(draw(shown(["aua_1"], pixel_size_um=size)), "image and result")
    for line in axes.lines:
        (left, right), (one, other) = line.get_data()
        assert right - left == pytest.approx(pixels)
        assert one == other == pytest.approx(0.95 * 48 - 0.5)
        assert right == pytest.approx(0.95 * 64 - 0.5)
    assert [one.get_color() for one in axes.lines] == ["black", "white"]
    (text,) = axes.texts
    assert text.get_text() == words
    assert text.xy == pytest.approx((0.95 * 64 - 0.5 - pixels / 2, 0.95 * 48 - 0.5))
