"""The networks: SA2-Net and FocalUNet, focal attention, and attention capture."""

from napari_sa2net.nn.base import STRIDE, SegmentationNet, pad_to_stride
from napari_sa2net.nn.build import (
    Network,
    make_network,
    network_config,
    without_idle_modules,
)
from napari_sa2net.nn.capture import ATTENTION_NAMES, capture_attention
from napari_sa2net.nn.focal import (
    FocalExponent,
    FocalGate,
    FocalSE,
    fixed_statistics,
    pooled_over,
    pooled_statistics,
    pools_globally,
)
from napari_sa2net.nn.focal_unet import FocalUNet
from napari_sa2net.nn.sa2net import SA2Net

__all__ = [
    "ATTENTION_NAMES",
    "STRIDE",
    "FocalExponent",
    "FocalGate",
    "FocalSE",
    "FocalUNet",
    "Network",
    "SA2Net",
    "SegmentationNet",
    "capture_attention",
    "fixed_statistics",
    "make_network",
    "network_config",
    "pad_to_stride",
    "pooled_over",
    "pooled_statistics",
    "pools_globally",
    "without_idle_modules",
]
