"""BBCU: the basic binary convolution unit of image restoration.

Xia et al., "Basic Binary Convolution Unit for Binarized Image Restoration Network", ICLR 2023:
y = x + RPReLU(BinConv(sign(x + shift))), no normalization, the shortcut outside the activation.  Weight and sign are
those of ReActNet.
"""

from __future__ import annotations

from torch import nn

from bitsr.methods.binary.reactnet import ReActNetWeight, RSign
from bitsr.parts.binarizers import RPReLU
from bitsr.parts.binary_layers import BinaryConv2d


def unit(source: nn.Conv2d, shortcut: bool = True) -> BinaryConv2d:
    """The binary twin of a convolution with an RPReLU, and with a shortcut where widths and stride allow."""
    fits = shortcut and source.in_channels == source.out_channels and source.stride == (1, 1)
    return BinaryConv2d(
        source, RSign(source.in_channels, 1), ReActNetWeight(), rprelu=RPReLU(source.out_channels, 1),
        shortcut="after" if fits else "none",
    )  # fmt: skip
