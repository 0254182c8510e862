"""Programs against the modules they come from: whole networks, what is kept of them, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from bitsr.archs.edsr import EDSR  # noqa: E402
from bitsr.archs.espcn import ESPCN  # noqa: E402
from bitsr.archs.hat import HAT  # noqa: E402
from bitsr.archs.imdn import IMDN  # noqa: E402
from bitsr.archs.msrresnet import MSRResNet  # noqa: E402
from bitsr.archs.rfdn import RFDN  # noqa: E402
from bitsr.archs.swinir import SwinIR  # noqa: E402
from bitsr.descriptor import Descriptor  # noqa: E402
from bitsr.errors import ConfigError, UnsupportedLayer  # noqa: E402
from bitsr.lowering import lower, register_lowering, save  # noqa: E402
from bitsr.parts.layers import QuantConv2d  # noqa: E402
from bitsr.parts.quantizer import AffineQuantizer  # noqa: E402
from bitsr.program.reference import run  # noqa: E402
from bitsr.program.steps import Affine, Conv2d  # noqa: E402
from tiny import BITS, NETWORKS, hwc, make, picture, quantize_roughly  # noqa: E402

QUANTIZED = ["swinir light x4", "hat", "swinir classical x3", "mambairv2 light x4", "rfdn", "imdn", "edsr",
             "msrresnet x4", "espcn clip"]  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_a_program_computes_what_the_module_computes(name: str) -> None:
    module = make(name)
    x = picture(module)
    np.testing.assert_allclose(run(lower(module, precision="fp32"), hwc(x)), hwc(module(x)), atol=1e-4)
    half = run(lower(module), hwc(x))
    assert 0 < np.abs(half - hwc(module(x))).max() < 0.05  # half precision is used, and is enough


GOLDEN: dict[str, Callable[..., nn.Module]] = {
    "swinir_light_x4": SwinIR, "edsr_x2": EDSR, "imdn_small": IMDN, "msrresnet_x4": MSRResNet, "rfdn_x4": RFDN,
    "hat_s_x4": lambda img_size, upsampler, resi_connection, **config: HAT(**config),
    "espcn_x4": lambda upscale_factor: ESPCN(upscale=upscale_factor),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_programs_agree_with_the_official_code(name: str, shared: Path) -> None:
    load_file = pytest.importorskip("safetensors.torch").load_file
    tensors = load_file(shared / "golden" / f"{name}.safetensors")
    config = json.loads((shared / "golden" / f"{name}.json").read_text())["config"]
    module = GOLDEN[name](**config).eval().requires_grad_(False)
    state = {key[3:]: value for key, value in tensors.items() if key.startswith("sd.")}
    wide = {key: value.float() if value.is_floating_point() else value.long() for key, value in state.items()}
    module.load_state_dict(wide, strict=False)
    program = lower(module, precision="fp32")
    for key in [key for key in tensors if key.startswith("input")]:
        for x, y in zip(tensors[key], tensors[key.replace("input", "output")], strict=True):
            np.testing.assert_allclose(run(program, hwc(x[None])), hwc(y[None]), atol=1e-4)


@pytest.mark.parametrize("bits", ["w8a8", "mixed"])
@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized_networks_stay_close_as_a_whole(name: str, bits: str) -> None:
    """Float differences move a few codes by one; the error of the picture is far below that of quantization."""
    module = make(name)
    x = picture(module)
    exact = hwc(module(x))
    simulated = hwc(quantize_roughly(module, BITS[bits])(x))
    ours = run(lower(module, precision="fp32"), hwc(x))
    quantization = np.square(simulated - exact).mean()
    assert quantization > 0
    assert np.square(ours - simulated).mean() < 0.05 * quantization


# ---- what is kept ---------------------------------------------------------------------------------------------------


def test_precision_concerns_floating_point_tensors_only() -> None:
    program = lower(quantize_roughly(make("swinir light x4"), BITS["w4a4"], input_scales=True))
    kinds = {name.rpartition(".")[2]: set() for name in program.tensors}  # type: ignore[var-annotated]
    for name, tensor in program.tensors.items():
        kinds[name.rpartition(".")[2]].add(tensor.dtype.name)
    norms = {program.tensors[n].dtype.name for n in program.tensors if "norm" in n}
    assert norms == kinds["bias_table"] == {"float16"}
    assert kinds["codes"] == {"uint8"}
    assert kinds["scale"] == kinds["mid"] == kinds["input_scale"] == {"float32"}
    assert program.tensors["conv_first.bias"].dtype == np.float32  # folded
    exact = lower(make("swinir light x4"), precision="fp32")
    assert {tensor.dtype.name for tensor in exact.tensors.values()} == {"float32"}


def test_numbers_beyond_half_precision_stay_float32() -> None:
    module = make("edsr")
    module.conv_last.weight[0, 0, 0, 0] = 1e5  # type: ignore[index, union-attr]
    tensors = lower(module).tensors
    assert tensors["conv_last.weight"].dtype == np.float32 and tensors["conv_last.weight"].max() == 1e5
    assert tensors["conv_first.weight"].dtype == np.float16


def test_the_folded_bias_holds_the_offset_of_the_input() -> None:
    module = quantize_roughly(make("edsr"), BITS["w3a3"])
    layer = module.conv_after_body
    assert isinstance(layer, QuantConv2d) and layer.bias is not None and layer.quantizer is not None
    program = lower(module)
    lower_bound = layer.quantizer.grid()[0].double()
    expected = layer.bias.double() + lower_bound * layer.effective_weight().double().sum((1, 2, 3))
    np.testing.assert_allclose(program.tensors["conv_after_body.bias"], expected.numpy(), rtol=1e-5, atol=1e-6)


def test_a_layer_used_twice_is_kept_once() -> None:
    class Twice(nn.Sequential):
        pass

    conv = nn.Conv2d(3, 3, 3, padding=1)
    module = Twice(conv, nn.ReLU(), conv).requires_grad_(False)
    module.descriptor = Descriptor("twice", 1)  # type: ignore[assignment]
    program = lower(module, precision="fp32")
    assert set(program.tensors) == {"0.weight", "0.bias"}
    assert len({step.output for step in program.steps}) == 3
    x = picture(module)
    np.testing.assert_allclose(run(program, hwc(x)), hwc(module(x)), atol=1e-5)


def test_saving_keeps_the_provenance_and_is_reproducible(tmp_path: Path) -> None:
    from bitsr.format import read_program

    module = quantize_roughly(make("edsr"), BITS["mixed"])
    module.compression = {"method": "rough", "bits": 4}  # type: ignore[assignment]
    paths = [tmp_path / "a.bitsr", tmp_path / "b.bitsr"]
    for path in paths:
        save(module, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    program = read_program(paths[0])
    assert program.meta["compression"] == {"method": "rough", "bits": 4}
    assert program.meta["torch"] == torch.__version__ and "bitsr" in program.meta
    x = hwc(picture(module))
    np.testing.assert_array_equal(run(program, x), run(lower(module), x))


# ---- networks of the user, errors -----------------------------------------------------------------------------------


class Doubling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.descriptor = Descriptor("doubling", 1)

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.conv(x)


class Odd(Doubling):
    def __init__(self) -> None:
        super().__init__()
        self.softplus = nn.Softplus()


def test_a_network_of_the_user_can_be_registered() -> None:
    class Mine(Doubling):
        pass

    register_lowering(Mine, lambda module, builder, x: builder.affine(builder.apply(x, module.conv), 2.0))
    module = Mine().requires_grad_(False)
    program = lower(module, precision="fp32")
    assert [type(step) for step in program.steps] == [Conv2d, Affine]
    x = picture(module)
    np.testing.assert_allclose(run(program, hwc(x)), hwc(module(x)), atol=1e-5)


@pytest.mark.parametrize(
    ("network", "words"),
    [(Doubling, ["Doubling", "method lower(self, builder, x)", "register"]), (Odd, ["Odd", "softplus (Softplus)"])],
)
def test_unknown_networks_are_named(network: type[nn.Module], words: list[str]) -> None:
    with pytest.raises(UnsupportedLayer) as error:
        lower(network())
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_a_subclass_with_another_forward_is_not_mistaken_for_its_parent() -> None:
    class Standardized(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return F.conv2d(x, self.weight - self.weight.mean(), self.bias, padding=1)

    module = make("edsr")
    module.conv_last = Standardized(8, 3, 3, padding=1)
    with pytest.raises(UnsupportedLayer, match="conv_last.*Standardized"):
        lower(module)


@pytest.mark.parametrize(
    "options",
    [{"dilation": 2}, {"stride": (1, 2)}, {"padding": (0, 1)}, {"padding": 1, "padding_mode": "reflect"}],
    ids=lambda options: " ".join(options),
)
def test_unusual_convolutions_are_named(options: dict[str, object]) -> None:
    module = make("edsr")
    module.body[1].conv2 = nn.Conv2d(8, 8, 3, **options)  # type: ignore[index, arg-type, union-attr]
    with pytest.raises(UnsupportedLayer, match=r"body\.1\.conv2"):
        lower(module)


def test_inputs_that_integers_cannot_hold_are_named() -> None:
    module = quantize_roughly(make("edsr"), BITS["w4a4"])
    layer = module.conv_last
    assert isinstance(layer, QuantConv2d)
    for quantizer, words in (
        (AffineQuantizer(4, -0.123, 1.0), "zero"),
        (AffineQuantizer(4, torch.zeros(8, 1, 1), torch.ones(8, 1, 1), True), "channel"),
        (AffineQuantizer(4, 0.0, float("nan"), True), "nan"),
    ):
        layer.quantizer = quantizer
        with pytest.raises(UnsupportedLayer, match=f"conv_last.*{words}"):
            lower(module)


def test_weights_that_are_no_numbers_are_named() -> None:
    module = make("edsr")
    module.conv_after_body.bias[2] = float("inf")  # type: ignore[index, union-attr]
    with pytest.raises(UnsupportedLayer, match=r"conv_after_body\.bias"):
        lower(module)


def test_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="int8"):
        lower(make("edsr"), precision="int8")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="descriptor"):
        lower(nn.Conv2d(3, 3, 1))
