"""BSSR+: the file of BSSR, trained better.

What is ours here, part by part (`BSSRPlus` switches each of them):

- The start.  BSSR takes signs, mask and scales from the full-precision weights as they are, though their inputs become
  signs.  Here they are fitted to the outputs on real inputs, layer after layer, see `sign_start`.
- Scales of the groups are parameters.  Those of BSSR follow from the weights and get no gradient.
- Signs are those of the weights.  BSSR subtracts the mean of a group first, which turns some around.
- The surrogate of the weights' signs is that of normal weights, W / scale; on raw weights of 0.05 a tanh of slope 0.5
  is a constant.
- Weights that are not kept get the gradient of the loss (as in SR-STE), and no pull to zero, so that the mask can move.
- The gradient of the inputs' signs is Bi-Real's, which ends at |z| = 1.
- A diagonal, a sparse and a low-rank branch on the unrounded input, in half precision: the only parts that cost bytes.
  The last two are those of BiMaCoSR, in its order.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitsr.methods.binary.bssr import BSQ, BSSRLinear, BSSRMasks
from bitsr.methods.binary.config import BSSRPlus
from bitsr.methods.binary.sign_start import fit_signs, latent_weight, lloyd_thresholds
from bitsr.methods.ptq.svdquant import low_rank, second_moment_root
from bitsr.parts.branches import Diagonal, LowRank, Sparse


def never_zero(scale: Tensor) -> Tensor:
    """At least a thousandth of the layer's mean: |scale| has no gradient at 0, and would stay there."""
    return torch.maximum(scale, scale.mean() / 1000)


class LearnedScales(BSQ):
    """mask * s_k * sign(W), each s_k a parameter, which learns at the rate of the weights that it stands for."""

    def __init__(self, weight: Tensor, config: BSSRPlus, kappa: nn.Parameter | None = None) -> None:
        rows, width = weight.shape
        super().__init__(rows, width, config, kappa)
        kept = BSSRMasks(config).mask(weight)
        firsts = torch.tensor((0, *self.groups[:-1])).cumsum(0)  # type: ignore[index]
        self.learned = nn.Parameter(never_zero(self.scales.mean(weight.detach().abs(), kept)[:, firsts]))

    def group_scale(self, weight: Tensor, mean: Tensor, kept: Tensor) -> Tensor:
        sizes = torch.tensor(self.groups, device=weight.device)
        return self.learned.abs().repeat_interleave(sizes, 1)


class BSSRPlusLinear(BSSRLinear):
    """A linear of signs whose scales are learned, with branches."""

    config: BSSRPlus

    def __init__(
        self, source: nn.Linear, config: BSSRPlus, kappa_w: nn.Parameter | None = None,
        kappa_a: nn.Parameter | None = None,
    ) -> None:  # fmt: skip
        super().__init__(source, config, kappa_w, kappa_a)
        self.masks = BSSRMasks(config, dense_gradient=config.masked_gradient)
        if config.diagonal:
            self.branches.append(Diagonal(source.in_features, source.out_features))
        if config.sparse:
            few = Sparse(source.in_features, source.out_features, config.sparse * max(source.weight.shape))
            few.take(source.weight.detach())
            with torch.no_grad():
                self.weight.sub_(few.weight())
            self.branches.append(few)
        if config.rank:
            self.branches.append(LowRank(source.in_features, source.out_features, config.rank))
        if config.learned_scale:
            self.binarizer = LearnedScales(self.weight, config, kappa_w)

    @torch.no_grad()
    def fit(self, x: Tensor, target: Tensor) -> None:
        """Start as the layer of signs that makes the rows ``target`` (N, out) out of the rows ``x`` (N, in) best."""
        activation, binarizer = self.activation, self.binarizer
        assert isinstance(binarizer, LearnedScales) and activation.gain is not None and activation.shift is not None
        assert binarizer.groups is not None and self.masks is not None
        rest = target
        for branch in self.branches:
            fit_branch(branch, x, rest)
            rest = rest - branch(x)
        activation.gain.copy_(1 / x.std(0).clamp_min(1e-6))
        activation.shift.copy_(-lloyd_thresholds(x) * activation.gain)
        fitted = fit_signs(activation(x), rest, binarizer.groups, self.masks.keep, self.masks.block)
        self.weight.copy_(latent_weight(fitted, binarizer.groups))
        binarizer.learned.copy_(never_zero(fitted.scale))
        if self.bias is not None:
            self.bias.copy_(fitted.bias)


def fit_branch(branch: nn.Module, x: Tensor, target: Tensor) -> None:
    """By least squares, of centred values: the bias takes the means.  A sparse branch gets those weights that matter
    most to the output, by their size times the deviation of their input."""
    x, y = x - x.mean(0), target - target.mean(0)
    if isinstance(branch, Diagonal):
        passed = branch.passed(x)
        branch.factor.copy_((passed * y).sum(0) / passed.square().sum(0).clamp_min(1e-12))
        return
    root = second_moment_root(x)
    full = torch.cholesky_solve(x.double().T @ y.double() / len(x), root).T
    if isinstance(branch, Sparse):
        branch.take(full.float(), full.float().abs() * x.std(0))
    elif isinstance(branch, LowRank):
        up, down = low_rank(full.float(), branch.down.out_features, root)
        branch.down.weight.copy_(down)
        branch.up.weight.copy_(up)
