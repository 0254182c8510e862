"""From torch modules to programs: explicit, one small file per network, no tracing.

    program = lower(module)
    save(module, "model.bitsr")

Networks of your own: :func:`register_lowering`, or a method ``lower(self, builder, x)`` on the module.
"""

from bitsr.lowering import (  # noqa: F401  (each registers what it lowers)
    binary,
    blocks,
    edsr,
    espcn,
    hat,
    imdn,
    layers,
    mambairv2,
    msrresnet,
    rfdn,
    rrdbnet,
    srcnn,
    srresnet,
    srvgg,
    swinir,
)  # fmt: skip
from bitsr.lowering.builder import Builder
from bitsr.lowering.entry import lower, save
from bitsr.lowering.registry import register_lowering

__all__ = ["Builder", "lower", "register_lowering", "save"]
