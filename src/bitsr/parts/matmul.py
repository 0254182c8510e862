"""The matrix product as a module."""

from torch import Tensor, nn


class MatMul(nn.Module):
    """a @ b, as a module of its own so that compression can find and replace it (attention scores and values).

    ``softmax``: whether the rows of a are weights, as a softmax makes them: none below 0, the largest above.
    """

    def __init__(self, softmax: bool = False) -> None:
        super().__init__()
        self.softmax = softmax

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b
