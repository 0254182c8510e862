"""Mixed precision: what a layer alone costs, the choice under limits, and goals that are measured."""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import bitsr
from bitsr.archs.upscaler import ModuleUpscaler
from bitsr.cli.main import main
from bitsr.data.benchmark import Pair
from bitsr.data.calibration import calibration_crops, held_out_pairs, pair_per_picture, split
from bitsr.data.imresize import imresize
from bitsr.errors import ConfigError, PictureError
from bitsr.methods.ptq import mixed
from bitsr.methods.ptq.allocation import LayerSize, Option, best_options, stdout_to_stderr
from bitsr.methods.ptq.bounds import both_ends
from bitsr.methods.ptq.config import Dobi, MinMax
from bitsr.methods.ptq.goals import Budget, MaxDrop
from bitsr.methods.ptq.mixed import compress_to_budget, compress_within_drop, packed_bytes
from bitsr.methods.ptq.pipeline import begin, finish, simple_stages, to_batches
from bitsr.methods.ptq.sensitivity import WIDTHS, Replay, sensitivities
from bitsr.methods.ptq.survey import layer_sizes, survey
from bitsr.parts.quantizer import AffineQuantizer
from bitsr.program.counting import count_layers
from ptq_quick import NETWORKS, distance
from small_files import write_pictures
from tiny import make

Pictures = list[np.ndarray]


# ---- sensitivities -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_a_layer_alone_costs_what_compressing_it_alone_does(name: str, pictures: Pictures) -> None:
    """Of its weights and of its inputs; other layers are in floating point, and blocks before it are only replayed."""
    module = make(name)
    found = sensitivities(module, MinMax(), pictures, pictures, widths=(2, 6))
    layers = list(begin(module, pictures, MinMax(), 0).layers)
    assert list(found) == layers
    x = torch.cat(to_batches(pictures, module.descriptor))
    for layer in (layers[0], layers[len(layers) // 2], layers[-2], layers[-1]):
        alone = found[layer]
        for w_bits, a_bits, measured in ((2, 32, alone.weights), (32, 6, alone.activations)):
            if not measured:
                continue
            bits = dict.fromkeys(layers, (32, 32)) | {layer: (w_bits, a_bits)}
            work = begin(module, pictures, MinMax(layer_bits=bits), 0)
            for stage in simple_stages(both_ends, both_ends):
                stage(work)
            found_alone = distance(finish(work), module, x)
            assert measured[min(w_bits, a_bits)] == pytest.approx(found_alone, rel=0.35), layer
    kinds = {alone.kind for alone in found.values()}
    assert kinds == ({"convolution"} if name == "edsr" else {"convolution", "linear", "attention"})


@pytest.mark.parametrize("name", NETWORKS)
def test_replayed_blocks_change_nothing(name: str, pictures: Pictures) -> None:
    work = begin(make(name), pictures, MinMax(), 0)
    network = Replay(work, work.batches[0])
    last = list(work.layers)[-1]
    assert network.error() == 0
    work.layers[last].quantizer = AffineQuantizer(3, -1.0, 1.0)
    plain = network.error()
    with network.upto(last):
        assert any("forward" in vars(work.student.get_submodule(block)) for _, block, _ in network.blocks)
        assert network.error() == plain > 0
    assert not any("forward" in vars(work.student.get_submodule(block)) for _, block, _ in network.blocks)


def test_more_bits_cost_less_and_floating_point_nothing(pictures: Pictures) -> None:
    found = sensitivities(make("edsr"), MinMax(), pictures, pictures)
    for alone in found.values():
        assert alone.weights[2] > alone.weights[8] and alone.activations[2] > alone.activations[8]
        assert alone.error(16, 32) == 0 and alone.error(4, 8) == alone.weights[4] + alone.activations[8]


# ---- sizes and choices ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [(8, 8), (4, 6), (16, 16)])
def test_sizes_are_those_of_the_packed_file(bits: tuple[int, int], pictures: Pictures) -> None:
    module = make("edsr")
    sizes = layer_sizes(module, MinMax(), pictures)
    small = bitsr.compress(module, MinMax(layer_bits=dict.fromkeys(sizes, bits)), pictures)
    height, width = pictures[0].shape[:2]
    for layer in count_layers(bitsr.lower(small), height, width):
        assert sizes[layer.name].file_bytes(bits[0]) == layer.bytes
        assert sizes[layer.name].bit_ops(*bits) == layer.bit_ops


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_a_file_beside_its_layers_is_as_large_at_any_bits(bits: int, pictures: Pictures) -> None:
    """Some layers of RFDN are at the config's bits without being named."""
    module = make("rfdn")
    found = survey(module, Dobi(bits, bits), pictures, pictures)
    assert 0 < mixed._overhead(module, found, pictures) < 12_000


def test_attention_products_are_counted(pictures: Pictures) -> None:
    module = make("swinir light x4")
    sizes = layer_sizes(module, MinMax(), pictures)
    small = bitsr.compress(module, MinMax(layer_bits=dict.fromkeys(sizes, (4, 6))), pictures)
    (counted,) = {layer.bit_ops for layer in count_layers(bitsr.lower(small), 24, 24) if layer.kind == "attention"}
    name = next(name for name in sizes if name.endswith("matmul_qk")).removesuffix("qk")
    assert sum(sizes[name + part].bit_ops(4, 6) for part in ("qk", "av")) == counted
    assert sizes[name + "qk"].file_bytes(4) == 0


def random_options(seed: int, layers: int = 5) -> dict[str, list[Option]]:
    rng = np.random.default_rng(seed)
    sizes = [LayerSize(int(n), 8, True, int(m)) for n, m in rng.integers(100, 5000, (layers, 2))]
    return {
        f"layer{i}": [
            Option(w, a, float(rng.random() * (4.0**-w + 4.0**-a)), size.file_bytes(w), size.bit_ops(w, a))
            for w, a in itertools.product((2, 4, 8), (2, 8))
        ]
        for i, size in enumerate(sizes)
    }


@pytest.mark.parametrize("seed", range(4))
def test_the_choice_is_the_best_of_all(seed: int) -> None:
    options = random_options(seed)

    def total(chosen: object, quantity: str) -> float:
        return sum(getattr(option, quantity) for option in chosen)  # type: ignore[attr-defined]

    eight = [several[-1] for several in options.values()]
    limits = {"file_bytes": 0.6 * total(eight, "file_bytes"), "bit_ops": 0.4 * total(eight, "bit_ops")}
    chosen = best_options(
        options, lambda o: o.error,
        [(lambda o: o.file_bytes, limits["file_bytes"]), (lambda o: o.bit_ops, limits["bit_ops"])],
    )  # fmt: skip
    possible = (c for c in itertools.product(*options.values()) if all(total(c, q) <= limits[q] for q in limits))
    assert total(chosen.values(), "error") == pytest.approx(min(total(c, "error") for c in possible), rel=1e-5)


def test_the_solver_leaves_stdout_alone(capfd: pytest.CaptureFixture[str]) -> None:
    print_to = ctypes.CDLL(None).puts
    with stdout_to_stderr():
        print_to(b"of a library")
    print("of ours", flush=True)
    out, err = capfd.readouterr()
    assert out == "of ours\n" and err == "of a library\n"


def test_limits_that_nothing_meets_are_refused() -> None:
    for limit in (10.0, 0.0, -5.0):
        with pytest.raises(ConfigError, match="narrowest choice"):
            best_options(random_options(0), lambda o: o.error, [(lambda o: o.file_bytes, limit)])
    for none in ({}, {"file_bytes": 0}, {"bit_ops": -1.0}):
        with pytest.raises(ConfigError, match="budget"):
            Budget(**none)


# ---- goals ---------------------------------------------------------------------------------------------------------


def bit_ops(module: torch.nn.Module) -> int:
    return sum(layer.bit_ops for layer in count_layers(bitsr.lower(module)))


def test_a_budget_is_kept_and_used(pictures: Pictures) -> None:
    """At the bytes and BitOps of 4 bits everywhere the mixture is closer to the full-precision network."""
    module = make("edsr")
    uniform = bitsr.compress(module, Dobi(), pictures)
    size = packed_bytes(uniform)
    found = survey(module, Dobi(), pictures, pictures)
    small = compress_to_budget(module, found, pictures, Budget(size, 1.0))
    assert packed_bytes(small) <= size
    assert bit_ops(small) <= bit_ops(uniform)
    x = to_batches(pictures, module.descriptor)[0]
    assert distance(small, module, x) < distance(uniform, module, x)


def test_layers_given_by_name_keep_their_bits(pictures: Pictures) -> None:
    config = MinMax(layer_bits={"conv_first": (3, 6), "conv_last": (16, 16)})
    chosen = mixed.allocate_bits(make("edsr"), config, pictures, pictures, Budget(bit_ops=30.0))
    assert chosen.layer_bits["conv_first"] == (3, 6) and chosen.layer_bits["conv_last"] == (16, 16)
    assert len(chosen.layer_bits) > 4


def pairs_of(module: torch.nn.Module, noise: float = 2.0) -> list[Pair]:
    """Smooth pictures, and what the network itself makes of them, with noise: its PSNR is that of the noise."""
    rng, upscaler = np.random.default_rng(3), ModuleUpscaler(module)
    found = []
    for number in range(3):
        lr = imresize((rng.random((8, 8, 3)) * 255).astype(np.uint8), 3)
        hr = upscaler(lr) + rng.normal(0, noise, (24 * upscaler.descriptor.scale,) * 2 + (3,))
        found.append(Pair(str(number), lr, np.clip(np.rint(hr), 0, 255).astype(np.uint8)))
    return found


def test_attention_keeps_the_bits_that_it_is_given(pictures: Pictures) -> None:
    module = make("swinir light x4")
    found = survey(module, MinMax(4, 4, attention_bits=8), pictures, pictures)
    for chosen in (found.within(None, 0.6 * found.total(found.uniform, "bit_ops")), found.cheapest(1e-3)):
        products = [pair for name, pair in chosen.layer_bits.items() if "matmul" in name]
        assert products and set(products) == {(8, 8)}


def test_a_drop_is_kept_and_used() -> None:
    module = make("edsr")
    pairs = pairs_of(module)
    pictures = [pair.lr for pair in pairs]
    judged = [pairs[int(np.argmax(mixed.scores(module, pairs)))]]  # the best quarter of three
    full = mixed.scores(module, judged)
    ops = {}
    found = survey(module, MinMax(2, 2), pictures, pictures)
    for drop in (0.1, 1.0):
        small = compress_within_drop(module, found, pictures, pairs, MaxDrop(drop))
        lost = float(np.mean(full - mixed.scores(small, judged)))
        assert 0.3 * drop < lost <= drop and small.compression["drop_db"] == pytest.approx(lost, abs=1e-3)
        ops[drop] = bit_ops(small)
    assert ops[1.0] < ops[0.1]
    found = dataclasses.replace(found, config=MinMax(6, 8))
    least = compress_within_drop(module, found, pictures, pairs, MaxDrop(3.0)).compression["layer_bits"]
    assert min(w for w, _ in least.values()) >= 6 and min(a for _, a in least.values()) >= 8


def test_drops_that_cannot_be_kept_are_refused() -> None:
    module = make("edsr")
    pairs = pairs_of(module)
    pictures = [pair.lr for pair in pairs]
    found = survey(module, MinMax(16, 16), pictures, pictures)
    with pytest.raises(ConfigError, match="no choice of bits"):
        compress_within_drop(module, found, pictures, pairs, MaxDrop(0.1))
    for none in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="above 0"):
            MaxDrop(none)


@pytest.mark.parametrize("drop", [0.01, 0.5, 4.0])
def test_the_error_that_makes_a_drop(drop: float) -> None:
    full = np.array([25.0, 31.0, 40.0])
    error = mixed.error_of_drop(full, drop)
    assert np.mean(full + 10 * np.log10(10 ** (-full / 10) + error)) == pytest.approx(drop, rel=1e-6)


# ---- pictures ------------------------------------------------------------------------------------------------------


def test_held_out_pictures(tmp_path: Path) -> None:
    few, many = write_pictures(tmp_path / "few", ["a.png", "b.png"]), [Path(f"{i:02}.png") for i in range(25)]
    assert split(few) == ([few / "a.png", few / "b.png"],) * 2
    calibration, held = split(many)
    assert held == [many[9], many[19]] and sorted(calibration + held) == many
    pairs = held_out_pairs(few, 2, count=3, size=16)
    assert {pair.name for pair in pairs} == {"a.png", "b.png"} and pairs[0].hr.shape == (32, 32, 3)
    inner = pairs[0].lr[4:-4, 4:-4].astype(int) - imresize(pairs[0].hr, 1 / 2)[4:-4, 4:-4]
    assert np.abs(inner).max() == 0  # away from its border a crop's LR is that of the whole picture
    assert all(np.array_equal(a.lr, b.lr) for a, b in zip(pairs, held_out_pairs(few, 2, 3, 16), strict=True))
    with pytest.raises(PictureError, match="at least 128x128"):
        held_out_pairs(few, 2, size=64)
    assert len(calibration_crops(split(few)[0], 2, count=3, size=16)) == 3


def test_one_pair_of_each_picture(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "large", ["a.png", "b.png", "c.png"], 80, 96)
    write_pictures(folder, ["tiny.png"], 62, 96)
    pairs = pair_per_picture(folder, 2, pixels=3 * 44**2 + 5)
    assert sorted(pair.name for pair in pairs) == ["a.png", "b.png", "c.png"]
    for pair in pairs:
        assert pair.lr.shape == (40, 44, 3) and pair.hr.shape == (80, 88, 3)
        assert np.array_equal(pair.lr[4:-4, 4:-4], imresize(pair.hr, 1 / 2)[4:-4, 4:-4])
    assert len(pair_per_picture(folder, 2, count=2)) == 2
    with pytest.raises(PictureError, match="at least 128x128"):
        pair_per_picture(folder, 4)


# ---- command line --------------------------------------------------------------------------------------------------


def test_compress_under_a_budget_and_a_drop(
    checkpoint: Path, calib: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = tmp_path / "tiny.bitsr"
    words = ["compress", str(checkpoint), "-o", str(packed), "--calib", str(calib), "--method", "minmax"]
    assert main([*words]) == 0
    size = packed.stat().st_size
    assert main([*words, "--budget", f"{size + 1000}B,100%"]) == 0
    assert packed.stat().st_size <= size + 1000 and "mixed" in capsys.readouterr().out
    small = bitsr.compress_within(bitsr.load(checkpoint), MinMax(), Budget(size + 1000, 1.0), calib)
    bitsr.save(small, tmp_path / "python.bitsr")
    assert (tmp_path / "python.bitsr").read_bytes() == packed.read_bytes()
    assert main([*words, "--max-drop", "0.4", "--bits", "6"]) == 0
    assert "loss on the quarter of the crops" in capsys.readouterr().out
    assert main(["info", str(packed), "--json"]) == 0
    compression = json.loads(capsys.readouterr().out)["meta"]["compression"]
    assert compression["drop_db"] <= 0.4 and min(map(min, compression["layer_bits"].values())) >= 6
    assert main([*words, "--budget", "1KiB"]) == 1
    assert "limit" in capsys.readouterr().err


@pytest.mark.parametrize(
    "goal",
    [["--budget", "300"], ["--budget", "3 apples"], ["--budget", "0KiB"], ["--budget", ""], ["--max-drop", "0"],
     ["--max-drop", "nan"], ["--budget", "80%", "--max-drop", "1"]],
    ids=" ".join,
)  # fmt: skip
def test_bad_goals_exit_with_2(goal: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", "a.pth", "-o", "b.bitsr", *goal]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_all_widths_are_measured() -> None:
    assert set(WIDTHS) | {16, 32} == set(bitsr.methods.ptq.config.BITS)
