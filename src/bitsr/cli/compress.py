"""`bitsr compress`: a checkpoint becomes a packed file of few bits."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction

import bitsr
from bitsr.cli.config import choose_config
from bitsr.cli.console import Flag, UsageError, emit_json, human_bytes, option, print_table, warn, working
from bitsr.cli.goal import parse_goal
from bitsr.cli.models import load_checkpoint
from bitsr.cli.quality import judges_beside, judges_of_choice, measure_quality
from bitsr.data.calibration import crops_and_rest
from bitsr.data.files import check_output
from bitsr.errors import ConfigError
from bitsr.format import SUFFIX, is_packed

FEWEST_BITS, FLOATING = 2, 16
BELOW_BICUBIC = (
    "the packed file is below bicubic on these pictures: take more bits, the default method with --effort default or "
    "max, or --max-drop"
)


def compress(
    model: Annotated[Positional[Path], option("MODEL")],
    /,
    *,
    output: Annotated[Path, option("OUT.bitsr", "-o")],
    method: Annotated[str | None, option("NAME")] = None,
    bits: Annotated[int | None, option("N")] = None,
    w_bits: Annotated[int | None, option("N")] = None,
    a_bits: Annotated[int | None, option("N")] = None,
    effort: Annotated[Literal["fast", "default", "max"] | None, option("fast|default|max")] = None,
    calib: Annotated[Path | None, option("DIR")] = None,
    config: Annotated[Path | None, option("FILE")] = None,
    options: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], option("KEY=VALUE ...", name="set")] = (),
    scope: Annotated[Literal["paper", "full"] | None, option("paper|full")] = None,
    budget: Annotated[str | None, option("SIZE|SHARE")] = None,
    max_drop: Annotated[float | None, option("DB")] = None,
    precision: Literal["fp16", "fp32"] = "fp16",
    scale: Annotated[int | None, option("N")] = None,
    color: Annotated[Literal["rgb", "y", "ycbcr"] | None, option("rgb|y|ycbcr")] = None,
    input_range: Annotated[Literal[1, 255] | None, option("1|255")] = None,
    seed: Annotated[int, option("N")] = 0,
    device: Literal["cpu", "cuda"] = "cpu",
    threads: Annotated[int | None, option("N")] = None,
    json: Flag = False,
) -> int:
    """Compress a checkpoint to few bits and pack it into one file.

    Args:
        model: checkpoint (.safetensors, .pth); the network is found from its weights
        output: the packed file; its name ends in .bitsr
        method: minmax, percentile, dobi, 2dquant, dbdc-pac, pams, smoothquant, repq, gptq, svdquant, adaround, brecq,
            qdrop, harmoq, harmoq-literal; left out: best, the best known one
        bits: bits of weights and activations: 2, 3, 4, 6, 8; 16 or 32 leave them in floating point (default: 4)
        w_bits: bits of the weights alone
        a_bits: bits of the activations alone
        effort: of the default method: fast takes about a minute, default a few, max half an hour or more
        calib: folder of HR pictures to calibrate on (default: the bundled ones)
        config: YAML or JSON file with the method and its options, instead of --method, --bits and --scope
        options: options of the method, for example --set learn_steps=300 (repeatable)
        scope: full packs every layer; paper leaves out what the papers leave out (default: full)
        budget: bits per layer under a limit: 300KiB of file, 80% of the BitOps of --bits, or both: 300KiB,80%
        max_drop: bits per layer, the cheapest that lose at most so many dB; --bits, 2 if left out, is then the least
        precision: of the numbers that stay in floating point
        scale: of a checkpoint that does not tell it (SRCNN); a check for all others
        color: what the network's channels are, where the checkpoint does not tell it
        input_range: 1 or 255: the range of the network's input, where the checkpoint does not tell it
        seed: of everything random: equal seeds give equal files
        device: where it is compressed
        threads: CPU threads
        json: print one JSON object
    """
    if not is_packed(output):
        raise UsageError(f"-o {output}: the name of a packed file ends in {SUFFIX}")
    check_output(output)
    goal = parse_goal(budget, max_drop)
    if isinstance(goal, bitsr.Budget) and goal.bit_ops is None and any(b is not None for b in (bits, w_bits, a_bits)):
        raise UsageError(f"--budget {budget} chooses the bits; leave out --bits, or limit BitOps too: {budget},100%")
    words = [word for group in options for word in group]
    least = None if max_drop is None else FEWEST_BITS
    chosen = choose_config(words, config, method, bits, w_bits, a_bits, scope, effort, least)
    module = load_checkpoint(model, device, threads, scale=scale, color=color, input_range=input_range)
    if problem := chosen.unpackable(has_attention(module)):
        raise ConfigError(problem)
    start = time.perf_counter()
    if goal is None:
        crops, rest = crops_and_rest(calib, module.descriptor.scale, chosen.crop_count, seed=seed)
        judges = judges_beside(calib, rest)
        with working(f"compressing {model.name} to W{chosen.w_bits}A{chosen.a_bits}"):
            small = bitsr.compress(module, chosen, crops, seed=seed).cpu()
    else:
        with working(f"choosing bits for the layers of {model.name}"):
            small = bitsr.compress_within(module, chosen, goal, calib, precision=precision, seed=seed).cpu()
        judges = judges_of_choice(calib)
    seconds = time.perf_counter() - start
    bitsr.save(small, output, precision=precision)
    with working("measuring what was lost"):
        quality = measure_quality(output, module, judges, seed, threads)
    before, after = model.stat().st_size, output.stat().st_size
    done: Any = small.compression
    named = f"W{chosen.w_bits}A{chosen.a_bits}" if min(chosen.w_bits, chosen.a_bits) < FLOATING else precision
    used = named if goal is None else "mixed"
    if json:
        content = {"file": str(output), "file_bytes": after, "checkpoint_bytes": before, "method": done["method"]}
        content |= {"bits": used, "seconds": seconds, "drop_db": done.get("drop_db")}
        emit_json(content | {"quality": None if quality is None else asdict(quality)})
    else:
        row = (output, done["method"], used, human_bytes(after), f"{after / before:.3f}", f"{seconds:.1f}")
        print_table(("packed file", "method", "bits", "size", "of checkpoint", "seconds"), [row])
        if quality is not None:
            print(quality)
        if max_drop is not None:
            print(f"loss on the quarter of the crops that full precision does best: {done['drop_db']:.3f} dB of PSNR-Y")
    if quality is not None and quality.below_bicubic:
        warn(BELOW_BICUBIC)
    return 0


def has_attention(module: Any) -> bool:
    """Whether the torch module multiplies by weights that a softmax makes."""
    from bitsr.parts.matmul import MatMul

    return any(isinstance(part, MatMul) and part.softmax for part in module.modules())
