"""Networks of the user, as in `examples/`: they hold what the authors published, compress, pack and run."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "examples"))

import hit_srf  # noqa: E402
from carn_m import CARNM  # noqa: E402
from compress_your_own import build, main  # noqa: E402
from hit_srf import Block, Correlation, Group, HiTSRF, PositionBias, mirror  # noqa: E402
from torch import nn  # noqa: E402

import bitsr  # noqa: E402
from bitsr.errors import UnsupportedLayer  # noqa: E402
from bitsr.lowering import Builder  # noqa: E402
from bitsr.parts.layers import QuantLayer, QuantMatMul, quantized_layers  # noqa: E402

CARN_M, HIT_SRF = Path("data/weights/carn_m.pth"), Path("data/weights/hitsr_x4_ntire25team54.pth")
QUICK = bitsr.HarmoQ(w_bits=4, a_bits=4, abr_steps=2, groups=1, samples=256, distill_steps=2, distill_crop=8)


def tiny(network: type[nn.Module], **options: int) -> nn.Module:
    torch.manual_seed(0)
    module = network(**options).eval().requires_grad_(False)
    module.descriptor = bitsr.Descriptor(network.__name__, options["scale"])  # type: ignore[assignment]
    return module


def pictures(count: int = 4, side: int = 16) -> list[np.ndarray]:
    """Smooth ramps with a little noise."""
    noise = np.random.default_rng(0).integers(0, 40, (count, side, side, 3))
    return list((noise + np.linspace(0, 200, side)[:, None, None]).astype(np.uint8))


def needs(path: Path) -> Path:
    if not path.is_file():
        pytest.skip(f"needs {path}")
    return path


# ---- the published weights ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_weights_of_carn_m_fit(scale: int, shared: Path) -> None:
    module = build("carn_m", needs(shared / CARN_M), scale)
    assert sum(value.numel() for value in module.state_dict().values()) == 414_811
    lr = pictures(1, 24)[0]
    assert bitsr.ModuleUpscaler(module)(lr).shape == (24 * scale, 24 * scale, 3)


def test_the_weights_of_hit_srf_fit(shared: Path) -> None:
    module = build("hit_srf", needs(shared / HIT_SRF))
    assert sum(value.numel() for value in module.state_dict().values()) == 866_420


@pytest.mark.parametrize(("network", "weights", "psnr_y"), [("carn_m", CARN_M, 31.88), ("hit_srf", HIT_SRF, 32.55)])
def test_the_weights_give_the_published_figure(network: str, weights: Path, psnr_y: float, shared: Path) -> None:
    module = build(network, needs(shared / weights))  # type: ignore[arg-type]
    folder = shared / "data" / "benchmarks" / "Set5"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    assert bitsr.evaluate(module, folder, 4).psnr_y == pytest.approx(psnr_y, abs=0.02)


# ---- CARN-M ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_carn_m_is_compressed_packed_and_run(scale: int, tmp_path: Path) -> None:
    module = tiny(CARNM, scale=scale, features=8, groups=2)
    module.eight_bit = ("upsample",)  # type: ignore[assignment]
    small = bitsr.compress(module, QUICK, pictures())
    layers = quantized_layers(small)
    assert isinstance(layers["b2.b1.body.2"], QuantLayer) and layers["b2.b1.body.2"].w_bits == 4
    assert layers["entry"].a_bits == layers["exit"].a_bits == 8
    upsampling = {name: layer for name, layer in layers.items() if name.startswith("upsample")}
    assert {name.split(".")[1] for name in upsampling} == {f"up{scale}"}
    assert {layer.a_bits for layer in upsampling.values()} == {8}

    bitsr.save(small, tmp_path / "small.bitsr")
    model = bitsr.open(tmp_path / "small.bitsr", backend="reference")
    lr = pictures(1, 20)[0]
    packed, simulated = model(lr).astype(int), bitsr.ModuleUpscaler(small)(lr).astype(int)
    exact = bitsr.ModuleUpscaler(module)(lr).astype(int)
    assert packed.shape == (20 * scale, 20 * scale, 3)
    assert np.abs(packed - simulated).mean() < 0.1 * np.abs(simulated - exact).mean()


def test_the_reach_of_carn_m_is_what_a_pixel_sees() -> None:
    module = tiny(CARNM, scale=4, features=8, groups=2).double()
    for parameter in module.parameters():
        parameter.abs_()  # nothing cancels, no ReLU closes
    x = torch.ones(1, 3, 1, 51, dtype=torch.float64).repeat(1, 1, 51, 1)
    moved = x.clone()
    moved[..., 25] += 1
    changed = (module(moved) - module(x)).abs().amax((0, 1, 2)) > 0
    columns = changed.nonzero().flatten() // 4
    assert (columns.min(), columns.max()) == (25 - CARNM.reach, 25 + CARNM.reach)


# ---- HiT-SRF --------------------------------------------------------------------------------------------------------


def tiny_hit(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    monkeypatch.setattr(hit_srf, "WINDOWS", (4, 16))
    return tiny(HiTSRF, scale=2, dim=16, heads=2, groups=1)


def test_mirroring_goes_on_as_often_as_needed() -> None:
    row = torch.arange(4.0).view(1, 4, 1)
    assert mirror(row, 1, 12).flatten().tolist() == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1]
    assert mirror(row, 1, 2).shape == (1, 4, 1) and mirror(row[:, :1], 1, 3).flatten().tolist() == [0, 0, 0]


def test_the_position_bias_is_the_mean_over_each_cell() -> None:
    torch.manual_seed(0)
    window, base = 6, 3
    pos = PositionBias(width=3, heads=2).requires_grad_(False)
    y, x = (grid.flatten() for grid in torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij"))
    offsets = torch.stack([y[:, None] - y, x[:, None] - x], dim=-1).float()  # token - token of the cell
    full = pos.pos3(pos.pos2(pos.pos1(pos.pos_proj(offsets)))).movedim(-1, 0)
    cell = (y // 2) * base + x // 2
    expected = torch.stack([full[:, :, cell == c].mean(-1) for c in range(base**2)], dim=-1)
    torch.testing.assert_close(pos(window, base), expected)


def test_a_window_of_hit_srf_sees_all_of_itself_and_nothing_else() -> None:
    torch.manual_seed(0)
    module = Correlation(dim=16, heads=2, window=16).double().requires_grad_(False)
    x = torch.rand(1, 16, 32, 16, dtype=torch.float64)
    moved = x.clone()
    moved[:, 5, 3] += 1
    changed = (module(moved) - module(x)).abs().amax((0, 1, 3)) > 1e-12
    assert changed[:16].all() and not changed[16:].any()


def test_hit_srf_is_compressed_with_its_products(monkeypatch: pytest.MonkeyPatch) -> None:
    module = tiny_hit(monkeypatch)
    small = bitsr.compress(module, bitsr.MinMax(w_bits=8, a_bits=8), pictures())
    layers = quantized_layers(small)
    products = [name for name, layer in layers.items() if isinstance(layer, QuantMatMul)]
    assert len(products) == 2 * 4 and all("correlation" in name for name in products)
    assert not any(".pos." in name for name in layers)  # reads no picture
    lr = pictures(1, 20)[0]
    difference = bitsr.ModuleUpscaler(small)(lr).astype(int) - bitsr.ModuleUpscaler(module)(lr)
    assert 0 < np.abs(difference).max() < 40


def test_packing_hit_srf_fails_and_names_the_layer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = bitsr.compress(tiny_hit(monkeypatch), bitsr.MinMax(w_bits=8, a_bits=8), pictures())
    with pytest.raises(UnsupportedLayer, match="HiTSRF.*register_lowering"):
        bitsr.save(small, tmp_path / "small.bitsr")

    def lower_network(module: HiTSRF, builder: Builder, x: str) -> str:
        return builder.apply(builder.apply(x, module.conv_first), module.layers)

    def lower_group(module: Group, builder: Builder, x: str) -> str:
        return builder.apply(x, module.residual_group["blocks"])

    def lower_block(module: Block, builder: Builder, x: str) -> str:
        return builder.add(x, builder.apply(x, module.correlation))

    for kind, function in ((HiTSRF, lower_network), (Group, lower_group), (Block, lower_block)):
        monkeypatch.setattr(kind, "lower", lambda self, b, x, f=function: f(self, b, x), raising=False)
    with pytest.raises(UnsupportedLayer, match=r"layers\.0\.residual_group\.blocks\.0\.correlation \(Correlation\)"):
        bitsr.save(small, tmp_path / "small.bitsr")
    assert not (tmp_path / "small.bitsr").exists()


# ---- the story ------------------------------------------------------------------------------------------------------


def test_the_story_runs_from_weights_to_packed_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import compress_your_own

    from small_files import write_pictures

    module = tiny(CARNM, scale=4, features=8, groups=2)
    monkeypatch.setattr(compress_your_own, "build", lambda *_: module)
    monkeypatch.setattr(bitsr, "Best", lambda **_: QUICK, raising=False)
    monkeypatch.setattr(bitsr, "calibration_crops", lambda *_: pictures(), raising=False)
    write_pictures(tmp_path / "set", ["a.png"])
    main("carn_m", tmp_path / "weights.pth", tmp_path / "set", output=tmp_path / "small.bitsr")
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["floating point", "4 bit, simulated", "4 bit, packed"]
    assert f"{(tmp_path / 'small.bitsr').stat().st_size} bytes" in lines[-1]
