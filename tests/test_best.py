"""The default method: what its stages do, and what efforts buy."""

import pytest
import torch

import bitsr
import tiny
from bitsr.errors import ConfigError
from bitsr.methods.compress import compress
from bitsr.methods.ptq.best import EFFORTS, code_rates, effort_of, undecide
from bitsr.methods.ptq.distill import train
from bitsr.methods.ptq.pipeline import begin, to_batches
from bitsr.methods.registry import config_for, config_from, dump_config, stages_of
from bitsr.parts.layers import QuantLayer, QuantMatMul, quantized_layers
from bitsr.parts.quantizer import AffineQuantizer
from ptq_quick import NETWORKS, distance, quick


def layers_of(model):
    return [layer for layer in quantized_layers(model).values() if isinstance(layer, QuantLayer)]


@pytest.mark.parametrize("bits", [2, 4])
def test_codes_that_may_change_again_start_as_they_were(bits, pictures):
    work = begin(tiny.make("edsr"), pictures, quick("best", bits, learn_steps="0"), 0)
    for stage in stages_of(work.config):
        stage(work)
    layer = next(x for x in work.layers.values() if isinstance(x, QuantLayer) and x.w_bits == bits)
    codes, before = layer.decided.codes, layer.effective_weight().detach()
    undecide(layer)
    assert layer.decided is None and torch.allclose(layer.effective_weight(), before, atol=1e-6)
    layer.weight.requires_grad_(True)
    layer.effective_weight().sum().backward()
    inside = (codes > 0) & (codes < 2**bits - 1)  # beyond the ends of a grid nothing is passed on
    assert inside.any() and (layer.weight.grad[inside] == 1).all()
    layer.decide()
    assert torch.equal(layer.decided.codes, codes)


def test_codes_of_eight_bits_stay(pictures):
    work = begin(tiny.make("edsr"), pictures, quick("best", learn_steps="0"), 0)
    for stage in stages_of(work.config):
        stage(work)
    learned = {id(weight) for weight, _ in code_rates(work, 0.02)}
    for layer in work.layers.values():
        assert (id(layer.weight) in learned) == (layer.w_bits < 8) == (layer.decided is None)


@pytest.mark.parametrize("name", NETWORKS)
def test_learned_codes_bring_the_network_closer_than_learned_bounds(name, pictures):
    model = tiny.make(name)
    x = torch.cat(to_batches(pictures))
    none, bounds, codes = (
        distance(compress(model, quick("best", 3, **options), pictures), model, x)
        for options in ({"learn_steps": "0"}, {"learn_steps": "45", "learn_rate": "0"}, {"learn_steps": "45"})
    )
    assert codes < bounds < none


def test_nothing_is_learned_at_eight_bits_and_codes_are_gptqs_without_a_rate(pictures):
    assert len(stages_of(config_for("best", 8, 8))) == 3 and len(stages_of(config_for("best", 8, 4))) == 4
    model = tiny.make("edsr")
    start, bounds = (
        layers_of(compress(model, quick("best", **options), pictures))
        for options in ({"learn_steps": "0"}, {"learn_steps": "5", "learn_rate": "0"})
    )
    assert all(torch.equal(a.decided.codes, b.decided.codes) for a, b in zip(start, bounds, strict=True))


def test_a_rank_puts_branches_beside_layers_of_few_bits(pictures):
    for layer in layers_of(compress(tiny.make("edsr"), quick("best", rank="2"), pictures)):
        assert (layer.branch is not None) == (layer.w_bits < 8)


@pytest.mark.parametrize("bits", [4, 8])
def test_attention_maps_of_few_bits_have_a_scale_per_query(bits, pictures):
    model = tiny.make("swinir light x4")
    rows, static = (compress(model, quick("best", bits, row_scale=word), pictures) for word in ("true", "false"))
    products = {n: m for n, m in quantized_layers(rows).items() if isinstance(m, QuantMatMul)}
    assert products and all(m.row_scale == n.endswith("matmul_av") for n, m in products.items())
    assert not any(m.row_scale for m in quantized_layers(static).values() if isinstance(m, QuantMatMul))


def test_a_scale_per_query_keeps_flat_maps_and_sharp_ones():
    """256 keys: one step for all rows rounds the flat half of these maps to zero."""
    scores = torch.randn(2, 8, 64, 256, generator=torch.Generator().manual_seed(0))
    scores[1] *= 8
    a, b = scores.softmax(-1), torch.randn(2, 8, 256, 10, generator=torch.Generator().manual_seed(1))
    plain, errors = a @ b, {}
    for row_scale in (False, True):
        layer = QuantMatMul(4, softmax=True)
        layer.row_scale = row_scale
        assert torch.allclose(layer(a, b), plain, atol=1e-5)  # nothing is rounded yet
        layer.quantizer_a = AffineQuantizer(4, 0.0, float(layer.operands(a, b)[0].max()))
        errors[row_scale] = (layer(a, b) - plain).square().mean()
    assert errors[True] < 0.1 * errors[False]


def test_a_scale_per_query_changes_no_gradient_but_by_rounding():
    a = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).softmax(-1).requires_grad_()
    b = torch.randn(2, 3, 16, 10, generator=torch.Generator().manual_seed(1))
    grad = torch.randn(2, 3, 16, 10, generator=torch.Generator().manual_seed(2))
    layer = QuantMatMul(4, softmax=True)
    layer.row_scale = True
    (found,) = torch.autograd.grad(layer(a, b), a, grad)
    assert torch.allclose(found, grad @ b.mT, atol=1e-5)
    layer.quantizer_a = AffineQuantizer(8, 0.0, 1.0)
    (rounded,) = torch.autograd.grad(layer(a, b), a, grad)
    assert torch.allclose(rounded, found, atol=1e-5)


def test_efforts():
    default = config_for(None, overrides={"effort": "default"})
    assert default == config_for(None) == bitsr.Best(4, 4)
    assert effort_of(default) == EFFORTS["default"]
    assert EFFORTS["fast"].learn_steps < EFFORTS["default"].learn_steps < EFFORTS["max"].learn_steps
    given = config_for(None, overrides={"effort": "fast", "learn_steps": "7", "groups": "none"})
    assert effort_of(given).learn_steps == 7 and effort_of(given).groups == EFFORTS["fast"].groups
    assert config_from(dump_config(given)) == given


@pytest.mark.parametrize(
    ("option", "complaint"),
    [("effort=huge", "fast, default, max"), ("learn_steps=-1", "at least 0"), ("groups=0", "at least 1")],
)
def test_options_that_are_none(option, complaint):
    with pytest.raises(ConfigError, match=complaint):
        config_for("best", overrides=dict([option.split("=")]))


def test_more_crops_are_learned_from_than_are_kept_at_once(pictures):
    """Others take the place of those that were seen; and max, which sees most, is given most."""
    seen = {}
    for fresh in (None, 2):
        work = begin(tiny.make("edsr"), pictures, quick("best", learn_steps="0"), 0)
        for stage in stages_of(work.config):
            stage(work)
        inputs = []
        work.student.register_forward_pre_hook(lambda _m, x, inputs=inputs: inputs.append(x[0]))
        train(work, code_rates(work, 0.02), steps=6, batch=2, crop=8, pool=2, fresh=fresh)
        learned = torch.cat([x for x in inputs if len(x) == 2])
        seen[fresh] = len(learned.flatten(1).unique(dim=0))
    assert seen == {None: 2, 2: 6}
    assert [config_for("best", overrides={"effort": effort}).crop_count for effort in EFFORTS] == [128, 128, 512]
