"""MambaIRv2-light: equal to the official code, deterministic, and its scan equal to the plain recurrence."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from bitsr.archs import mambairv2
from bitsr.archs.load import load
from bitsr.archs.mambairv2 import ASSM, MambaIRv2Light, mirrored
from bitsr.archs.selective_scan import selective_scan, sequential_scan

TINY = {"depths": (2,), "num_heads": (2,), "embed_dim": 12, "d_state": 3, "window_size": 4, "num_tokens": 5}


def scan_inputs(batch, length, channels, states, dtype=torch.float64):
    torch.manual_seed(0)
    x, delta = torch.randn(2, batch, length, channels, dtype=dtype)
    b, c = torch.randn(2, batch, length, states, dtype=dtype)
    a, d = -4 * torch.rand(channels, states, dtype=dtype), torch.randn(channels, dtype=dtype)
    return [v.requires_grad_() for v in (x, F.softplus(delta), a, b, c, d)]


@pytest.mark.parametrize("length", [1, 2, 7, 16, 17, 90])
def test_the_chunked_scan_equals_the_recurrence(length):
    inputs = scan_inputs(2, length, 3, 2)
    ours, plain = selective_scan(*inputs), sequential_scan(*inputs)
    torch.testing.assert_close(ours, plain)
    weights = torch.randn_like(plain)
    torch.testing.assert_close(*(torch.autograd.grad((y * weights).sum(), inputs) for y in (ours, plain)))


def test_gradients_of_the_scan():
    torch.autograd.gradcheck(selective_scan, scan_inputs(1, 7, 2, 3))


def test_the_scan_keeps_its_digits_where_decays_underflow():
    """Products of decays over a chunk are far below the smallest number; nothing is divided by them."""
    inputs = [v.detach().float() for v in scan_inputs(1, 400, 4, 2)]
    inputs[1] *= 100
    exact = sequential_scan(*(v.double() for v in inputs))
    np.testing.assert_allclose(selective_scan(*inputs), exact, atol=1e-6 * float(exact.abs().max()))


def test_half_precision_is_scanned_in_float32():
    inputs = [v.detach().to(torch.bfloat16) for v in scan_inputs(1, 30, 4, 2)]
    assert torch.equal(selective_scan(*inputs), selective_scan(*(v.float() for v in inputs)))


def golden(shared, name):
    return load_file(shared / "golden" / f"{name}.safetensors")


def psnr(a, b):
    return -10 * float((a - b).square().mean().log10())


@torch.inference_mode()
def test_equals_the_official_code(shared):
    tensors = golden(shared, "mambairv2light_x4")
    stored = {key[3:]: value for key, value in tensors.items() if key.startswith("sd.")}
    state = {key: value.float() if value.is_floating_point() else value.long() for key, value in stored.items()}
    found = mambairv2.detect(state)
    official = json.loads((shared / "golden" / "mambairv2light_x4.json").read_text())["config"]
    assert {key: found[key] for key in found if key in official} == {
        key: tuple(value) if isinstance(value, list) else value for key, value in official.items() if key in found
    }
    module = MambaIRv2Light(**found).eval()
    module.load_state_dict(state)
    for i in (0, 1):
        np.testing.assert_allclose(module(tensors[f"input{i}"]), tensors[f"output_nonoise{i}"], atol=1e-5)


@torch.inference_mode()
def test_noise_in_training_is_that_of_the_official_code(shared, monkeypatch):
    tensors = golden(shared, "mambairv2light_x4")
    state = {key[3:]: value for key, value in tensors.items() if key.startswith("sd.")}
    module = MambaIRv2Light(depths=(2, 1), num_heads=(4, 4), routing_noise=True)
    module.load_state_dict(state)
    drawn = iter(tensors[f"gumbel0.{i}"] for i in range(3))
    monkeypatch.setattr(mambairv2, "gumbel_noise", lambda _: next(drawn))
    np.testing.assert_allclose(module.train()(tensors["input0"]), tensors["output_noise0"], atol=1e-5)


@torch.inference_mode()
def test_published_weights_agree_with_the_official_code(shared):
    """Its router has tied scores, which the last digit decides: the official code differs from itself by 46 dB."""
    tensors = golden(shared, "mambairv2light_x4_real")
    module = load(shared / "data" / "weights" / "mambairv2light_x4_ntire25team40.pth")
    assert module.descriptor.arch == "mambairv2light"
    assert psnr(module(tensors["input"]), tensors["output_nonoise"]) > 80


@torch.inference_mode()
def test_two_runs_agree_and_noise_is_an_option_of_training():
    torch.manual_seed(0)
    module, noisy = MambaIRv2Light(**TINY), MambaIRv2Light(**TINY, routing_noise=True)
    noisy.load_state_dict(module.state_dict())
    x = torch.rand(1, 3, 9, 11)
    y = module(x)
    torch.testing.assert_close(module.eval()(x), y)
    assert not torch.equal(noisy(x), noisy(x))
    assert torch.equal(noisy.eval()(x), module(x))


def test_the_router_learns_in_training():
    torch.manual_seed(0)
    module = MambaIRv2Light(**TINY)
    module(torch.rand(2, 3, 8, 8)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    assert all(p.grad.abs().max() > 0 for p in module.parameters() if p.ndim > 1)


def test_tokens_are_sorted_by_class_and_prompts_are_not(monkeypatch):
    torch.manual_seed(0)
    module = ASSM(4, 2, 3, 5, 4).eval().requires_grad_(False)
    embedding = torch.nn.Embedding(5, 2).requires_grad_(False)
    classes = torch.tensor([[2, 0, 1, 0, 2, 0]])
    prompts = module.prompts(embedding)
    monkeypatch.setattr(module, "routed", lambda *_: (classes, prompts[classes]))
    seen = {}
    module.selectiveScan.register_forward_pre_hook(lambda _, inputs: seen.update(x=inputs[0], prompt=inputs[1]))
    module.in_proj.register_forward_hook(lambda _, x, y: seen.update(made=y * torch.sigmoid(module.CPE(y))))
    module(torch.randn(1, 2, 3, 4), embedding, False)
    assert torch.equal(seen["x"][0], seen["made"].flatten(2)[0].T[[1, 3, 5, 2, 0, 4]])
    assert torch.equal(seen["prompt"][0], prompts[classes[0]])


def test_pictures_are_mirrored_with_their_last_pixel_repeated():
    x = torch.arange(3.0).view(1, 1, 1, 3)
    assert mirrored(x, 8)[0, 0, 0].tolist() == [0, 1, 2, 2, 1, 0, 0, 1]
    assert mirrored(x, 8).shape == (1, 1, 8, 8)
