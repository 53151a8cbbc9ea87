"""The network: SA2-Net, its blocks, the focal exponent, and attention capture."""

from napari_sa2net.nn.capture import ATTENTION_NAMES, capture_attention
from napari_sa2net.nn.focal import FocalExponent
from napari_sa2net.nn.sa2net import STRIDE, SA2Net, pad_to_stride

__all__ = [
    "ATTENTION_NAMES",
    "STRIDE",
    "FocalExponent",
    "SA2Net",
    "capture_attention",
    "pad_to_stride",
]
