"""The exponents γ of a model in words."""

from __future__ import annotations

from napari_sa2net.config import NetworkConfig
from napari_sa2net.models.card import gamma_rows


def test_an_ordinary_network_has_one_number() -> None:
    assert gamma_rows(NetworkConfig()) == [("Selectivity", "1 (ordinary attention)")]
    same = NetworkConfig(gamma=(2.0, 2.0, 2.0, 2.0))
    assert gamma_rows(same) == [("Selectivity", "2 (at every scale)")]


def test_every_scale_is_named_and_modules_that_are_not_there_are_off() -> None:
    network = NetworkConfig(
        kind="focal_unet",
        gates=(True, False, True, True),
        gamma=(1.23456, 1.0, 1.0, 0.0),
        se=(False, True, True, True),
        se_gamma=(1.0, 0.5, 1.0, 3.0),
    )
    assert gamma_rows(network) == [
        ("Selectivity", "1/8: 1.23 · 1/4: off · 1/2: 1 · full: 0"),
        ("Feature selectivity", "1/8: off · 1/4: 0.5 · 1/2: 1 · full: 3"),
    ]
