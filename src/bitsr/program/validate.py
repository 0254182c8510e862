"""Is a program what it claims to be?  Every number in range, every tensor of its shape, every map of its size.

Both the writer and the reader of packed files ask; what passes can be run on any picture of a sensible size.
"""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import numpy as np

from bitsr.program import binary, steps
from bitsr.program.dataflow import binary_layers, packed_weights, tensors_of
from bitsr.program.program import Program
from bitsr.program.shapes import BadProgram, map_shapes
from bitsr.program.sparse import MOST_PLACES, places_of
from bitsr.program.steps import PackedWeight, Quantizer, Step

__all__ = ["BadProgram", "check_program"]

LIMITS = {  # step field -> smallest and largest value
    "stride": (1, 16), "padding": (0, 64), "groups": (1, 16384), "heads": (1, 256), "window": (1, 32),
    "margin": (0, 16), "factor": (1, 16), "kernel": (1, 64), "multiple": (1, 1024),
    "start": (0, 16384), "stop": (1, 16384), "count": (1, 16384),
    "rows": (1, 16384), "columns": (1, 16384),
}  # fmt: skip
DESCRIPTOR_LIMITS = {"scale": 16, "multiple": 1024, "min_size": 1024, "reach": 65536}
MAX_KERNEL = 64
MAX_STEPS = MAX_TENSORS = 100_000
MAX_NAME = 500
WORDS = ("function", "mode", "statistic")


def check_program(program: Program) -> None:
    """Check everything that can be known without running the program.

    Raises:
        BadProgram: the text names the step or the tensor and what is wrong with it.
    """
    _check_frame(program)
    for name, tensor in program.tensors.items():
        _check_tensor(name, tensor)
    for step in program.steps:
        try:
            _check_step(step, program)
        except BadProgram as error:
            raise BadProgram(f"step {step.output!r} ({type(step).__name__}): {error}") from None
    _check_use_of_tensors(program)
    _check_sizes(program)


def packed_bits(program: Program) -> dict[str, int]:
    """Bits per number of every tensor of whole numbers; raises BadProgram where two steps disagree."""
    bits: dict[str, int] = {}
    uses = [(weight.codes, weight.bits) for weight in packed_weights(program)]
    uses += [(step.weight.codes, code_bits(step.weight)) for step in binary_layers(program)]
    uses += [(step.places, 8) for step in program.steps if isinstance(step, steps.SparseLinear)]
    for codes, each in uses:
        if bits.setdefault(codes, each) != each:
            raise BadProgram(f"tensor {codes!r} is used with {bits[codes]} and with {each} bits")
    return bits


def code_bits(weight: steps.BinaryWeight) -> int:
    """Bits of the code of one block; raises BadProgram where blocks have no codes."""
    try:
        return (binary.states(weight.keep, weight.block) - 1).bit_length()
    except ValueError as error:
        raise BadProgram(str(error)) from None


def _check_frame(program: Program) -> None:
    descriptor = program.descriptor
    for field, most in DESCRIPTOR_LIMITS.items():
        value = getattr(descriptor, field)
        _expect(value <= most, f"descriptor: {field} is {value}, at most {most}")
    _expect(program.channels == descriptor.channels, f"{program.channels} channels are not {descriptor.color!r}")
    _expect(1 <= len(program.steps) <= MAX_STEPS, f"{len(program.steps)} steps")
    _expect(len(program.tensors) <= MAX_TENSORS, f"{len(program.tensors)} tensors")
    names = [program.input, program.output, descriptor.arch, *program.tensors, *(step.output for step in program.steps)]
    for name in names:
        _expect(0 < len(name) <= MAX_NAME and name.isprintable(), f"a name of {len(name)} letters: {name[:40]!r}")


def _check_tensor(name: str, tensor: Any) -> None:
    _expect(tensor.dtype in (np.uint8, np.float16, np.float32), f"tensor {name!r} is {tensor.dtype}")
    _expect(1 <= tensor.ndim <= 4 and tensor.size > 0, f"tensor {name!r} has the shape {tensor.shape}")
    if tensor.dtype != np.uint8 and not np.isfinite(tensor).all():
        raise BadProgram(f"tensor {name!r} holds NaN or infinity")


def _check_step(step: Step, program: Program) -> None:
    _expect(steps.STEPS.get(type(step).__name__) is type(step), "unknown kind of step")
    for field, (least, most) in LIMITS.items():
        value = getattr(step, field, least)
        _expect(least <= value <= most, f"{field} is {value}, not in {least}..{most}")
    for field in WORDS:
        if (word := getattr(step, field, None)) is not None:
            words = get_args(get_type_hints(type(step))[field])
            _expect(word in words, f"{field} is {word!r}, not one of {', '.join(words)}")
    for field in ("slope", "scale", "shift", "eps"):
        value = getattr(step, field, 0.0)
        _expect(isinstance(value, str) or bool(np.isfinite(value).all()), f"{field} is no finite number")
    match step:
        case steps.BinaryLinear() | steps.BinaryConv2d():
            _check_binary(step, program)
        case steps.Linear() | steps.Conv2d():
            _check_layer(step, program)
        case steps.SparseLinear():
            _check_sparse(step, program)
        case steps.WindowAttention() | steps.OverlappingAttention():
            _check_attention(step, program)
        case steps.LayerNorm():
            shape = _floating(program, step.weight).shape
            _expect(len(shape) == 1 and _floating(program, step.bias).shape == shape, "weight and bias are no vectors")
            _expect(0 < step.eps <= 1, f"eps is {step.eps}")
        case steps.Lookup():
            _expect(_floating(program, step.table).ndim == 2, "the table is no rows x channels")
        case steps.SelectiveScan():
            decay = _floating(program, step.decay)
            _expect(decay.ndim == 2, f"the decay has the shape {decay.shape}, not channels x states")
            _expect(bool((decay <= 0).all()), "a decay above 0 grows")
            _expect_vector(program, "skip", step.skip, len(decay))
        case steps.PReLU():
            _expect(_floating(program, step.slopes).ndim == 1, "the slopes are no vector")
        case steps.Affine():
            for name in tensors_of(step):
                _expect(_floating(program, name).ndim == 1, f"{name!r} is no vector")
        case steps.Resize():
            _expect(-1 <= step.a <= 0, f"a is {step.a}, not in -1..0")
        case steps.Slice():
            _expect(step.start < step.stop, f"channels {step.start}..{step.stop - 1}")
        case steps.Concat():
            _expect(len(step.inputs) > 0, "no inputs")


def _check_binary(step: steps.BinaryLinear | steps.BinaryConv2d, program: Program) -> None:
    weight, codes = step.weight, _bytes(program, step.weight.codes)
    axes = 4 if isinstance(step, steps.BinaryConv2d) else 2
    _expect(codes.ndim == axes, f"the codes have the shape {codes.shape}")
    _expect(max(codes.shape[1:-1], default=1) <= MAX_KERNEL, f"the kernel is {'x'.join(map(str, codes.shape[1:-1]))}")
    code_bits(weight)
    number = binary.states(weight.keep, weight.block)
    _expect(int(codes.max()) < number, f"codes {weight.codes!r}: there are only {number}")
    inputs = codes.shape[-1] * weight.block
    _expect(all(n > 0 and n % weight.block == 0 for n in weight.groups), "a group of inputs is no whole blocks")
    _expect(sum(weight.groups) == inputs, f"groups of {sum(weight.groups)} inputs for {inputs}")
    shape, expected = _floating(program, weight.scale).shape, (codes.shape[0], len(weight.groups))
    _expect(shape == expected, f"scale has the shape {shape}, not {expected}")
    _expect_vector(program, "threshold", step.threshold, inputs)
    _expect_vector(program, "bias", step.bias, codes.shape[0])
    _expect(2 * codes[0].size * weight.block < 2**31, "sums may exceed 32 bits")


def _check_layer(step: steps.Linear | steps.Conv2d, program: Program) -> None:
    weight, quantizer = step.weight, step.quantizer
    if isinstance(weight, PackedWeight):
        tensor = _codes(program, weight)
        vectors = {"scale": weight.scale, "mid": weight.mid, "bias": step.bias}
    else:
        tensor = _floating(program, weight)
        vectors = {"bias": step.bias}
    groups = step.groups if isinstance(step, steps.Conv2d) else 1
    if isinstance(step, steps.Conv2d):
        _expect(tensor.ndim == 4, f"the weight has the shape {tensor.shape}, not out x height x width x in")
        _expect(max(tensor.shape[1:3]) <= MAX_KERNEL, f"the kernel is {tensor.shape[1]}x{tensor.shape[2]}")
        _expect(tensor.shape[0] % groups == 0, f"{tensor.shape[0]} filters are no {groups} groups")
    else:
        _expect(tensor.ndim == 2, f"the weight has the shape {tensor.shape}, not out x in")
    for field, name in vectors.items():
        _expect_vector(program, field, name, tensor.shape[0])
    _expect_vector(program, "input_scale", step.input_scale, tensor.shape[-1] * groups)
    if quantizer is None:
        return
    _check_quantizer("the quantizer", quantizer)
    if isinstance(step, steps.Conv2d) and step.padding:
        on_grid = np.float32(-quantizer.zero) * np.float32(quantizer.step) == np.float32(quantizer.lower)
        exists = bool(on_grid) and 0 <= quantizer.zero <= quantizer.levels
        _expect(exists, "it pads with zeros, but has no code for zero")
    if isinstance(weight, PackedWeight):
        largest = tensor[0].size * quantizer.levels * 2 ** (weight.bits - 1)
        _expect(largest < 2**31, "sums may exceed 32 bits")


def _check_sparse(step: steps.SparseLinear, program: Program) -> None:
    shape = _bytes(program, step.places).shape
    _expect(len(shape) == 2 and shape[1] == 3, f"the places have the shape {shape}, not n x 3")
    _expect_vector(program, "values", step.values, shape[0])
    _expect(step.rows * step.columns <= MOST_PLACES, f"{step.rows}x{step.columns} weights have no places of 3 bytes")
    places = places_of(step, program)
    _expect(bool((np.diff(places) > 0).all()), "the places do not ascend")
    _expect(int(places[-1]) < step.rows * step.columns, f"there is no place {places[-1]}")


def _check_attention(step: steps.Attention, program: Program) -> None:
    table = _floating(program, step.bias_table)
    margin = step.margin if isinstance(step, steps.OverlappingAttention) else 0
    expected = ((2 * (step.window + margin) - 1) ** 2, step.heads)
    _expect(table.shape == expected, f"the bias table has the shape {table.shape}, not {expected}")
    if isinstance(step, steps.WindowAttention):
        _expect(0 <= step.shift < step.window, f"the shift {step.shift} is not in 0..{step.window - 1}")
    for name in ("q", "k", "attention", "v"):
        if (quantizer := getattr(step, name)) is not None:
            _check_quantizer(f"the quantizer of {name}", quantizer)
    quantized = step.attention is not None and step.v is not None
    _expect(quantized or not step.row_scale, "row_scale needs the quantizers of attention and v")


def _check_quantizer(name: str, quantizer: Quantizer) -> None:
    _expect(2 <= quantizer.bits <= 8, f"{name} has {quantizer.bits} bits, not 2..8")
    exact = all(abs(x) < 3e38 and float(np.float32(x)) == x for x in (quantizer.lower, quantizer.step))
    _expect(exact, f"{name}: lower {quantizer.lower} and step {quantizer.step} are no float32 numbers")
    _expect(quantizer.step >= float(np.finfo(np.float32).tiny), f"{name} has the step {quantizer.step}")
    _expect(abs(quantizer.lower) / quantizer.step < 2**24, f"{name}: lower {quantizer.lower} is too far from zero")


def _codes(program: Program, weight: PackedWeight) -> np.ndarray[Any, Any]:
    codes = _bytes(program, weight.codes)
    _expect(2 <= weight.bits <= 8, f"the weight has {weight.bits} bits, not 2..8")
    _expect(int(codes.max()) < 2**weight.bits, f"codes {weight.codes!r} do not fit into {weight.bits} bits")
    return codes


def _bytes(program: Program, name: str) -> np.ndarray[Any, Any]:
    codes = _tensor(program, name)
    _expect(codes.dtype == np.uint8, f"the codes {name!r} are {codes.dtype}")
    return codes


def _floating(program: Program, name: str) -> np.ndarray[Any, Any]:
    tensor = _tensor(program, name)
    _expect(tensor.dtype != np.uint8, f"tensor {name!r} holds codes, not numbers")
    return tensor


def _tensor(program: Program, name: str) -> np.ndarray[Any, Any]:
    _expect(name in program.tensors, f"there is no tensor {name!r}")
    return program.tensors[name]


def _expect_vector(program: Program, field: str, name: str | None, length: int) -> None:
    if name is not None:
        shape = _floating(program, name).shape
        _expect(shape == (length,), f"{field} has the shape {shape}, not ({length},)")


def _check_use_of_tensors(program: Program) -> None:
    packed_bits(program)
    used = {name for step in program.steps for name in tensors_of(step)}
    if unused := sorted(set(program.tensors) - used):
        raise BadProgram(f"tensor {unused[0]!r} is used by no step")


def _check_sizes(program: Program) -> None:
    """Run the sizes of two pictures through the program: channels and proportions hold for all, sides for these."""
    descriptor = program.descriptor
    least = descriptor.min_size + -descriptor.min_size % descriptor.multiple
    for height, width in ((least, least), (least + 3 * descriptor.multiple, least + descriptor.multiple)):
        shapes = map_shapes(program, height, width)
        for step in program.steps:
            _check_vectors_against(step, shapes, program)
        expected = (height * descriptor.scale, width * descriptor.scale, program.channels)
        made = shapes[program.output]
        _expect(made == expected, f"a picture of {height}x{width} becomes {made}, not {expected}")


def _check_vectors_against(step: Step, shapes: dict[str, tuple[int, int, int]], program: Program) -> None:
    match step:
        case steps.LayerNorm():
            lengths = [program.tensors[step.weight].size]
        case steps.PReLU():
            lengths = [program.tensors[step.slopes].size]
        case steps.Affine():
            many = (program.numbers(value) for value in (step.scale, step.shift))
            lengths = [numbers.size for numbers in many if numbers.ndim]
        case _:
            return
    channels = shapes[step.x][2]
    _expect(all(n == channels for n in lengths), f"step {step.output!r}: a vector of {lengths} for {channels} channels")


def _expect(condition: bool, problem: str) -> None:
    if not condition:
        raise BadProgram(problem)
