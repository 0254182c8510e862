"""N:M masks: the methods' own rules, and equality with the official code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from bitsr.methods.binary.bireal import BiRealActivation, BiRealWeight
from bitsr.methods.binary.training import Unbinarized, UnbinarizedWeight
from bitsr.methods.masks.asp import ASP
from bitsr.methods.masks.bimask import BiMask, backward_mask, best_permutation
from bitsr.methods.masks.srste import SRSTE
from bitsr.methods.masks.sste import SSTE, soft_threshold
from bitsr.methods.masks.tmask import TMask, patterns, transposable_mask
from bitsr.parts.binary_layers import BinaryConv2d, BinaryLinear
from bitsr.parts.masks import Masks, magnitude_mask


def test_among_equals_the_first_are_kept() -> None:
    assert magnitude_mask(torch.ones(1, 4), 2, 4).int().tolist() == [[1, 1, 0, 0]]
    assert magnitude_mask(torch.tensor([[1.0, -2.0, 2.0, 1.0]]), 3, 4).int().tolist() == [[1, 1, 1, 0]]


def test_rows_are_whole_blocks() -> None:
    with pytest.raises(ValueError, match="3 inputs are no whole blocks of 4"):
        magnitude_mask(torch.ones(2, 3), 2, 4)


def test_there_are_ninety_transposable_patterns() -> None:
    assert patterns().shape == (90, 16) and len(patterns().unique(dim=0)) == 90


def test_transposable_masks_keep_two_of_four_both_ways() -> None:
    mask = transposable_mask(torch.randn(8, 12, generator=torch.Generator().manual_seed(0)))
    assert mask.view(8, 3, 4).sum(2).eq(2).all() and mask.view(2, 4, 12).sum(1).eq(2).all()


def test_backward_mask_is_sparse_along_the_permuted_outputs() -> None:
    generator = torch.Generator().manual_seed(1)
    weight, permutation = torch.randn(8, 12, generator=generator), torch.randperm(8, generator=generator)
    mask = magnitude_mask(weight, 2, 4)
    other = backward_mask(weight, mask, permutation, 2, 4)
    assert not (other & ~mask).any()
    assert other[permutation].view(2, 4, 12).sum(1).le(2).all()


MASKS = {
    "magnitude": lambda weight: Masks(2, 4, dense_gradient=False, decay=0.002),
    "sr-ste": lambda weight: SRSTE(),
    "asp": ASP,
    "t-mask": lambda weight: TMask(weight, refresh=2),
    "s-ste": SSTE,
    "bi-mask": lambda weight: BiMask(weight, interval=2),
}


@pytest.mark.parametrize("name", list(MASKS))
def test_two_of_four_stay_nonzero_after_every_step(name: str) -> None:
    torch.manual_seed(2)
    source = nn.Linear(16, 8)
    layer = BinaryLinear(source, BiRealActivation(16, -1), BiRealWeight(), MASKS[name](source.weight))
    optimizer = torch.optim.Adam(layer.parameters(), 0.05)
    before = layer.effective_weight()
    for step in range(5):
        layer.on_step(step, 5)
        loss = (layer(torch.randn(6, 16)) - 1).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert (layer.effective_weight() != 0).view(8, 4, 4).sum(2).eq(2).all()
    assert not torch.equal(before != 0, layer.effective_weight() != 0) or name == "asp"


def test_masks_are_renewed_at_their_interval_and_not_between() -> None:
    torch.manual_seed(4)
    weight = torch.randn(8, 16)
    t_mask, bi_mask = TMask(weight, refresh=3), BiMask(weight, interval=3)
    seen = []
    for step in range(7):
        weight = torch.randn(8, 16)
        for masks in (t_mask, bi_mask):
            masks.on_step(weight, step, 7)
        seen.append((t_mask.mask(weight).clone(), bi_mask.permutation.clone()))
    for kind in range(2):
        renewed = [step for step in range(1, 7) if not torch.equal(seen[step][kind], seen[step - 1][kind])]
        assert renewed == [3, 6]


def test_bi_mask_changes_only_the_gradient_of_the_input() -> None:
    torch.manual_seed(3)
    source = nn.Linear(16, 8)
    plain, other = (
        BinaryLinear(source, BiRealActivation(16, -1), BiRealWeight(), m) for m in (SRSTE(), BiMask(source.weight))
    )
    x = torch.randn(2, 5, 16).requires_grad_()
    gradients = []
    for layer in (plain, other):
        y = layer(x)
        (grad,) = torch.autograd.grad(y.square().sum(), x, retain_graph=True)
        (weight_grad,) = torch.autograd.grad(y.square().sum(), layer.weight)
        gradients.append((y, weight_grad, grad))
    assert torch.equal(gradients[0][0], gradients[1][0])
    torch.testing.assert_close(gradients[0][1], gradients[1][1])
    assert not torch.allclose(gradients[0][2], gradients[1][2])


@pytest.mark.parametrize("decay", [0.0002, 0.05])
@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("layer", ["linear.Sparse", "linear2.Sparse", "conv.Sparse_NHWC"])
def test_official_sr_ste(shared: Path, layer: str, keep: int, decay: float) -> None:
    tensors = load_file(shared / "golden/sparsity.safetensors")
    name, stem = f"srste.{layer}.{keep}of4.decay{decay}", f"srste.{layer.split('.')[0]}"
    weight = tensors[f"{stem}.weight"].clone().requires_grad_()
    masks = SRSTE(keep, 4, decay)
    mask = masks.mask(weight)
    y = masks.pruned(weight, mask, weight)
    y.backward(tensors[f"{stem}.grad_out"])
    assert torch.equal(mask, tensors[f"{name}.mask"].bool())
    assert torch.equal(y, tensors[f"{name}.y"])
    torch.testing.assert_close(weight.grad, tensors[f"{name}.grad"], rtol=0, atol=1e-7)


def test_official_bi_mask(shared: Path) -> None:
    tensors = load_file(shared / "golden/sparsity.safetensors")
    weight = tensors["bimask.2of4.weight_t"].t()
    mask = magnitude_mask(weight, 2, 4)
    assert torch.equal(mask.t(), tensors["bimask.2of4.forward_mask"].bool())
    best = best_permutation(weight, mask, list(tensors["bimask.2of4.candidate_permutations"]), 2, 4)
    assert torch.equal(best, tensors["bimask.2of4.best_permutation"])
    assert torch.equal(backward_mask(weight, mask, best, 2, 4).t(), tensors["bimask.2of4.backward_mask"].bool())


def masked_linear(weight: Tensor, masks: Masks, bias: Tensor | None = None) -> BinaryLinear:
    """Nothing but the mask: inputs and weights stay in floating point."""
    source = nn.Linear(weight.shape[1], len(weight), bias=bias is not None)
    source.weight.data = weight.clone()
    if bias is not None:
        source.bias.data = bias.clone()
    return BinaryLinear(source, Unbinarized(weight.shape[1], -1), UnbinarizedWeight(), masks)


def test_official_bi_mask_backwards(shared: Path) -> None:
    """Its convolution masks the weights as rows, which is a linear on unfolded patches."""
    tensors = load_file(shared / "golden/sparsity.safetensors")
    golden = {key.removeprefix("bimask.2of4.conv."): t for key, t in tensors.items() if "bimask.2of4.conv." in key}
    rows = golden["weight"].flatten(1)
    masks = BiMask(rows)
    masks.permutation = golden["permutation"]
    layer, x = masked_linear(rows, masks), golden["x"].clone().requires_grad_()
    y = layer(F.unfold(x, 3, padding=1).transpose(1, 2)).transpose(1, 2).view_as(golden["y"])
    y.backward(golden["grad_out"])
    assert torch.equal(masks.mask(rows).t(), golden["forward_mask"].bool())
    torch.testing.assert_close(y, golden["y"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x.grad, golden["grad_x"], rtol=1e-5, atol=1e-5)
    assert layer.weight.grad is not None
    torch.testing.assert_close(
        layer.weight.grad.view_as(golden["grad_weight"]), golden["grad_weight"], rtol=1e-5, atol=1e-4
    )


def test_official_s_ste_backwards(shared: Path) -> None:
    tensors = load_file(shared / "golden/sparsity.safetensors")
    golden = {key.removeprefix("sste.linear."): t for key, t in tensors.items() if "sste.linear." in key}
    weight = tensors["sste.weight"]
    layer, x = masked_linear(weight, SSTE(weight), golden["bias"]), golden["x"].clone().requires_grad_()
    y = layer(x)
    y.backward(golden["grad_out"])
    assert layer.bias is not None
    for ours, name in (
        (y, "y"),
        (x.grad, "grad_x"),
        (layer.weight.grad, "grad_weight"),
        (layer.bias.grad, "grad_bias"),
    ):
        torch.testing.assert_close(ours, golden[name], rtol=1e-5, atol=1e-5)


def test_official_sparse_convolution(shared: Path) -> None:
    tensors = load_file(shared / "golden/sparsity.safetensors")
    weight, bias, x, expected = (tensors[f"srste.sparseconv.{name}"] for name in ("weight", "bias", "x", "y"))
    masks = SRSTE()
    ours = F.conv2d(x, masks.pruned(weight, masks.mask(weight), weight), bias, padding=weight.shape[-1] // 2)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_official_s_ste_and_t_mask(shared: Path) -> None:
    tensors = load_file(shared / "golden/sparsity.safetensors")
    weight = tensors["sste.weight"]
    assert torch.equal(soft_threshold(weight), tensors["sste.soft_threshold"])
    masks = SSTE(weight)
    torch.testing.assert_close(masks.beta, tensors["sste.scale"])
    scaled = masks.latent(weight, masks.mask(weight))
    torch.testing.assert_close(scaled, tensors["sste.scaled_weight"])
    assert torch.equal(transposable_mask(weight), tensors["sste.transposable_mask"].bool())


def test_convolutions_are_masked_along_their_inputs() -> None:
    source = nn.Conv2d(8, 4, 3, padding=1)
    layer = BinaryConv2d(source, BiRealActivation(8, 1), BiRealWeight(), Masks(2, 4))
    assert (layer.effective_weight() != 0).view(4, 2, 4, 3, 3).sum(2).eq(2).all()
    assert layer(torch.randn(1, 8, 5, 6)).shape == (1, 4, 5, 6)
