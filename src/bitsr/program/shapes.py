"""The size of every feature map of a program for a picture of a given size, found without running it."""

from __future__ import annotations

from collections.abc import Mapping

from bitsr.errors import PackedFileError
from bitsr.program import steps
from bitsr.program.program import Program
from bitsr.program.steps import PackedWeight, Step, Weight

Shape = tuple[int, int, int]  # height, width, channels

MAX_CHANNELS = 16384
MAX_MAGNIFICATION = 16  # of the picture's side, or of 64 pixels where it is smaller


class BadProgram(PackedFileError):
    """A program contradicts itself: its steps, tensors and sizes do not fit together."""


def map_shapes(program: Program, height: int, width: int) -> dict[str, Shape]:
    """(height, width, channels) of every map, for a picture of ``height`` x ``width`` pixels.

    Raises:
        BadProgram: a map is read before it is written or written twice, sizes or channels do not fit, or a map is out
            of proportion.
    """
    shapes: dict[str, Shape] = {program.input: (height, width, program.channels)}
    for step in program.steps:
        where = f"step {step.output!r} ({type(step).__name__})"
        if step.output in shapes:
            raise BadProgram(f"{where}: that map exists already")
        try:
            shape = _output(step, shapes, program)
        except KeyError as error:
            raise BadProgram(f"{where} reads {error}, which does not exist at that point") from None
        except BadProgram as error:
            raise BadProgram(f"{where}: {error}") from None
        if min(shape) < 1:
            raise BadProgram(f"{where}: nothing is left of maps as small as that ({_text(shape)})")
        if shape[2] > MAX_CHANNELS or max(shape[:2]) > MAX_MAGNIFICATION * max(height, width, 64):
            raise BadProgram(f"{where}: makes a map out of proportion ({_text(shape)} from {height}x{width} pixels)")
        shapes[step.output] = shape
    if program.output not in shapes:
        raise BadProgram(f"the output map {program.output!r} is never written")
    return shapes


def weight_shape(weight: Weight, program: Program) -> tuple[int, ...]:
    """The shape of a weight, packed or not."""
    return program.tensors[weight.codes if isinstance(weight, PackedWeight) else weight].shape


def _output(step: Step, shapes: Mapping[str, Shape], program: Program) -> Shape:
    match step:
        case steps.BinaryLinear() | steps.BinaryConv2d():
            return _binary(step, shapes[step.x], program)
        case steps.Linear() | steps.Conv2d():
            return _layer(step, shapes[step.x], program)
        case steps.SparseLinear():
            _expect(shapes[step.x][2] == step.columns, f"takes {step.columns} channels, got {shapes[step.x][2]}")
            return *shapes[step.x][:2], step.rows
        case steps.WindowAttention() | steps.OverlappingAttention():
            return _attention(step, shapes[step.qkv])
        case steps.Add():
            _expect(shapes[step.a] == shapes[step.b], f"{_text(shapes[step.a])} and {_text(shapes[step.b])} differ")
            return shapes[step.a]
        case steps.Mul():
            return _broadcast(shapes[step.a], shapes[step.b])
        case steps.Lookup():
            _expect(shapes[step.x][2] == 1, f"{_text(shapes[step.x])} are no numbers of rows")
            return *shapes[step.x][:2], program.tensors[step.table].shape[1]
        case steps.Reorder():
            classes = (*shapes[step.x][:2], 1)
            _expect(
                shapes[step.classes] == classes, f"{_text(shapes[step.classes])} are no classes of {_text(classes)}"
            )
            return shapes[step.x]
        case steps.SelectiveScan():
            return _scan(step, shapes, program)
        case steps.Concat():
            return _concatenated([shapes[name] for name in step.inputs])
        case steps.Crop() | steps.Resize() if step.like is not None:
            return _resized(step, shapes[step.x], shapes[step.like])
        case _:
            return _of_one(step, shapes[step.x])  # type: ignore[attr-defined]


def _convolved(step: steps.Conv2d | steps.BinaryConv2d, x: Shape, filters: tuple[int, ...]) -> tuple[int, int]:
    sides = [n + 2 * step.padding - kernel for n, kernel in ((x[0], filters[1]), (x[1], filters[2]))]
    return sides[0] // step.stride + 1, sides[1] // step.stride + 1


def _binary(step: steps.BinaryLinear | steps.BinaryConv2d, x: Shape, program: Program) -> Shape:
    shape, inputs = program.tensors[step.weight.codes].shape, sum(step.weight.groups)
    _expect(inputs == x[2], f"takes {inputs} channels, got {x[2]}")
    return (*(x[:2] if isinstance(step, steps.BinaryLinear) else _convolved(step, x, shape)), shape[0])


def _layer(step: steps.Linear | steps.Conv2d, x: Shape, program: Program) -> Shape:
    height, width, channels = x
    shape = weight_shape(step.weight, program)
    if isinstance(step, steps.Linear):
        _expect(shape[-1] == channels, f"takes {shape[-1]} channels, got {channels}")
        return height, width, shape[0]
    _expect(shape[3] * step.groups == channels, f"takes {shape[3] * step.groups} channels, got {channels}")
    return *_convolved(step, x, shape), shape[0]


def _attention(step: steps.Attention, x: Shape) -> Shape:
    height, width, channels = x
    _expect(channels % (3 * step.heads) == 0, f"{channels} channels are no 3 x {step.heads} heads")
    fits = height % step.window == 0 and width % step.window == 0
    _expect(fits, f"{height}x{width} pixels are no multiple of the window {step.window}")
    return height, width, channels // 3


def _scan(step: steps.SelectiveScan, shapes: Mapping[str, Shape], program: Program) -> Shape:
    x = shapes[step.x]
    channels, states = program.tensors[step.decay].shape
    _expect(x[2] == channels, f"decays are those of {channels} channels, got {x[2]}")
    expected = {step.delta: x, step.b: (*x[:2], states), step.c: (*x[:2], states)}
    for name, shape in expected.items():
        _expect(shapes[name] == shape, f"{name!r} is {_text(shapes[name])}, expected {_text(shape)}")
    return x


def _broadcast(a: Shape, b: Shape) -> Shape:
    for whole, part in ((a, b), (b, a)):
        if part in (whole, (1, 1, whole[2]), (whole[0], whole[1], 1)):
            return whole
    raise BadProgram(f"{_text(a)} and {_text(b)} cannot be multiplied")


def _concatenated(inputs: list[Shape]) -> Shape:
    _expect(len({shape[:2] for shape in inputs}) == 1, f"sizes differ: {', '.join(map(_text, inputs))}")
    return inputs[0][0], inputs[0][1], sum(shape[2] for shape in inputs)


def _resized(step: steps.Crop | steps.Resize, x: Shape, like: Shape) -> Shape:
    if isinstance(step, steps.Resize):
        return like[0], like[1], x[2]
    size = like[0] * step.factor, like[1] * step.factor
    _expect(size[0] <= x[0] and size[1] <= x[1], f"{size[0]}x{size[1]} pixels cannot be cut out of {_text(x)}")
    return *size, x[2]


def _of_one(step: Step, x: Shape) -> Shape:
    """Steps whose output depends on one map alone."""
    height, width, channels = x
    match step:
        case steps.Slice():
            _expect(step.stop <= channels, f"channels {step.start}..{step.stop - 1} of {channels}")
            return height, width, step.stop - step.start
        case steps.PixelShuffle():
            _expect(channels % step.factor**2 == 0, f"{channels} channels are no multiple of {step.factor}^2")
            return height * step.factor, width * step.factor, channels // step.factor**2
        case steps.PixelUnshuffle():
            f = step.factor
            _expect(height % f == 0 and width % f == 0, f"{height}x{width} pixels are no multiple of {f}")
            return height // f, width // f, channels * f**2
        case steps.Resize():
            return height * step.factor, width * step.factor, channels
        case steps.MaxPool():
            return (height - step.kernel) // step.stride + 1, (width - step.kernel) // step.stride + 1, channels
        case steps.GlobalPool():
            return 1, 1, channels
        case steps.ArgMax():
            return height, width, 1
        case steps.Pad():
            return height + -height % step.multiple, width + -width % step.multiple, channels
    return x


def _expect(condition: bool, problem: str) -> None:
    if not condition:
        raise BadProgram(problem)


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))
