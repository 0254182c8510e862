"""`bitsr analyze`: its numbers against what they are said to be, its files, its picture."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import bitsr
from bitsr.analysis.measure import Analysis, Loss, analyze, layer_corrections
from bitsr.analysis.picture import COLOURS, Bar, draw_sections
from bitsr.analysis.report import layers_csv, loss_table, losses_csv, share_table, to_dict, verdict
from bitsr.archs.upscaler import ModuleUpscaler
from bitsr.cli.main import main
from bitsr.data.benchmark import Pair
from bitsr.data.imresize import imresize
from bitsr.evaluation.metrics import psnr_y, ssim_y
from bitsr.methods.ptq.config import Dobi
from ptq_quick import NETWORKS
from small_files import write_checkpoint, write_pictures
from tiny import make


def pairs_of(module: torch.nn.Module) -> list[Pair]:
    """Smooth pictures, and what the network itself makes of them, with noise."""
    rng, upscaler = np.random.default_rng(3), ModuleUpscaler(module)
    found = []
    for number in range(2):
        lr = imresize((rng.random((8, 8, 3)) * 255).astype(np.uint8), 3)
        hr = upscaler(lr) + rng.normal(0, 2, (24 * upscaler.descriptor.scale,) * 2 + (3,))
        found.append(Pair(str(number), lr, np.clip(np.rint(hr), 0, 255).astype(np.uint8)))
    return found


@pytest.fixture(scope="module", params=NETWORKS)
def case(request: pytest.FixtureRequest) -> tuple[torch.nn.Module, list[Pair], Analysis]:
    module = make(request.param)
    pairs = pairs_of(module)
    return module, pairs, analyze(module, [pair.lr for pair in pairs], pairs, (8, 2))


def test_losses_are_those_of_compressed_networks(case: tuple[torch.nn.Module, list[Pair], Analysis]) -> None:
    module, pairs, found = case
    scale = module.descriptor.scale
    expected = {"weights": Dobi(2, 32), "activations": Dobi(32, 2), "both": Dobi(2, 2)}
    assert [(loss.bits, loss.operand) for loss in found.losses] == [(b, o) for b in (8, 2) for o in expected]
    for loss in found.losses[3:]:
        run = ModuleUpscaler(bitsr.compress(module, expected[loss.operand], [pair.lr for pair in pairs]))
        outputs = [(run(pair.lr), pair.hr) for pair in pairs]
        assert loss.psnr_y == pytest.approx(np.mean([psnr_y(*both, scale) for both in outputs]))
        assert loss.ssim_y == pytest.approx(np.mean([ssim_y(*both, scale) for both in outputs]))
        assert loss.psnr_loss == pytest.approx(found.psnr_y - loss.psnr_y)
    assert found.losses[2].psnr_loss < found.losses[5].psnr_loss


def test_shares_add_up(case: tuple[torch.nn.Module, list[Pair], Analysis]) -> None:
    _, _, found = case
    for bits in (8, 2):
        own = [share for share in found.shares if share.bits == bits]
        assert sum(share.share for share in own) == pytest.approx(1)
        whole = sum(alone.error(bits, bits) for alone in found.sensitivities.values())
        (convolutions,) = (s for s in own if (s.kind, s.operand) == ("convolution", "weights"))
        weights = sum(a.weights[bits] for a in found.sensitivities.values() if a.kind == "convolution")
        assert convolutions.share == pytest.approx(weights / whole)
        assert convolutions.layers == sum(a.kind == "convolution" for a in found.sensitivities.values())


def test_corrections_help_more_where_inputs_have_few_bits(
    case: tuple[torch.nn.Module, list[Pair], Analysis],
) -> None:
    _, _, found = case
    size, left = ({b: np.median([getattr(c, what) for c in found.corrections if c.bits == b]) for b in (8, 2)}
                  for what in ("size", "error_left"))  # fmt: skip
    assert 0 < size[8] < size[2] < 1 and left[2] < 0.95 and left[2] < left[8]
    assert {c.layer for c in found.corrections} == {n for n, a in found.sensitivities.items() if a.weights}
    assert [gain.bits for gain in found.gains] == [8, 2]


def test_layers_that_are_not_quantized_are_not_corrected(case: tuple[torch.nn.Module, list[Pair], Analysis]) -> None:
    module, pairs, _ = case
    found = layer_corrections(module, [pair.lr for pair in pairs], 2, "paper", 0)
    linear = {c.kind for c in found} == {"linear"}
    assert linear == any(isinstance(part, torch.nn.Linear) for part in module.modules())


def test_tables_and_files(case: tuple[torch.nn.Module, list[Pair], Analysis]) -> None:
    _, _, found = case
    losses = list(csv.DictReader(losses_csv(found, "net").splitlines()))
    assert [row["operand"] for row in losses] == ["none", *["weights", "activations", "both"] * 2]
    assert float(losses[6]["psnr_loss"]) == pytest.approx(found.losses[5].psnr_loss, abs=1e-4)
    layers = list(csv.DictReader(layers_csv(found, "net").splitlines()))
    assert len(layers) == 2 * len(found.sensitivities)
    assert all(row["src_size"] for row in layers if row["error_weights"])
    headings, rows = loss_table(found)
    assert len(rows) == 6 and {len(row) for row in rows} == {len(headings)}
    assert json.loads(json.dumps(to_dict(found), allow_nan=False))["pictures"] == 2
    assert all(row[-1].endswith("%") for row in share_table(found)[1])  # type: ignore[union-attr, attr-defined]


def test_the_verdict() -> None:
    def losses(*values: float) -> list[Loss]:
        return [Loss(4, operand, 30, 0.9, values[i], values[i + 1]) for i, operand in
                ((0, "weights"), (2, "activations"), (2, "both"))]  # type: ignore[arg-type]  # fmt: skip

    (line,) = verdict(losses(0.1, 0.02, 0.5, 0.01))
    assert line == "4 bits: activations cost more PSNR, weights more SSIM, weights more SSIM for each dB"
    (line,) = verdict(losses(0.6, 0.02, 0.5, 0.03))
    assert line == "4 bits: weights cost more PSNR, activations more SSIM, activations more SSIM for each dB"
    assert verdict(losses(0.001, 0.0, 0.5, 0.01)) == []


def test_the_picture_draws_bars_to_scale() -> None:
    bars = [Bar("a", ((1.0, "weights"),), "1"), Bar("b", ((1.0, "weights"), (1.0, "activations")), "2")]
    image = np.asarray(draw_sections([("section", bars)], "title"))
    body = image[160:]  # below the legend
    blue, orange = (
        np.all(body == [int(COLOURS[name][i : i + 2], 16) for i in (1, 3, 5)], axis=-1).sum(1)
        for name in ("weights", "activations")
    )
    lengths = [int(n) for n in blue if n]
    assert max(lengths) - min(lengths) <= 1 and abs(max(orange) - max(blue)) <= 1
    assert (orange > 0).sum() * 2 == (blue > 0).sum()


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = write_checkpoint(tmp_path / "tiny.safetensors", scale=2)
    calib = write_pictures(tmp_path / "calib", ["a.png", "b.png"], 160, 160)
    words = ["analyze", str(checkpoint), "--calib", str(calib), "--data", str(calib), "--limit", "1", "--bits", "4"]
    kept: list[Analysis] = []

    def once(*arguments: object, **options: object) -> Analysis:
        if not kept:
            kept.append(analyze(*arguments, **options))  # type: ignore[arg-type]
        return kept[0]

    monkeypatch.setattr("bitsr.analysis.measure.analyze", once)
    assert main([*words, "-o", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "one operand of all layers quantized" in out and "structural residual correction" in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "losses.csv", "layers.csv", "analysis.json", "analysis.png",
    }  # fmt: skip
    assert Image.open(tmp_path / "out" / "analysis.png").width == 1600
    written = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert main([*words, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == written and printed["pictures"] == 1 and printed["scale"] == 2


@pytest.mark.parametrize(
    "words", [["--bits", "5"], ["--bits", "4,,8"], ["--bits", "16"], ["--limit", "3"]], ids=" ".join
)
def test_bad_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "a.pth", *words]) == 2
    assert capsys.readouterr().err.startswith("error: ")
