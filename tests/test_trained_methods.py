"""Methods that train: the hooks that the loop calls, and what they leave."""

import torch
from torch import nn

from bitsr.methods.training_method import FullPrecision, TrainingMethod
from bitsr.parts.layers import QuantConv2d, QuantLinear


def test_full_precision_trains_a_copy_and_freezes_a_copy():
    method: TrainingMethod = FullPrecision()
    model = nn.Conv2d(3, 3, 3).eval().requires_grad_(False)
    student = method.prepare(model)
    (group,) = method.parameter_groups(student)
    assert student.training and group["lr_factor"] == 1 and len(group["params"]) == 2
    assert all(p.requires_grad for p in group["params"])
    before = model.weight.clone()
    frozen = method.freeze(student)
    with torch.no_grad():
        student.weight += 1
    assert torch.equal(model.weight, before) and torch.equal(frozen.weight, before)
    assert not frozen.training and not any(p.requires_grad for p in frozen.parameters())


def test_weight_quantizer_maps_the_weight_while_it_is_trained():
    torch.manual_seed(0)
    for source, twin, x in (
        (nn.Linear(4, 3), QuantLinear, torch.randn(2, 4)),
        (nn.Conv2d(4, 3, 3), QuantConv2d, torch.randn(1, 4, 5, 5)),
    ):
        layer = twin(source, 1, 32)
        layer.weight_quantizer = nn.Hardtanh(-0.1, 0.1)
        layer(x).sum().backward()
        clipped = source.weight.detach().abs() > 0.1
        assert clipped.any() and not layer.weight.grad[clipped].any() and layer.weight.grad[~clipped].any()
        expected = nn.functional.hardtanh(source.weight, -0.1, 0.1)
        assert torch.equal(layer.effective_weight(), expected)
