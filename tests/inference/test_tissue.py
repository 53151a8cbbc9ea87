"""Glass is left out, and the cells of the tissue stay as they are."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from napari_sa2net.cli import run
from napari_sa2net.data import synthetic_nuclei
from napari_sa2net.data.plan import plan_image
from napari_sa2net.errors import SettingsError
from napari_sa2net.inference.segment import Tissue, find_tissue, segment
from napari_sa2net.interpret.attention import attention

#: Two pieces of tissue on a slide.
PIECES = (slice(30, 230), slice(40, 220)), (slice(480, 600), slice(560, 700))
#: For the network that knows such colours.
NUCLEI = {"model": "nuclei", "tile": 448, "diameter": 24.0, "table": False}


@pytest.fixture(scope="module")
def slide() -> np.ndarray:
    """Purple nuclei in pink tissue, on glass with dust and a shadow."""
    rng = np.random.default_rng(0)
    image = np.full((640, 760, 3), 236.0)
    image -= np.linspace(0, 12, 760)[None, :, None]
    for seed, piece in enumerate(PIECES):
        shape = [one.stop - one.start for one in piece]
        _, labels = synthetic_nuclei(shape=tuple(shape), n=40, diameter=18, seed=seed)
        image[piece] = np.where(labels[..., None] > 0, [95, 60, 140], [225, 170, 205])
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def test_where_it_is(slide):
    found = find_tissue(plan_image(slide))
    for rows, columns in PIECES:
        for y in range(rows.start, rows.stop, 10):
            for x in range(columns.start, columns.stop, 10):
                assert found.touches(y, y + 1, x, x + 1)
    assert not found.touches(330, 380, 0, 760)
    assert found.mask.mean() < 0.5


def test_it_is_where_it_was_in_other_numbers(slide):
    """Of 0 to 1, or of 16 bits."""
    found = find_tissue(plan_image(slide)).mask
    for other in (slide.astype(np.float32) / 255, slide.astype(np.uint16) * 257):
        np.testing.assert_array_equal(find_tissue(plan_image(other)).mask, found)


def test_tissue_without_glass_is_kept_whole(slide):
    assert find_tissue(plan_image(slide[PIECES[0]])).mask.all()


def test_the_same_cells_of_fewer_tiles(slide):
    whole = segment(slide, **NUCLEI)
    part = segment(slide, tissue=True, **NUCLEI)
    assert part.n_tiles < 0.6 * whole.n_tiles
    for piece in PIECES:
        np.testing.assert_array_equal(part.labels[piece] > 0, whole.labels[piece] > 0)
        assert len(np.unique(part.labels[piece])) == len(np.unique(whole.labels[piece])) > 10
    assert not part.labels[450:, :100].any()
    assert part.probability[0, 450:, :100].min() == 1
    assert part.provenance["settings"]["predict"]["tissue"]


def test_in_blocks(slide, tmp_path):
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, slide, photometric="rgb")
    more = ("--tile", "448", "--diameter", "24", "--tissue")
    assert run(["segment", str(path), "-o", str(tmp_path / "one"), *more]) == 0
    for part in ("1/2", "2/2"):
        shard = ("-o", str(tmp_path / "out"), *more, "--block", "100", "--shard", part)
        assert run(["segment", str(path), *shard]) == 0
    blocks = list((tmp_path / "out" / "extra" / "blocks" / "slide").glob("block-*.npy"))
    glass = [one for one in blocks if not np.load(one).size]
    assert 0.3 < len(glass) / len(blocks) < 0.9
    assert run(["segment", str(path), *shard[:-1], "join"]) == 0
    expected = tifffile.imread(tmp_path / "one" / "slide.tif")
    assert expected.max() > 20
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "slide.tif"), expected)
    assert (tmp_path / "one/objects.csv").read_text() == (
        tmp_path / "out/objects.csv"
    ).read_text()


def test_where_it_cannot_be(tiny_model, slide):
    with pytest.raises(SettingsError, match="colour"):
        segment(slide[..., 0], tiny_model, diameter=18.0, tissue=True)
    with pytest.raises(SettingsError, match="leave out tissue"):
        attention(slide, tiny_model, tissue=True)


@pytest.mark.parametrize(
    ("pieces", "tissue"),
    [
        # rows, colour; on glass of 200
        ([((0, 400), (168, 168, 168))], [(0, 400)]),
        ([((0, 400), (172, 172, 172))], []),
        # glass is what is brightest, but for little
        ([((0, 984), (150, 150, 150))], [(0, 984)]),
        ([((0, 8), (255, 255, 255))], []),
        ([((0, 16), (255, 255, 255))], [(24, 1000)]),
        # little colour, beside much
        (
            [((0, 200), (100, 200, 200)), ((600, 1000), (200, 200, 178))],
            [(0, 200), (600, 1000)],
        ),
        ([((0, 200), (100, 200, 200)), ((600, 1000), (200, 200, 182))], [(0, 200)]),
        # the same without anything else of colour
        ([((600, 1000), (200, 200, 182))], [(600, 1000)]),
    ],
)
def test_tissue_is_darker_than_glass_or_has_colour(pieces, tissue):
    image = np.full((1000, 80, 3), 200, np.uint8)
    for (start, stop), colour in pieces:
        image[start:stop] = colour
    found = find_tissue(plan_image(image))
    expected = np.zeros(1000, bool)
    for start, stop in tissue:  # and what lies around it
        expected[max(0, start - 64) : stop + 64] = True
    for y in range(4, 1000, 8):
        assert found.touches(y, y + 1, 0, 80) == expected[y], y


@pytest.mark.parametrize(
    ("part", "touches"),
    [
        ((20, 30, 30, 40), True),
        ((29, 30, 39, 40), True),
        ((20, 21, 30, 31), True),
        ((0, 20, 0, 80), False),
        ((30, 80, 0, 80), False),
        ((0, 80, 0, 30), False),
        ((0, 80, 40, 80), False),
        ((0, 21, 0, 31), True),
    ],
)
def test_parts_that_touch_tissue(part, touches):
    mask = np.zeros((8, 8), bool)
    mask[2, 3] = True
    tissue = Tissue(mask, 10)
    assert tissue.touches(*part) == touches
    y0, y1, x0, x1 = part
    moved = tissue.seen_from({"Y": -5, "X": -7})
    assert moved.touches(y0 + 5, y1 + 5, x0 + 7, x1 + 7) == touches
