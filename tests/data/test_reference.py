"""The reference set never changes, or scores of last year could not be compared."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sa2net.data import samples as reference
from napari_sa2net.data.samples import REFERENCE_SHA256, reference_digest, reference_images


@pytest.fixture(scope="module")
def images():
    return list(reference_images())


def test_no_pixel_has_changed(images, monkeypatch):
    monkeypatch.setattr(reference, "reference_images", lambda: iter(images))  # drawn once
    assert reference_digest() == REFERENCE_SHA256


def test_the_set_shows_what_its_names_say(images):
    assert len({one.name for one in images}) == 12
    for one in images:
        kind, _, density = one.name.split("-")
        assert one.image.shape[:2] == one.labels.shape
        assert (one.image.ndim == 3) == (kind == "stained")
        areas = np.bincount(one.labels.ravel())[1:]
        assert (areas > 0).all()
        drawn = np.sqrt(np.median(areas) * 4 / np.pi)
        assert 0.6 < drawn / one.diameter < 1.3, (one.name, drawn)
        covered = (one.labels > 0).mean()
        assert covered > 0.4 if density == "crowded" else covered < 0.25
    assert len({one.diameter for one in images}) == 3


def test_one_kind_is_the_same_as_in_the_whole_set(images):
    other = next(reference_images("stained"))
    assert other.kind == "stained"
    one = next(one for one in images if one.name == other.name)
    assert (one.image == other.image).all()
    assert (one.labels == other.labels).all()
