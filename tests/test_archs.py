"""Networks: equal to reference outputs, recognised from their state dicts, described truthfully."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from bitsr.archs.detect import NETWORKS, descriptor_of, detect
from bitsr.archs.edsr import EDSR
from bitsr.archs.espcn import ESPCN, ESPCNClip
from bitsr.archs.hat import HAT
from bitsr.archs.imdn import IMDN
from bitsr.archs.load import load
from bitsr.archs.mambairv2 import MambaIRv2Light
from bitsr.archs.msrresnet import MSRResNet
from bitsr.archs.rfdn import RFDN
from bitsr.archs.rrdbnet import RRDBNet
from bitsr.archs.srcnn import SRCNN
from bitsr.archs.srresnet import SRResNet
from bitsr.archs.srvgg import SRVGGNetCompact
from bitsr.archs.swinir import SwinIR, mlp_ratio
from bitsr.archs.upscaler import ModuleUpscaler
from bitsr.descriptor import Descriptor
from bitsr.errors import ConfigError, PictureError

SWINIR = {"depths": (2, 2), "embed_dim": 12, "num_heads": (2, 3), "img_size": 32}
RRDB = {"num_feat": 8, "num_block": 1, "num_grow_ch": 4}
VARIANTS: list[tuple[type[nn.Module], dict]] = [
    (SwinIR, SWINIR | {"upscale": 4}),
    (SwinIR, SWINIR | {"upscale": 3, "mlp_ratio": 2.5}),
    (SwinIR, SWINIR | {"upscale": 2, "upsampler": "pixelshuffle", "num_feat": 8}),
    (SwinIR, SWINIR | {"upscale": 3, "upsampler": "pixelshuffle", "num_feat": 8}),
    (SwinIR, SWINIR | {"upscale": 4, "upsampler": "pixelshuffle", "num_feat": 8, "resi_connection": "3conv"}),
    (SwinIR, SWINIR | {"upscale": 8, "upsampler": "pixelshuffle", "num_feat": 8}),
    (SwinIR, SWINIR | {"upscale": 2, "upsampler": "nearest+conv", "num_feat": 8}),
    (SwinIR, SWINIR | {"upscale": 4, "upsampler": "nearest+conv", "num_feat": 8, "resi_connection": "3conv"}),
    (SwinIR, SWINIR | {"upscale": 1, "upsampler": "", "in_chans": 1}),
    (SwinIR, SWINIR | {"upscale": 1, "upsampler": "", "window_size": 7, "img_size": 28, "img_range": 255.0}),
    (SwinIR, SWINIR | {"upscale": 4, "depths": (1, 3), "window_size": 4, "img_size": 16}),
    (SwinIR, SWINIR | {"upscale": 4, "img_size": 8}),
    (RFDN, {"nf": 16, "upscale": 4}),
    (RFDN, {"nf": 20, "upscale": 3, "feature_range": 255.0}),
    (IMDN, {"nf": 16, "upscale": 2}),
    (IMDN, {"nf": 20, "upscale": 4}),
    (EDSR, {"num_feat": 8, "num_block": 2, "upscale": 2}),
    (EDSR, {"num_feat": 8, "num_block": 3, "upscale": 3, "res_scale": 0.1, "img_range": 1.0}),
    (EDSR, {"num_feat": 8, "num_block": 1, "upscale": 4}),
    (MSRResNet, {"num_feat": 8, "num_block": 2, "upscale": 2}),
    (MSRResNet, {"num_feat": 8, "num_block": 1, "upscale": 3}),
    (MSRResNet, {"num_feat": 8, "num_block": 3, "upscale": 4}),
    (ESPCN, {"upscale": 3}),
    (ESPCN, {"upscale": 2, "channels": 3, "color": "rgb"}),
    (ESPCNClip, {"upscale": 4, "widths": (16, 8)}),
    (RRDBNet, RRDB | {"upscale": 4}),
    (RRDBNet, RRDB | {"upscale": 2, "unshuffle": 2}),
    (RRDBNet, RRDB | {"upscale": 1, "unshuffle": 4}),
    (RRDBNet, RRDB | {"upscale": 2, "num_in_ch": 1, "num_out_ch": 1}),
    (SRVGGNetCompact, {"num_feat": 8, "num_conv": 3, "upscale": 4}),
    (SRResNet, {"num_feat": 8, "num_block": 2, "upscale": 4}),
    (SRResNet, {"num_feat": 8, "num_block": 1, "upscale": 3, "bias": True}),
    (SRResNet, {"num_feat": 8, "num_block": 1, "upscale": 2, "num_in_ch": 1, "num_out_ch": 1}),
    (SRCNN, {"upscale": 2}),
    (SRCNN, {"upscale": 3, "kernels": (9, 1, 5), "channels": 3}),
    (SRCNN, {"upscale": 4, "widths": (8, 4)}),
]
MAMBA = {"depths": (2, 1), "num_heads": (2, 3), "embed_dim": 12, "d_state": 3, "window_size": 4, "num_tokens": 5}
VARIANTS += [
    (MambaIRv2Light, MAMBA | {"upscale": 4}),
    (MambaIRv2Light, MAMBA | {"upscale": 2, "inner_rank": 7, "mlp_ratio": 2.0, "resi_connection": "3conv"}),
    (MambaIRv2Light, MAMBA | {"upscale": 3, "in_chans": 1, "window_size": 8}),
]
HATS = {"window_size": 4, "embed_dim": 12, "compress_ratio": 3, "squeeze_factor": 4, "num_feat": 8}
VARIANTS += [
    (HAT, HATS | {"upscale": 2, "depths": (2, 1), "num_heads": (2, 3)}),
    (HAT, HATS | {"upscale": 3, "depths": (1,), "num_heads": (2,), "overlap_ratio": 1.0, "mlp_ratio": 2.5}),
    (HAT, HATS | {"upscale": 4, "depths": (2,), "num_heads": (4,), "in_chans": 1, "overlap_ratio": 0.0}),
]
EXACT = (EDSR, MSRResNet, ESPCN, ESPCNClip, RRDBNet, SRVGGNetCompact, SRResNet, SRCNN)
IDS = [f"{i}-{cls.__name__}-x{config['upscale']}" for i, (cls, config) in enumerate(VARIANTS)]


def golden(shared, name):
    tensors = load_file(shared / "golden" / f"{name}.safetensors")
    config = json.loads((shared / "golden" / f"{name}.json").read_text())["config"]
    stored = {key[3:]: value for key, value in tensors.items() if key.startswith("sd.")}
    state = {key: value.float() if value.is_floating_point() else value.long() for key, value in stored.items()}
    return tensors, config, state


def random_network(cls, config, seed=0):
    torch.manual_seed(seed)
    return cls(**config).eval()


@pytest.mark.parametrize(
    ("name", "cls"),
    [("swinir_light_x4", SwinIR), ("hat_s_x4", HAT), ("rfdn_x4", RFDN), ("imdn_small", IMDN), ("edsr_x2", EDSR),
     ("msrresnet_x4", MSRResNet), ("espcn_x4", ESPCN)],
)  # fmt: skip
@torch.inference_mode()
def test_equals_reference_output(shared, name, cls):
    tensors, config, state = golden(shared, name)
    if name == "espcn_x4":
        config = {"upscale": config["upscale_factor"]}
    if name == "hat_s_x4":
        config = detect(state)[1]
    module = cls(**config).eval()
    module.load_state_dict(state)
    if name == "hat_s_x4":
        assert all(
            torch.equal(value, state[key]) for key, value in cls(**config).state_dict().items() if "index" in key
        )
    for i in range(sum(key.startswith("input") for key in tensors)):
        np.testing.assert_allclose(module(tensors[f"input{i}"]), tensors[f"output{i}"], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "file", "suffix", "unit"),
    [("imdn_x4_real", "IMDN_x4.pth", "0", 1), ("rfdn_x4_real", "RFDN_AIM.pth", "0", 255),
     ("espcn_nt_x4_real", "ESPCN-x4.pt", "", 1)],
)  # fmt: skip
@torch.inference_mode()
def test_published_weights_equal_reference_output(shared, name, file, suffix, unit):
    tensors, _, _ = golden(shared, name)
    module = load(shared / "data" / "weights" / file)
    output = module(tensors[f"input{suffix}"] / unit)
    np.testing.assert_allclose(output, tensors[f"output{suffix}"] / unit, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("cls", "config"), VARIANTS, ids=IDS)
def test_hyper_parameters_are_read_from_the_state_dict(cls, config):
    module = random_network(cls, config)
    network, found = detect(module.state_dict())
    assert network.build is cls
    undecided = {key: config[key] for key in network.undecided if key in config}
    again = cls(**(found | undecided))
    assert again.state_dict().keys() == module.state_dict().keys()
    assert {key: found[key] for key in config if key in found} == {key: config[key] for key in config if key in found}
    assert set(config) - set(found) <= set(network.undecided)
    again.load_state_dict(module.state_dict())
    x = torch.rand(1, descriptor_of(module).channels, 17, 19)
    with torch.inference_mode():
        y = module(x)
        assert torch.equal(again.eval()(x), y)
    scale = config["upscale"]
    assert y.shape == (1, x.shape[1], 17 * scale, 19 * scale)


def test_every_width_of_the_mlp_is_found():
    """hidden / dim * dim may fall below hidden in floating point, and the constructor truncates."""
    for dim in range(1, 200):
        for hidden in (1, dim // 2 + 1, 29, 2 * dim, 4 * dim):
            assert int(dim * mlp_ratio(hidden, dim)) == hidden


def test_swinir_without_its_derived_buffers():
    """Weights may leave out index tables and masks; the shifted windows must survive."""
    module = random_network(SwinIR, VARIANTS[0][1])
    bare = {k: v for k, v in module.state_dict().items() if not k.endswith(("attn_mask", "relative_position_index"))}
    network, found = detect(bare)
    again = network.build(**found).eval()
    assert again.load_state_dict(bare, strict=False).unexpected_keys == []
    x = torch.rand(1, 3, 21, 16)
    with torch.inference_mode():
        assert torch.equal(again(x), module(x))


def test_official_keys_of_the_3conv_variant():
    keys = set(SwinIR(upsampler="nearest+conv", resi_connection="3conv", depths=(2,), num_heads=(6,)).state_dict())
    assert {f"layers.0.conv.{i}.weight" for i in (0, 2, 4)} <= keys
    assert {"conv_after_body.4.bias", "conv_before_upsample.0.weight", "conv_up1.weight", "conv_up2.weight"} <= keys
    assert {"conv_hr.weight", "conv_last.weight", "layers.0.residual_group.blocks.1.attn_mask"} <= keys
    assert "layers.0.residual_group.blocks.0.attn_mask" not in keys
    assert "mean" not in keys


@pytest.mark.parametrize("cls", [SwinIR, RFDN, IMDN, EDSR, MSRResNet, ESPCN, ESPCNClip, RRDBNet, HAT,
                                 SRVGGNetCompact, SRResNet, SRCNN])  # fmt: skip
def test_every_weight_belongs_to_a_layer_that_compression_can_replace(cls):
    layers = (nn.Conv2d, nn.Linear, nn.PReLU, nn.BatchNorm2d)  # the latter two hold next to nothing
    module = cls()
    replaceable = {name for name, part in module.named_modules() if isinstance(part, layers)}
    outside = [key for key, _ in module.named_parameters() if key.rpartition(".")[0] not in replaceable]
    assert all(".norm" in f".{key}" or key.endswith("relative_position_bias_table") for key in outside)


@pytest.mark.parametrize(
    ("cls", "config"),
    [pair for pair in VARIANTS if pair[0] in EXACT],
)
def test_reach_is_the_least_overlap_of_exact_tiles(cls, config):
    module = random_network(cls, config).double()
    told = descriptor_of(module)
    assert told.tiling == "exact"
    x = torch.rand(1, told.channels, 9, 12 + told.reach, dtype=torch.float64)
    with torch.inference_mode():
        for parameter in module.parameters():
            parameter *= 4 if cls is RRDBNet else 1  # else nothing is left of the farthest pixel
        whole = module(x)
        half, end = 8, 8 * told.scale

        def difference(reach):
            return (module(x[..., : half + reach])[..., :end] - whole[..., :end]).abs().max().item()

        assert difference(told.reach) < 1e-12
        assert difference(told.reach - 1) > 1e-12


@pytest.mark.parametrize(("cls", "config"), VARIANTS, ids=IDS)
def test_smallest_picture(cls, config):
    """The descriptor's minimum runs, a smaller picture does not; the upscaler takes a single pixel either way."""
    module = random_network(cls, config)
    told = descriptor_of(module)
    with torch.inference_mode():
        module(torch.rand(1, told.channels, told.min_size, told.min_size))
        if told.min_size > 1:
            with pytest.raises(RuntimeError):
                module(torch.rand(1, told.channels, told.min_size - 1, told.min_size))
    assert ModuleUpscaler(module)(np.full((1, 2, 3), 99, np.uint8)).shape == (told.scale, 2 * told.scale, 3)


def test_registry_names_match_descriptors():
    for network in NETWORKS:
        assert network.descriptor(network.build()).arch == network.name


class Identity(nn.Module):
    """Nearest upscaling by 2, plus a constant."""

    def __init__(self, added: float, color: str = "rgb", min_size: int = 1) -> None:
        super().__init__()
        self.added = added
        self.descriptor = Descriptor("identity", 2, color, min_size=min_size)  # type: ignore[arg-type]

    def forward(self, x):
        assert min(x.shape[2:]) >= self.descriptor.min_size
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3) + self.added


def test_upscaler_rounds_and_clamps_bytes():
    picture = np.array([[[0, 100, 255]]], np.uint8)
    assert ModuleUpscaler(Identity(0.6 / 255))(picture)[1, 1].tolist() == [1, 101, 255]
    assert ModuleUpscaler(Identity(-0.4 / 255))(picture)[0, 0].tolist() == [0, 100, 255]


def test_upscaler_clamps_floats():
    picture = np.array([[[0.0, 0.5, 1.0]]], np.float32)
    out = ModuleUpscaler(Identity(0.25))(picture)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out[0, 1], [0.25, 0.75, 1.0])


@pytest.mark.parametrize("color", ["rgb", "y", "ycbcr"])
def test_upscaler_keeps_colour_and_pads_small_pictures(color):
    picture = np.full((3, 2, 3), (200, 30, 90), np.uint8)
    out = ModuleUpscaler(Identity(0.0, color, min_size=7))(picture)
    assert out.shape == (6, 4, 3)
    assert np.unique(out.reshape(-1, 3), axis=0).tolist() == [[200, 30, 90]]


@pytest.mark.parametrize(
    "picture",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3))],
)
def test_upscaler_refuses_what_is_no_picture(picture):
    with pytest.raises(PictureError, match="expected"):
        ModuleUpscaler(Identity(0.0))(picture)


def test_upscaler_needs_a_descriptor():
    with pytest.raises(ConfigError, match=r"Conv2d has no descriptor: set module\.descriptor"):
        ModuleUpscaler(nn.Conv2d(3, 3, 3))


def test_descriptor_round_trip_and_checks():
    told = Descriptor("swinir", 4, multiple=8, min_size=5, tiling="window", reach=16)
    assert Descriptor.from_dict(json.loads(json.dumps(told.to_dict()))) == told
    for wrong in ({"scale": 0}, {"color": "cmyk"}, {"tiling": "maybe"}, {"reach": -1}, {"multiple": 1.5}, {"new": 1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Descriptor.from_dict(told.to_dict() | wrong)
    with pytest.raises(ConfigError, match="missing field scale"):
        Descriptor.from_dict({"arch": "swinir"})
