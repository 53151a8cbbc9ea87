"""How large an image is to the network."""

from __future__ import annotations

from napari_sa2net.inference.tiles import STRIDE

MIN_SCALE, MAX_SCALE = 1 / 8, 8.0
#: Scales this close to 1 are 1: resampling would cost more than it brings.
SCALE_TOLERANCE = 0.05


def network_scale(
    diameter: float | None, model_diameter: float | None, spatial: tuple[int, int]
) -> float:
    """Network pixels per image pixel for objects of a diameter.

    Parameters
    ----------
    diameter, model_diameter : float or None
        Typical object diameter in the image and in the model's training images (px);
        either unknown gives 1.
    spatial : (H, W) of the image

    Returns
    -------
    float
        In 1/8…8, exactly 1 when within 5 %, and not so small that the shorter side falls
        below 16 network pixels.
    """
    if not diameter or not model_diameter:
        return 1.0
    smallest = min(1.0, STRIDE / max(1, min(spatial)))
    scale = min(max(model_diameter / diameter, MIN_SCALE, smallest), MAX_SCALE)
    return 1.0 if abs(scale - 1) < SCALE_TOLERANCE else scale
