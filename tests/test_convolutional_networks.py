"""RRDBNet, SRVGGNetCompact, SRResNet and SRCNN: what they compute, worked out again from nothing but the state dict and
the published definition; the names of their weights in files of different origin; compression."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import bitsr  # noqa: E402
from bitsr.archs.detect import detect  # noqa: E402
from bitsr.archs.load import load  # noqa: E402
from bitsr.archs.rrdbnet import RRDBNet  # noqa: E402
from bitsr.archs.srcnn import SRCNN, bicubic  # noqa: E402
from bitsr.archs.srresnet import SRResNet  # noqa: E402
from bitsr.archs.srvgg import SRVGGNetCompact  # noqa: E402
from bitsr.data.imresize import imresize  # noqa: E402
from bitsr.errors import CheckpointError  # noqa: E402
from bitsr.program.reference import run  # noqa: E402
from tiny import hwc, make, picture  # noqa: E402

State = dict[str, Tensor]


def conv(state: State, name: str, x: Tensor) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state.get(f"{name}.bias"), padding=weight.shape[-1] // 2)


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def prelu(state: State, name: str, x: Tensor) -> Tensor:
    return torch.where(x > 0, x, state[f"{name}.weight"].view(1, -1, 1, 1) * x)


def norm(state: State, name: str, x: Tensor) -> Tensor:
    mean, variance, weight, bias = (
        state[f"{name}.{key}"].view(1, -1, 1, 1) for key in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


def doubled(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def rrdbnet(state: State, x: Tensor, unshuffle: int) -> Tensor:
    if unshuffle == 2:
        corners = [x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        x = torch.stack(corners, 2).flatten(1, 2)
    first = y = conv(state, "conv_first", x)
    for block in range(sum(key.endswith("rdb1.conv1.weight") for key in state)):
        start = y
        for dense in (1, 2, 3):
            name = f"body.{block}.rdb{dense}.conv"
            x1 = leaky(conv(state, f"{name}1", y))
            x2 = leaky(conv(state, f"{name}2", torch.cat((y, x1), 1)))
            x3 = leaky(conv(state, f"{name}3", torch.cat((y, x1, x2), 1)))
            x4 = leaky(conv(state, f"{name}4", torch.cat((y, x1, x2, x3), 1)))
            y = y + 0.2 * conv(state, f"{name}5", torch.cat((y, x1, x2, x3, x4), 1))
        y = start + 0.2 * y
    y = first + conv(state, "conv_body", y)
    y = leaky(conv(state, "conv_up1", doubled(y)))
    y = leaky(conv(state, "conv_up2", doubled(y)))
    return conv(state, "conv_last", leaky(conv(state, "conv_hr", y)))


def srvgg(state: State, x: Tensor, scale: int) -> Tensor:
    last = max(int(key.split(".")[1]) for key in state)
    y = x
    for i in range(0, last, 2):
        y = prelu(state, f"body.{i + 1}", conv(state, f"body.{i}", y))
    y = F.pixel_shuffle(conv(state, f"body.{last}", y), scale)
    return y + x.repeat_interleave(scale, 2).repeat_interleave(scale, 3)


def srresnet(state: State, x: Tensor, ending: str) -> Tensor:
    first = y = prelu(state, "conv1.1", conv(state, "conv1.0", x))
    for i in range(sum(key.endswith("rcb.0.weight") for key in state)):
        name = f"trunk.{i}.rcb"
        z = prelu(state, f"{name}.2", norm(state, f"{name}.1", conv(state, f"{name}.0", y)))
        y = y + norm(state, f"{name}.4", conv(state, f"{name}.3", z))
    y = first + norm(state, "conv2.1", conv(state, "conv2.0", y))
    for i in range(sum(key.endswith("upsample_block.0.weight") for key in state)):
        wide = conv(state, f"upsampling.{i}.upsample_block.0", y)
        y = prelu(state, f"upsampling.{i}.upsample_block.2", F.pixel_shuffle(wide, 3 if ending == "tanh" else 2))
    y = conv(state, "conv3", y)
    return y.clamp(0, 1) if ending == "clip" else (y.tanh() + 1) / 2


def srcnn(state: State, x: Tensor, scale: int) -> Tensor:
    y = bicubic(x, scale)
    for name in ("conv1", "conv2"):
        y = conv(state, name, y).clamp(min=0)
    return conv(state, "conv3", y)


DEFINITIONS: dict[str, Any] = {
    "rrdbnet x4": lambda state, x: rrdbnet(state, x, 1),
    "rrdbnet x2, unshuffled": lambda state, x: rrdbnet(state, x, 2),
    "srvgg": lambda state, x: srvgg(state, x, 3),
    "srresnet x4": lambda state, x: srresnet(state, x, "clip"),
    "srresnet x3, tanh": lambda state, x: srresnet(state, x, "tanh"),
    "srcnn": lambda state, x: srcnn(state, x, 3),
}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_networks_compute_what_they_are_defined_as(name: str) -> None:
    module = make(name)
    x = picture(module, 14, 18)
    with torch.inference_mode():
        expected = DEFINITIONS[name](module.state_dict(), x)
        assert expected.std() > 1e-3
        np.testing.assert_allclose(module(x), expected, atol=1e-5)


def test_srcnn_upscales_as_matlab_does() -> None:
    """But for the border, where MATLAB mirrors."""
    x = np.random.default_rng(0).random((9, 8, 1))
    for scale in (2, 3, 4):
        ours = hwc(bicubic(torch.from_numpy(x).float().permute(2, 0, 1)[None], scale))
        inner = (slice(2 * scale, -2 * scale),) * 2
        np.testing.assert_allclose(ours[inner], imresize(x, scale)[inner], atol=1e-5)


# ---- names of weights -----------------------------------------------------------------------------------------------


def random(module: nn.Module) -> nn.Module:
    torch.manual_seed(5)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.1)
    return module.eval()


def first_esrgan(state: State, doublings: int, blocks: int) -> State:
    """The keys of the ESRGAN release of 2018."""
    numbers = {"conv_first": "0", "conv_body": f"1.sub.{blocks}"}
    numbers |= {f"conv_up{i}": str(3 * i) for i in range(1, doublings + 1)}
    numbers |= {"conv_hr": str(3 * doublings + 2), "conv_last": str(3 * doublings + 4)}
    old = {}
    for key, value in state.items():
        layer, _, kind = key.rpartition(".")
        if layer in numbers:
            old[f"model.{numbers[layer]}.{kind}"] = value
        else:
            _, block, dense, name = layer.split(".")
            old[f"model.1.sub.{block}.{dense.upper()}.{name}.0.{kind}"] = value
    return old


def second_esrgan(state: State) -> State:
    """The keys of the ESRGAN release of 2019."""
    new = {}
    for key, value in state.items():
        for ours, theirs in (("body.", "RRDB_trunk."), ("rdb", "RDB"), ("conv_RRDB_trunk", "trunk_conv"),
                             ("conv_up", "upconv"), ("conv_hr", "HRconv")):  # fmt: skip
            key = key.replace(ours, theirs)
        new[key] = value
    return new


@pytest.mark.parametrize(("upscale", "doublings"), [(1, 0), (2, 1), (4, 2), (8, 3)])
def test_rrdbnet_under_its_older_names(upscale: int, doublings: int, tmp_path: Path) -> None:
    module = random(RRDBNet(num_feat=8, num_block=2, num_grow_ch=4, upscale=upscale))
    state, x = module.state_dict(), torch.rand(1, 3, 9, 7)
    first, second = first_esrgan(state, doublings, 2), second_esrgan(state)
    assert {"model.1.sub.1.RDB3.conv5.0.bias", "model.1.sub.2.weight", "model.0.weight"} <= set(first)
    assert {"RRDB_trunk.1.RDB3.conv5.bias", "trunk_conv.weight", "HRconv.bias", "conv_last.bias"} <= set(second)
    for old in (first, {"params": second}):
        torch.save(old, tmp_path / "net.pth")
        found = load(tmp_path / "net.pth")
        assert isinstance(found, RRDBNet) and found.descriptor.scale == upscale  # type: ignore[union-attr]
        with torch.inference_mode():
            assert torch.equal(found(x), module(x))


def leftthomas(state: State, blocks: int, ups: int) -> State:
    parts = {"0": "conv1", "1": "bn1", "2": "prelu", "3": "conv2", "4": "bn2"}
    old = {}
    for key, value in state.items():
        head, *rest = key.split(".")
        if head == "conv1":
            name = ["block1", *rest]
        elif head == "trunk":
            name = [f"block{int(rest[0]) + 2}", parts[rest[2]], *rest[3:]]
        elif head == "conv2":
            name = [f"block{blocks + 2}", *rest]
        elif head == "upsampling":
            name = [f"block{blocks + 3}", rest[0], {"0": "conv", "2": "prelu"}[rest[2]], *rest[3:]]
        else:
            name = [f"block{blocks + 3}", str(ups), *rest]
        old[".".join(name)] = value
    return old


def test_srresnet_under_its_other_names(tmp_path: Path) -> None:
    x, path = torch.rand(1, 3, 9, 7), tmp_path / "net.pth"
    module = random(SRResNet(num_feat=8, num_block=3, upscale=4))
    older = {
        re.sub(r"^conv(\d)\.", r"conv_block\1.", key): value
        for key, value in module.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    torch.save({"epoch": 7, "state_dict": older}, path)
    with torch.inference_mode():
        assert torch.equal(load(path)(x), module(x))
    module = random(SRResNet(num_feat=8, num_block=3, upscale=4, bias=True, ending="tanh"))
    other = leftthomas(module.state_dict(), 3, 2)
    assert {"block2.prelu.weight", "block5.0.bias", "block6.1.conv.weight", "block6.2.weight"} <= set(other)
    torch.save(other, path)
    with torch.inference_mode():
        assert torch.equal(load(path)(x), module(x))


def test_srcnn_under_its_other_names(tmp_path: Path) -> None:
    module, x = random(SRCNN(upscale=2, kernels=(9, 1, 5))), torch.rand(1, 1, 9, 7)
    names = {"conv1": "features.0", "conv2": "map.0", "conv3": "reconstruction"}
    state = {key.replace(key[:5], names[key[:5]]): value for key, value in module.state_dict().items()}
    torch.save({"model": state}, tmp_path / "net.pth")
    with torch.inference_mode():
        assert torch.equal(load(tmp_path / "net.pth", scale=2)(x), module(x))


def test_shapes_that_no_network_has() -> None:
    state = RRDBNet(num_feat=8, num_block=1, num_grow_ch=4).state_dict()
    with pytest.raises(CheckpointError, match="6 channels become 3"):
        detect(state | {"conv_first.weight": torch.zeros(8, 6, 3, 3)})
    state = SRResNet(num_feat=8, num_block=1).state_dict()
    with pytest.raises(CheckpointError, match="upsampling.1 makes 40 of 8"):
        detect(state | {"upsampling.1.upsample_block.0.weight": torch.zeros(40, 8, 3, 3)})
    state = SRVGGNetCompact(num_feat=8, num_conv=1).state_dict()
    with pytest.raises(CheckpointError, match="makes 47 channels"):
        detect(state | {"body.4.weight": torch.zeros(47, 8, 3, 3)})


# ---- compression ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rrdbnet x2, unshuffled", "srvgg", "srresnet x4", "srcnn"])
def test_networks_are_compressed_and_packed(name: str, tmp_path: Path) -> None:
    module = make(name)
    crops = bitsr.calibration_crops(None, module.descriptor.scale, count=2, size=16)  # type: ignore[union-attr, arg-type]
    small = bitsr.compress(module, bitsr.HarmoQ(w_bits=8, a_bits=8, distill_steps=2), crops)
    bitsr.save(small, tmp_path / "small.bitsr", precision="fp32")
    assert (tmp_path / "small.bitsr").stat().st_size < 4 * sum(p.numel() for p in module.parameters()) + 20000
    x = picture(module)
    with torch.inference_mode():
        exact, simulated = hwc(module(x)), hwc(small(x))
    model = bitsr.open(tmp_path / "small.bitsr")
    lost = np.square(simulated - exact).mean()
    assert 0 < lost < 0.01 * exact.var()
    assert np.square(run(model.program, hwc(x)) - simulated).mean() < 0.05 * lost


def test_batch_norms_are_folded_before_compression() -> None:
    module = make("srresnet x4")
    crops = bitsr.calibration_crops(None, 4, count=2, size=16)
    small = bitsr.compress(module, bitsr.MinMax(w_bits=16, a_bits=16), crops)
    assert any(isinstance(part, nn.BatchNorm2d) for part in module.modules())
    assert not any(isinstance(part, nn.BatchNorm2d) for part in small.modules())
    x = picture(module)
    with torch.inference_mode():
        np.testing.assert_allclose(small(x), module(x), atol=1e-5)
