"""Loading checkpoints: containers, what weights cannot tell, and every way in which a file can be wrong."""

import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from bitsr.archs.detect import descriptor_of, detect
from bitsr.archs.edsr import EDSR
from bitsr.archs.espcn import ESPCN, ESPCNClip
from bitsr.archs.imdn import IMDN
from bitsr.archs.known import KNOWN
from bitsr.archs.load import load
from bitsr.archs.probe import best_reading, distance
from bitsr.archs.rfdn import RFDN
from bitsr.archs.swinir import SwinIR
from bitsr.descriptor import Descriptor
from bitsr.errors import BitsrError, CheckpointError, ConfigError, UnknownNetwork


@pytest.fixture
def imdn():
    torch.manual_seed(1)
    return IMDN(nf=16, upscale=2).eval()


def small_swinir():
    torch.manual_seed(2)
    return SwinIR(upscale=2, img_size=16, depths=(2,), num_heads=(2,), embed_dim=8).eval()


def assert_same(module: nn.Module, other: nn.Module) -> None:
    x = torch.rand(1, 3, 16, 18)
    with torch.inference_mode():
        assert torch.equal(module(x), other(x))


def complaint(error: type[BitsrError], path, **options) -> str:
    """The text of the error, which must be one line that names the file."""
    with pytest.raises(error) as caught:
        load(path, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


@pytest.mark.parametrize("wrap", [
    lambda state: state,
    lambda state: {"params": state},
    lambda state: {"state_dict": state, "epoch": 3},
    lambda state: {f"module.{key}": value for key, value in state.items()},
    lambda state: {"params_ema": state, "params": {key: value * 0 for key, value in state.items()}},
    lambda state: {"state_dict": {"params": {f"module.{key}": value for key, value in state.items()}}},
    lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()},
], ids=["bare", "params", "state_dict", "module.", "params_ema first", "nested", "compiled"])  # fmt: skip
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_wrappers(tmp_path, imdn, wrap, suffix):
    path = tmp_path / f"net{suffix}"
    torch.save(wrap(imdn.state_dict()), path)
    module = load(str(path))
    assert not module.training
    assert module.descriptor == Descriptor("imdn", 2, tiling="global", reach=27)
    assert_same(module, imdn)


def test_half_precision_safetensors_become_float32(tmp_path):
    swinir = small_swinir()
    for parameter in swinir.parameters():
        parameter.data = parameter.data.half().float()
    path = tmp_path / "net.safetensors"
    buffers = ("attn_mask", "relative_position_index")
    save_file({k: v.half() for k, v in swinir.state_dict().items() if not k.endswith(buffers)}, path)
    module = load(path)
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert module.descriptor == Descriptor("swinir", 2, multiple=8, min_size=5, tiling="window", reach=16)
    assert_same(module, swinir)


def test_stored_colour_mean_is_used(tmp_path):
    swinir = small_swinir()
    path = tmp_path / "net.pth"
    torch.save(swinir.state_dict() | {"mean": torch.zeros(1, 3, 1, 1)}, path)
    swinir.mean.zero_()
    assert_same(load(path), swinir)


@pytest.mark.parametrize(
    ("file", "arch", "scale", "color"),
    [("IMDN_x2.pth", "imdn", 2, "rgb"), ("IMDN_x4.pth", "imdn", 4, "rgb"), ("RFDN_AIM.pth", "rfdn", 4, "rgb"),
     ("ESPCN-x2.pt", "espcn", 2, "ycbcr"), ("ESPCN-x4.pt", "espcn", 4, "ycbcr"),
     ("mambairv2light_x4_ntire25team40.pth", "mambairv2light", 4, "rgb")],
)  # fmt: skip
def test_published_checkpoints(shared, file, arch, scale, color):
    module = load(shared / "data" / "weights" / file, arch=arch, scale=scale)
    told = descriptor_of(module)
    assert (told.arch, told.scale, told.color) == (arch, scale, color)
    assert distance(module) < 0.01


@pytest.mark.parametrize("file", ["carn_m.pth", "hitsr_x4_ntire25team54.pth"])
def test_networks_of_others_are_named_unknown(shared, file):
    text = complaint(UnknownNetwork, shared / "data" / "weights" / file)
    first_key = {"c": "sub_mean.shifter.weight", "h": "conv_first.weight"}[file[0]]
    assert first_key in text
    assert "rfdn, imdn" in text
    assert "bitsr.compress" in text


# what weights cannot tell


def test_range_of_unlisted_rfdn_is_found_by_trial(shared, tmp_path):
    published = load(shared / "data" / "weights" / "RFDN_AIM.pth")
    path = tmp_path / "copy.safetensors"
    save_file({k: v.half() for k, v in published.state_dict().items()}, path)
    assert load(path).feature_range == 255
    assert load(path, input_range=1).feature_range == 1
    assert load(path, input_range=255).feature_range == 255


def test_range_of_untrained_rfdn_must_be_given(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "net.pth"
    torch.save(RFDN(nf=16).state_dict(), path)
    text = complaint(ConfigError, path)
    assert "feature_range (1.0 or 255.0)" in text
    assert "give --input-range" in text
    assert load(path, input_range=1).feature_range == 1


def test_readings_of_edsr(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "net.pth"
    torch.save(EDSR(num_feat=8, num_block=2).state_dict(), path)
    assert "img_range (1.0 or 255.0) and res_scale (1.0 or 0.1)" in complaint(ConfigError, path)


class Constant(nn.Module):
    """Bicubic-like upscaling that is off by a constant."""

    def __init__(self, error: float) -> None:
        super().__init__()
        self.error = error
        self.descriptor = Descriptor("constant", 1)

    def forward(self, x):
        return x + self.error


def test_trial_takes_only_a_plausible_reading_that_stands_out():
    assert distance(Constant(0.01)) == pytest.approx(0.01, rel=1e-3)
    assert distance(Constant(float("nan"))) == float("inf")
    assert best_reading([Constant(0.05), Constant(0.001), Constant(0.02)]) == 1
    assert best_reading([Constant(0.3), Constant(0.03)]) is None  # stands out, implausible
    assert best_reading([Constant(0.002), Constant(0.001)]) is None  # plausible, does not stand out


def test_colour_of_espcn(tmp_path):
    torch.manual_seed(0)
    luma, clip = tmp_path / "luma.pth", tmp_path / "clip.pth"
    torch.save(ESPCN(upscale=3).state_dict(), luma)
    torch.save(ESPCNClip(upscale=2).state_dict(), clip)
    assert load(luma).descriptor == Descriptor("espcn", 3, "y", reach=4)
    assert "give --color" in complaint(ConfigError, clip)
    assert descriptor_of(load(clip, color="ycbcr")).color == "ycbcr"
    assert descriptor_of(load(clip, color="rgb")).color == "rgb"
    assert "3 channels, the network takes 1" in complaint(ConfigError, luma, color="rgb")
    assert "1 channels, the network takes 3" in complaint(ConfigError, clip, color="y")


def test_colour_option_of_other_networks(tmp_path, imdn):
    path = tmp_path / "net.pth"
    torch.save(imdn.state_dict(), path)
    assert descriptor_of(load(path, color="ycbcr")).color == "ycbcr"


def test_known_files_are_distinct_digests():
    assert all(len(digest) == 64 and int(digest, 16) for digest in KNOWN)


# wrong options


def test_options_that_contradict_the_file(tmp_path, imdn):
    path = tmp_path / "net.pth"
    torch.save(imdn.state_dict(), path)
    assert "upscales by 2, not by 4" in complaint(ConfigError, path, scale=4)
    assert "is not a rfdn" in complaint(UnknownNetwork, path, arch="rfdn")
    assert "unknown arch 'vdsr'; known: swinir" in complaint(ConfigError, path, arch="vdsr")
    assert "1 or 255, got 2" in complaint(ConfigError, path, input_range=2)
    assert "imdn always works on the range 0..1" in complaint(ConfigError, path, input_range=255)
    assert_same(load(path, arch="imdn", scale=2, input_range=1), imdn)


# wrong files


def test_missing_file_and_folder(tmp_path):
    assert "no such file" in complaint(CheckpointError, tmp_path / "none.pth")
    assert "is a folder" in complaint(CheckpointError, tmp_path)


def test_other_kinds_of_file(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"x")
    assert ".safetensors, .pth" in complaint(CheckpointError, path)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.95])
def test_truncated_pth(tmp_path, imdn, legacy, part):
    path = tmp_path / "net.pth"
    torch.save(imdn.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    assert "truncated, damaged or no checkpoint" in complaint(CheckpointError, path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_empty_file(tmp_path, suffix):
    (tmp_path / f"net{suffix}").touch()
    assert complaint(CheckpointError, tmp_path / f"net{suffix}").endswith("is empty; get the file again")


def test_text_is_no_checkpoint(tmp_path):
    """Python's unpickler raises KeyError(101) for it, which tells nobody anything."""
    (tmp_path / "net.pth").write_text("hello")
    assert "101" not in complaint(CheckpointError, tmp_path / "net.pth")


@pytest.mark.parametrize("part", [0.001, 0.5, 0.95])
def test_truncated_safetensors(tmp_path, imdn, part):
    path = tmp_path / "net.safetensors"
    save_file(imdn.state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    assert "damaged or no safetensors file" in complaint(CheckpointError, path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_garbage(tmp_path, suffix):
    path = tmp_path / f"net{suffix}"
    path.write_bytes(np.random.default_rng(0).bytes(3000))
    complaint(CheckpointError, path)


class Harmful:
    def __init__(self, victim: str) -> None:
        self.victim = victim

    def __reduce__(self):
        return os.remove, (self.victim,)


@pytest.mark.parametrize("plain_pickle", [False, True])
def test_pickle_with_code_is_refused_and_not_run(tmp_path, imdn, plain_pickle):
    path, victim = tmp_path / "net.pth", tmp_path / "victim"
    victim.touch()
    content = {"state_dict": imdn.state_dict(), "extra": Harmful(str(victim))}
    if plain_pickle:
        path.write_bytes(pickle.dumps({"extra": content["extra"]}, protocol=2))
    else:
        torch.save(content, path)
    text = complaint(CheckpointError, path)
    assert "never run" in text
    assert "remove" in text
    assert victim.exists()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_that_are_not_finite(tmp_path, imdn, bad, suffix):
    state = imdn.state_dict()
    state["IMDB3.c2.weight"][0, 1, 2, 0] = bad
    path = tmp_path / f"net{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    assert "IMDB3.c2.weight holds 1 NaN or infinite values" in complaint(CheckpointError, path)


@pytest.mark.parametrize("content", [[1, 2], {}, {"params": {}}, {"epoch": 3}, torch.zeros(3)], ids=str)
def test_no_state_dict(tmp_path, content):
    path = tmp_path / "net.pth"
    torch.save(content, path)
    assert "holds no state dict" in complaint(CheckpointError, path)


def test_entry_that_is_no_tensor(tmp_path, imdn):
    path = tmp_path / "net.pth"
    torch.save(imdn.state_dict() | {"version": 2}, path)
    assert "version is a int, expected a tensor" in complaint(CheckpointError, path)


def broken(state, **changes):
    state = {key: value for key, value in state.items() if changes.get(key, 0) is not None}
    return state | {key: value for key, value in changes.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"LR_conv.weight": None}, ["missing LR_conv.weight"]),
        ({"LR_conv.weight": None, "c.0.bias": None}, ["missing c.0.bias, LR_conv.weight"]),
        ({"extra": torch.zeros(1)}, ["unexpected extra"]),
        ({"c.0.bias": torch.zeros(16, dtype=torch.int8)}, ["c.0.bias", "int8"]),
        ({"mean": torch.zeros(1)}, ["unexpected key mean"]),
        ({"IMDB2.c3.weight": torch.zeros(16, 16, 3, 3)}, ["IMDB2.c3.weight", "(16, 16, 3, 3)", "(16, 12, 3, 3)"]),
        ({"fea_conv.weight": torch.zeros(16)}, ["fea_conv.weight", "expected 4 dimensions"]),
        ({"fea_conv.weight": torch.zeros(0, 3, 3, 3)}, ["fea_conv.weight", "none of them 0"]),
        ({"upsampler.0.weight": torch.zeros(13, 16, 3, 3)}, ["upsampler.0.weight", "13 channels"]),
        ({"upsampler.0.weight": None}, ["missing key upsampler.0.weight"]),
        ({"fea_conv.weight": torch.zeros(6, 3, 3, 3)}, ["no imdn has these shapes"]),
        ({"fea_conv.weight": torch.zeros(16, 2, 3, 3), "upsampler.0.weight": torch.zeros(8, 16, 3, 3),
          "upsampler.0.bias": torch.zeros(8)}, ["takes 2 channels"]),
    ],
)  # fmt: skip
def test_keys_and_shapes_that_do_not_fit(tmp_path, imdn, changes, words):
    path = tmp_path / "net.pth"
    torch.save(broken(imdn.state_dict(), **changes), path)
    text = complaint(CheckpointError, path)
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attn.relative_position_bias_table": torch.zeros(224, 2)}, "224 rows"),
        ({"attn.relative_position_bias_table": torch.zeros(256, 2)}, "256 rows"),
        ({"attn.relative_position_bias_table": torch.zeros(225)}, "expected 2 dimensions"),
        ({"attn.qkv.bias": None}, "missing layers.0.residual_group.blocks.0.attn.qkv.bias"),
    ],
)
def test_swinir_that_does_not_fit(tmp_path, changes, words):
    block = "layers.0.residual_group.blocks.0."
    path = tmp_path / "net.pth"
    torch.save(broken(small_swinir().state_dict(), **{block + key: value for key, value in changes.items()}), path)
    assert words in complaint(CheckpointError, path)


def test_hat_is_not_taken_for_swinir(shared):
    tensors = load_file(shared / "golden" / "hat_s_x4.safetensors")
    network, config = detect({key[3:]: value for key, value in tensors.items() if key.startswith("sd.")})
    assert network.name == "hat" and config["overlap_ratio"] == 0.5 and config["compress_ratio"] == 24


def test_three_convolutions(tmp_path):
    """SRCNN has the keys of ESPCN; its weights do not tell the scale, and no trial could."""
    srcnn = nn.ModuleDict({"conv1": nn.Conv2d(1, 64, 9), "conv2": nn.Conv2d(64, 32, 5), "conv3": nn.Conv2d(32, 1, 5)})
    path = tmp_path / "net.pth"
    torch.save(srcnn.state_dict(), path)
    assert "tell upscale of this srcnn; give --scale" in complaint(ConfigError, path)
    assert load(path, scale=3).descriptor == Descriptor("srcnn", 3, "y", reach=4)
    srcnn["conv3"] = nn.Conv2d(32, 2, 5)
    torch.save(srcnn.state_dict(), path)
    complaint(CheckpointError, path)
