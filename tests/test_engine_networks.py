"""Whole networks on the native engine: threads, sizes, instruction sets, and the networks that come with bitsr."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitsr.engine.coverage import page

_native = pytest.importorskip("bitsr._native", reason="the native engine was not built")
torch = pytest.importorskip("torch")

import bitsr  # noqa: E402
import bitsr.engine.engine as engine_module  # noqa: E402
from bitsr.data.imresize import imresize  # noqa: E402
from bitsr.data.pictures import read_picture  # noqa: E402
from bitsr.engine.engine import Engine  # noqa: E402
from bitsr.errors import BitsrError, ConfigError, PictureError  # noqa: E402
from bitsr.evaluation.metrics import psnr_y  # noqa: E402
from bitsr.format import read_bytes  # noqa: E402
from bitsr.lowering import lower  # noqa: E402
from bitsr.lowering.torch_arrays import TorchArrays  # noqa: E402
from bitsr.program.program import Program  # noqa: E402
from bitsr.program.reference import run  # noqa: E402
from bitsr.program.shapes import BadProgram  # noqa: E402
from bitsr.runtime.backends import make_runner  # noqa: E402
from bitsr.runtime.memory import MODEST, input_pixels_that_fit  # noqa: E402
from engine_programs import error, program_of, random_map, relative_rms  # noqa: E402
from packed_files import DATA, PICTURE, content_of, small_program, with_content  # noqa: E402
from test_hostile_programs import places  # noqa: E402
from tiny import BITS, NETWORKS, hwc, make, picture, quantize_roughly  # noqa: E402

TESTS = Path(__file__).parent


def test_the_page_of_what_runs_where_is_up_to_date() -> None:
    written = TESTS.parent / "docs" / "engine-coverage.md"
    assert written.read_text(encoding="utf-8") == page(), "python -m bitsr.engine.coverage > docs/engine-coverage.md"


@pytest.mark.parametrize("isa", [isa for isa in _native.isas() if isa != _native.isa()])
def test_steps_on_every_instruction_set(isa: str) -> None:
    """This process has its own; the others need one each."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        str(TESTS / "test_engine_steps.py"),
        str(TESTS / "test_engine_attention.py"),
        str(TESTS / "test_engine_binary.py"),
    ]
    environment = {**os.environ, "BITSR_ISA": isa, "PYTHONPATH": str(Path(bitsr.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=TESTS)
    assert done.returncode == 0, done.stdout[-3000:]


def test_an_unknown_instruction_set_is_one_clear_error() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from packed_files import small_program\nfrom bitsr.errors import ConfigError\n"
        "from bitsr.runtime.backends import make_runner\n"
        "try:\n    make_runner(small_program(), 'native')\nexcept ConfigError as error:\n    print(error)"
    )
    environment = {**os.environ, "BITSR_ISA": "mmx", "PYTHONPATH": str(Path(bitsr.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code, str(TESTS)], capture_output=True, text=True, env=environment)
    assert "mmx" in done.stdout, done.stderr


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_in_floating_point(name: str) -> None:
    module = make(name)
    program, x = lower(module, precision="fp32"), hwc(picture(module))
    expected, ours = run(program, x), Engine(program)(x)
    assert error(ours, expected) <= 1e-5
    np.testing.assert_array_equal(Engine(program, fuse=False)(x, threads=2), ours)
    assert relative_rms(Engine(program, "bf16")(x), expected) <= 2**-7


@pytest.mark.parametrize("bits", ["w4a4", "mixed"])
@pytest.mark.parametrize("name", NETWORKS)
def test_quantized_networks(name: str, bits: str) -> None:
    """A rounding that differs may move a code, which then is a whole step away."""
    module = quantize_roughly(make(name), BITS[bits], input_scales=bits == "mixed")
    program, x = lower(module, precision="fp32"), hwc(picture(module))
    expected, ours = run(program, x), Engine(program)(x)
    assert relative_rms(ours, expected) <= 5e-3
    np.testing.assert_array_equal(Engine(program, fuse=False)(x, threads=2), ours)


@pytest.fixture(scope="module")
def swinir() -> Program:
    return lower(quantize_roughly(make("swinir light x4"), BITS["w8a8"]), precision="fp32")


def test_results_do_not_depend_on_threads_and_sizes_may_change(swinir: Program) -> None:
    engine = Engine(swinir)
    sizes = [(8, 8), (19, 70), (1, 1), (33, 5), (16, 130), (7, 9), (8, 8)]
    for height, width in sizes:
        x = random_map(height, width, 3, seed=height)
        y = engine(x)
        assert relative_rms(y, run(swinir, x)) < 5e-3
        for threads in (1, 2, 5):
            np.testing.assert_array_equal(engine(x, threads), y)
    np.testing.assert_array_equal(engine(x.astype(np.float64)[::-1]), engine(np.ascontiguousarray(x[::-1])))


def test_python_threads_share_an_engine(swinir: Program) -> None:
    engine = Engine(swinir)
    pictures = [random_map(9 + i % 3, 30 + i % 2, 3, seed=i) for i in range(24)]
    alone = [engine(x) for x in pictures]
    with ThreadPoolExecutor(6) as pool:
        for ours, theirs in zip(pool.map(lambda x: engine(x, 2), pictures), alone, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_few_plans_are_kept(swinir: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(swinir)
    for width in range(8, 16):
        engine(random_map(8, width, 3))
    assert list(engine._plans) == [(8, 12), (8, 13), (8, 14), (8, 15)]
    monkeypatch.setattr(engine_module, "PLANS_BYTES", 0)
    engine(random_map(8, 12, 3))
    assert len(engine._plans) == 4  # it was there already
    engine(random_map(8, 9, 3))
    assert list(engine._plans) == [(8, 9)]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38])
def test_numbers_that_are_none_do_no_harm(swinir: Program, value: float) -> None:
    x = np.full((9, 11, 3), value, np.float32)
    for precision in ("fp32", "bf16"):
        assert Engine(swinir, precision)(x).shape == (36, 44, 3)  # type: ignore[arg-type]


def test_pictures_and_programs_that_cannot_be_run() -> None:
    engine = Engine(small_program())
    assert error(engine(PICTURE), run(small_program(), PICTURE)) < 0.01
    for shape in ((4, 4), (4, 4, 1), (0, 4, 3)):
        with pytest.raises(PictureError, match="takes HxWx3"):
            engine(np.zeros(shape, np.float32))
    with pytest.raises(PictureError, match="cannot take a picture of 5x5 pixels"):
        Engine(lower(make("rfdn")))(np.zeros((5, 5, 3), np.float32))
    with pytest.raises(BadProgram):
        Engine(program_of(5, *small_program().steps))


def test_numbers_out_of_range_do_no_harm() -> None:
    """Anywhere in the steps of a valid file: the engine runs the program or refuses it by name."""
    content, accepted = content_of(DATA), 0
    for holder, key in list(places(content["steps"])):
        before = holder[key]
        for value in (0, 7, -1e300, 1e300):
            holder[key] = value
            with suppress(BitsrError):
                Engine(read_bytes(with_content(content)))(PICTURE)
                accepted += 1
        holder[key] = before
    assert accepted > 10


def test_native_backends() -> None:
    names = [make_runner(small_program(), name)[0] for name in ("auto", "native", "native-bf16")]
    assert names == ["native", "native", "native-bf16"]
    ours = bitsr.Model(small_program(), backend="native", threads=2)(PICTURE)
    np.testing.assert_allclose(ours, bitsr.Model(small_program(), backend="reference")(PICTURE), atol=0.01)


def test_without_its_native_part_bitsr_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsr._native", None)
    with pytest.raises(ConfigError, match="no native engine"):
        make_runner(small_program(), "native")
    assert make_runner(small_program(), "auto")[0] == "torch"


def test_networks_that_tiles_do_not_change_run_in_modest_memory() -> None:
    counts = {}
    for name in ("swinir light x4", "rfdn"):
        program = lower(make(name))
        engine = Engine(program)
        counts[name] = pixels = input_pixels_that_fit(program, engine.arena_bytes)
        side = math.isqrt(pixels) // 8 * 8
        if program.descriptor.tiling != "global":
            assert MODEST / 2 < engine.arena_bytes(side, side) <= MODEST * 1.1
    assert counts["rfdn"] > 10**5  # tiles would change its result


@pytest.mark.parametrize("bits", [None, "w8a8"])
@pytest.mark.parametrize(("name", "side"), [("rfdn_x4", 512), ("swinir_light_x4", 160)])
def test_bundled_networks_on_set5(name: str, side: int, bits: str | None, shared: Path) -> None:
    """PSNR-Y against ``side`` x ``side`` HR pixels, within 0.01 dB of the interpreter's (0.02 in bf16)."""
    module: Any = bitsr.load(Path(bitsr.__file__).parent / "assets" / "models" / f"{name}.safetensors")
    descriptor = module.descriptor
    if bits is not None:
        quantize_roughly(module, BITS[bits])
        module.descriptor = descriptor
    program = lower(module)
    hr = read_picture(shared / "data" / "benchmarks" / "Set5" / "HR" / "baby.png").rgb[-side:, -side:]
    lr = np.clip(np.rint(imresize(hr.astype(np.float64), 1 / 4)), 0, 255).astype(np.float32) / 255
    with torch.inference_mode():
        expected = psnr_of(run(program, lr, TorchArrays()), hr)
    assert psnr_of(Engine(program)(lr), hr) == pytest.approx(expected, abs=0.01)
    assert psnr_of(Engine(program, "bf16")(lr), hr) == pytest.approx(expected, abs=0.02)


def psnr_of(y: np.ndarray, hr: np.ndarray) -> float:
    return psnr_y(np.rint(np.clip(y, 0, 1) * 255).astype(np.uint8), hr, 4)
