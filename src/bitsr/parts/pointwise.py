"""Convolutions of 1x1 as the linears that they are."""

from __future__ import annotations

from torch import Tensor, nn


class PointwiseLinear(nn.Module):
    """NCHW: what the 1x1 convolution ``source`` computes, by a linear on the channels."""

    def __init__(self, source: nn.Conv2d) -> None:
        super().__init__()
        self.linear = nn.Linear(source.in_channels, source.out_channels, bias=source.bias is not None)
        self.linear.weight = nn.Parameter(source.weight.detach().flatten(1).clone())
        if source.bias is not None:
            self.linear.bias = nn.Parameter(source.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x.movedim(1, -1))
        return y.movedim(-1, 1)


def is_pointwise(module: nn.Module) -> bool:
    """Whether it is a convolution that sees one position at a time, all channels of it, and skips none."""
    return (
        isinstance(module, nn.Conv2d)
        and set(module.kernel_size) == set(module.stride) == {1}
        and module.groups == 1
        and module.padding in (0, (0, 0), "valid")
    )


def pointwise_as_linears(root: nn.Module) -> None:
    """Replaces the 1x1 convolutions of ``root``, in place."""
    for name, module in list(root.named_modules()):
        if name and is_pointwise(module):
            root.set_submodule(name, PointwiseLinear(module))  # type: ignore[arg-type]
