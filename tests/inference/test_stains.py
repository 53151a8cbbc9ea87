"""Brown of immunohistochemistry: nuclei under it are seen, and brown nuclei stay."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch
from scipy import ndimage
from skimage.color import hed2rgb

from napari_sa2net.cli import run
from napari_sa2net.config import InputConfig, PredictConfig
from napari_sa2net.data import synthetic_nuclei
from napari_sa2net.data.levels import brown_share, remove_dab, white_of
from napari_sa2net.data.plan import plan_image
from napari_sa2net.errors import SettingsError
from napari_sa2net.inference.predict import Predictor
from napari_sa2net.inference.segment import look_first, predict_image, segment
from napari_sa2net.interpret.attention import attention
from napari_sa2net.interpret.explain import explain
from napari_sa2net.models import load_model
from napari_sa2net.training.live import LivePlane

#: Amounts of stains as scikit-image counts them.
BLUE, BROWN = 0.12, 0.22


def tissue(brown: str, shape: tuple[int, int] = (256, 256)) -> tuple[np.ndarray, np.ndarray]:
    """Blue nuclei with something brown, uint8 RGB, and the labels of the nuclei."""
    _, labels = synthetic_nuclei(
        shape=shape, n=shape[0] * shape[1] // 1300, diameter=22, seed=4
    )
    rng = np.random.default_rng(1)
    grain = np.exp(0.35 * ndimage.gaussian_filter(rng.standard_normal(shape), 1.2) / 0.24)
    inside = ndimage.gaussian_filter((labels > 0).astype(float), 0.8)
    stains = np.zeros((*shape, 3))
    stains[..., 0] = BLUE * inside * grain + 0.01
    if brown == "cytoplasm":
        stains[..., 2] = BROWN * (1 - 0.6 * inside) * grain
    elif brown == "nuclei":
        half = ndimage.gaussian_filter((labels % 2 == 1).astype(float), 0.8)
        stains[..., 2] = BROWN * half * grain
        stains[..., 0] *= 1 - 0.95 * half
    return np.rint(np.clip(hed2rgb(stains), 0, 1) * 255).astype(np.uint8), labels


def first(image: np.ndarray) -> np.ndarray:
    return np.moveaxis(image, -1, 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_without_dab_the_other_stains_are_left(dtype) -> None:
    def seen(stains: list[float]) -> np.ndarray:
        light = np.clip(hed2rgb(np.full((4, 4, 3), stains)), 0, 1)
        white = 1 if dtype is np.float32 else np.iinfo(dtype).max
        scaled = light * white
        return first(scaled.astype(dtype) if white == 1 else np.rint(scaled).astype(dtype))

    for blue, pink in ((0.0, 0.0), (0.1, 0.0), (0.05, 0.05)):
        white = 1 if dtype is np.float32 else np.iinfo(dtype).max
        without = remove_dab(seen([blue, pink, 0.15]), white)
        assert without.dtype == dtype
        off = np.abs(without / white - seen([blue, pink, 0.0]) / white)
        assert off.max() < 0.02


def test_brown_is_told_from_blue_pink_yellow_and_grey() -> None:
    for stains, share in (([0.1, 0, 0], 0), ([0, 0.1, 0], 0), ([0, 0, 0.1], 1)):
        light = np.rint(hed2rgb(np.full((4, 4, 3), stains)) * 255).astype(np.uint8)
        assert brown_share(first(light), 255) == share
    for colour in ([90, 90, 90], [250, 240, 190], [255, 255, 255], [0, 0, 0]):
        assert brown_share(first(np.full((4, 4, 3), colour, np.uint8)), 255) == 0
    empty = np.full((3, 4, 4), np.nan, np.float32)
    assert brown_share(empty, 1) == 0


def test_only_what_has_colours_has_brown() -> None:
    image, _ = tissue("cytoplasm", (96, 96))
    assert plan_image(image).has_dab
    assert not plan_image(tissue("none", (96, 96))[0]).has_dab
    assert not plan_image(image[..., 0]).has_dab
    assert not plan_image(image, channels=(0, 1)).has_dab
    assert not plan_image(first(image), axes="CYX").has_dab
    assert not plan_image(image[:0]).has_dab


def test_a_plan_without_dab_is_that_of_the_image_without_it() -> None:
    image, _ = tissue("cytoplasm", (96, 128))
    other = plan_image(np.moveaxis(remove_dab(first(image), 255), 0, -1))
    plan = plan_image(image)
    before = plan.read((), 0, 96, 0, 128)
    without = plan.without_dab()
    assert without.removes_dab
    assert without.without_dab() is without
    np.testing.assert_array_equal(without.levels, other.levels)
    np.testing.assert_array_equal(
        without.read((), 0, 96, 0, 128), other.read((), 0, 96, 0, 128)
    )
    # a part, whichever was first; and the values themselves stay
    for part in (
        without.part(box=(10, 60, 20, 90)),
        plan.part(box=(10, 60, 20, 90)).without_dab(),
    ):
        assert part.removes_dab
        assert part.whole.removes_dab
        assert part.box == (10, 60, 20, 90)
        np.testing.assert_array_equal(
            part.read((), 0, 50, 0, 70), other.read((), 10, 60, 20, 90)
        )
        np.testing.assert_array_equal(
            part.read_raw((), 0, 50, 0, 70), first(image)[:, 10:60, 20:90]
        )
    assert not plan.removes_dab
    np.testing.assert_array_equal(plan.read((), 0, 96, 0, 128), before)


@pytest.mark.parametrize("brown", ["cytoplasm", "nuclei", "none"])
def test_the_brown_goes_where_more_is_seen_without_it(brown) -> None:
    image, labels = tissue(brown)
    found = {
        way: segment(image, model="nuclei", dab=way, diameter=22, table=False)
        for way in ("auto", "keep", "remove")
    }
    n = {way: int(one.labels.max()) for way, one in found.items()}
    took = found["auto"].provenance["settings"]["predict"]["dab"]
    best = "remove" if brown == "cytoplasm" else "keep"
    np.testing.assert_array_equal(found["auto"].labels, found[best].labels)
    assert took == best
    assert n["auto"] > 0.7 * labels.max()
    if brown == "cytoplasm":
        assert n["remove"] > 1.3 * n["keep"]


def test_the_search_for_size_goes_on_where_it_looks_twice() -> None:
    image, _ = tissue("cytoplasm")
    told: list[tuple[int, int, str]] = []
    predictor = Predictor(load_model("nuclei"))
    _, plan, diameter, scale = look_first(
        predictor, plan_image(image), progress=lambda *one: told.append(one)
    )
    assert plan.removes_dab
    assert diameter == pytest.approx(22, rel=0.25)
    assert scale == pytest.approx(28 / diameter)
    words = list(dict.fromkeys(what for *_, what in told))
    assert words == [
        "finding the size of the cells",
        "looking with and without the brown stain",
        "looking whether the model has to be adapted",
    ]
    for what in words:
        stage = [(i, n) for i, n, said in told if said == what]
        assert [i for i, _ in stage] == sorted(i for i, _ in stage)
        assert len({n for _, n in stage}) == 1
        assert stage[0][0] == 0
        assert stage[-1][0] <= stage[-1][1]


def test_a_box_is_seen_as_in_the_whole_image() -> None:
    """Also one in which nothing is brown."""
    image, _ = tissue("cytoplasm")
    image[:, 180:] = tissue("none")[0][:, 180:]
    model = load_model("nuclei")
    predictor = Predictor(model, PredictConfig(diameter=22))
    whole = plan_image(image)
    _, plan, _, _ = look_first(predictor, whole)
    assert plan.removes_dab
    made = predict_image(model, whole.part(box=(0, 256, 190, 256)), predictor=predictor)
    assert made.plan.removes_dab
    assert made.record(model.card.instance)["settings"]["predict"]["dab"] == "remove"


def test_what_looks_inside_sees_the_same() -> None:
    image, _ = tissue("cytoplasm", (160, 160))
    cells = segment(image, model="nuclei", diameter=22, table=False)
    why = explain(image, model="nuclei", diameter=22)
    np.testing.assert_array_equal(why.labels, cells.labels)
    assert why.provenance["settings"]["predict"]["dab"] == "remove"
    auto, keep = (
        attention(image, "nuclei", diameter=22, dab=way)["global_query"]
        for way in ("auto", "keep")
    )
    assert not np.allclose(auto, keep)
    model = load_model("nuclei")
    plane = LivePlane(Predictor(model, PredictConfig(diameter=22)), plan_image(image), ())
    assert plane.plan.removes_dab


def test_in_blocks(tmp_path) -> None:
    path = tmp_path / "ihc.tif"
    tifffile.imwrite(path, tissue("cytoplasm")[0], photometric="rgb")
    more = ("--tile", "448", "--diameter", "22")
    assert run(["segment", str(path), "-o", str(tmp_path / "one"), *more]) == 0
    assert (
        run(["segment", str(path), "-o", str(tmp_path / "kept"), *more, "--dab", "keep"]) == 0
    )
    for part in ("1/2", "2/2", "join"):
        shard = ("-o", str(tmp_path / "out"), *more, "--block", "128", "--shard", part)
        assert run(["segment", str(path), *shard]) == 0
    one, out, kept = (
        tifffile.imread(tmp_path / name / "ihc.tif") for name in ("one", "out", "kept")
    )
    np.testing.assert_array_equal(out, one)
    assert one.max() > 1.3 * kept.max()


def test_where_nothing_can_be_removed(tiny_model) -> None:
    grey = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    with pytest.raises(SettingsError, match="leave out --dab"):
        segment(grey, tiny_model, diameter=18.0, dab="remove")
    assert segment(grey, tiny_model, diameter=18.0, dab="auto").labels.shape == (64, 64)


def test_values_that_go_in_as_they_are_know_the_stain_too() -> None:
    image, _ = tissue("cytoplasm", (64, 64))
    light = image.astype(np.float32) / 255
    plan = plan_image(light, normalize=False, model_input=InputConfig()).without_dab()
    seen = plan.read((), 0, 64, 0, 64)
    np.testing.assert_allclose(seen, remove_dab(first(light), 1), atol=1e-6)
    assert torch.isfinite(torch.from_numpy(seen)).all()


@pytest.mark.parametrize(
    ("dtype", "white"),
    [
        (np.float32, 255),
        (np.float64, 1.04),
        (np.uint16, 255),
        (np.uint16, 4095),
        (np.int64, 255),
        (np.uint32, 65535),
    ],
)
def test_white_is_as_bright_as_the_values_are(dtype, white) -> None:
    image, _ = tissue("cytoplasm", (96, 96))
    light = image / 255 * white
    plan = plan_image(
        (light if dtype in (np.float32, np.float64) else np.rint(light)).astype(dtype)
    )
    assert plan.has_dab
    of_bytes = plan_image(image).without_dab().read((), 0, 96, 0, 96)
    without = plan.without_dab().read((), 0, 96, 0, 96)
    assert np.abs(without - of_bytes).mean() < 0.02
    # a part of it that is dark is of the same white
    part = plan.part(box=(20, 60, 20, 60)).without_dab()
    np.testing.assert_array_equal(part.read((), 0, 40, 0, 40), without[:, 20:60, 20:60])


def test_an_image_as_large_as_it_is_is_asked_too() -> None:
    image = ndimage.zoom(tissue("cytoplasm")[0], (28 / 22, 28 / 22, 1), order=1)
    made = segment(image, model="nuclei", rescale=False, table=False)
    assert made.provenance["settings"]["predict"]["dab"] == "remove"
    assert made.plan.removes_dab
    assert made.diameter is None


def test_the_levels_without_the_stain_are_measured_once() -> None:
    class Counted:
        def __init__(self, image: np.ndarray) -> None:
            self.image, self.shape, self.dtype = image, image.shape, image.dtype
            self.n = 0

        def __getitem__(self, key) -> np.ndarray:
            self.n += self.image[key].size
            return self.image[key]

    lazy = Counted(tissue("cytoplasm", (96, 96))[0])
    plan = plan_image(lazy)
    assert plan.has_dab
    for box in ((0, 50, 0, 50), (40, 90, 40, 90)):
        assert plan.part(box=box).without_dab().box == box
    _ = plan.without_dab().levels
    assert lazy.n == 2 * lazy.image.size


def test_values_that_float32_does_not_hold_have_a_white_too() -> None:
    huge = np.full((3, 4, 4), 3.4028235677973366e38)
    assert brown_share(huge, white_of(huge)) == 0
