"""The compiled engine: plans of steps for pictures of one size.  Absent where no C++ compiler built it.

A plan has *values*, which are maps in one arena (shared by the threads of a run) or tile-local values in the scratch of
each thread, and *groups* of steps that are worked on together, tile by tile: up to 64 pixels of a row, one window, or
one plane.  Offsets and sizes count 32-bit words; a word holds one "f32", two "bf16" or four "u8" numbers, or
32 signs ("bits"), of neighbouring channels.

Everything is checked when it is added: ValueError says what is wrong, TypeError that an argument is of another type.  A
map that a step writes may be used by other steps of its group only at the same pixels.
"""

from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

Format = Literal["f32", "bf16", "u8", "bits"]
Floats = NDArray[np.float32]
Quantizer = tuple[float, float, int]  # lower, step, the largest code

TILE: int
"""Pixels of a row that are worked on at a time."""

SCAN_CHANNELS: int
"""Channels that a scan works on side by side."""

def isas() -> list[str]:
    """Instruction sets that this build and this processor have, best first."""

def isa() -> str:
    """The one in use: the best, or what the environment variable BITSR_ISA names (RuntimeError where that is none)."""

def map_words(channels: int, height: int, width: int, format: Format, border: int) -> int:
    """Words of a map with ``border`` pixels around it."""

def tile_words(channels: int, width: int, format: Format) -> int:
    """Words of a tile-local value of ``width`` pixels."""

class Matrix:
    """Weights of a layer, packed once for the instruction set in use; plans share them."""

    def __init__(
        self,
        weights: NDArray[np.int8] | Floats,
        format: Format,
        scale: Floats | None = None,
        bias: Floats | None = None,
        mid: Floats | None = None,
        sums: NDArray[np.int8] | None = None,
        groups: int = 1,
    ) -> None:
        """``weights`` is (rows, taps, channels): int8 for "u8", float32 otherwise; ``channels`` are those that one row
        sees, and row n belongs to group n // (rows // groups) of the input's channels.

        y = scale[n] * acc + mid[n] * r + bias[n].  r is the sum of the codes that ``sums`` (S, taps, channels) selects
        with 1: row n // (rows // S) of it.  "u8" needs ``scale``; ``mid`` and ``sums`` go together.
        """

class SignMatrix:
    """Weights of a layer of signs; plans share them."""

    def __init__(self, weights: NDArray[np.int8], groups: list[int], scale: Floats, bias: Floats | None = None) -> None:
        """``weights`` is (rows, taps, channels) of -1, 0 or 1, ``groups`` the channels of each group, whose sums of
        products are multiplied by ``scale`` (rows, groups)."""

class Plan:
    def __init__(
        self,
        arena_words: int,
        scratch_words: int,
        input_shape: tuple[int, int, int],
        output_shape: tuple[int, int, int],
    ) -> None:
        """``scratch_words`` are those of one thread; shapes are (height, width, channels)."""

    @property
    def arena_bytes(self) -> int: ...
    def map(self, channels: int, height: int, width: int, format: Format, border: int, fill: int, offset: int) -> int:
        """A value in the arena; returns its id.  ``fill`` is the word that fill_border puts around it."""

    def local(self, channels: int, width: int, format: Format, offset: int) -> int:
        """A value of tiles of ``width`` pixels, in the scratch; returns its id."""

    def part(self, whole: int, start: int, channels: int) -> int:
        """Some channels of an "f32" value as a value of their own, in its memory; returns its id."""

    def rows(self, height: int, width: int) -> None:
        """Begins a group whose tiles are up to 64 pixels of a row; local values have min(64, width) pixels."""

    def windows(self, height: int, width: int, window: int, shift: int) -> None:
        """Begins a group whose tiles are windows of the map rolled by -shift; local values have window ** 2 pixels."""

    def channels(self, count: int) -> None:
        """Begins a group whose tiles are planes: for global_pool."""

    def input(self, y: int) -> None:
        """The picture of the run."""

    def output(self, x: int) -> None:
        """To the picture that the run gives."""

    def gather(self, x: int, y: int) -> None:
        """The window's pixels of map x to the local value y."""

    def scatter(self, x: int, y: int) -> None:
        """The local value x to the window's pixels of map y."""

    def fill_border(self, x: int) -> None:
        """In a rows group of the size of map x, after what wrote it."""

    @overload
    def gemm(self, x: int, y: int, matrix: Matrix) -> None:
        """A linear layer or 1x1 convolution; y is "f32"."""

    @overload
    def gemm(self, x: int, added: int, y: int, matrix: Matrix) -> None:
        """The same with ``added``, "f32", added to it, which y may lie over."""

    def conv2d(self, x: int, y: int, matrix: Matrix, kernel_h: int, kernel_w: int, stride: int, padding: int) -> None:
        """Of a map whose border is at least ``padding``, in a rows group of the size of the output."""

    @overload
    def binary(self, x: int, y: int, matrix: SignMatrix) -> None:
        """A linear layer of signs; x is "bits", y "f32"."""

    @overload
    def binary(self, x: int, added: int, y: int, matrix: SignMatrix) -> None:
        """The same with ``added``, as of `gemm`."""

    def binary_conv2d(
        self, x: int, y: int, matrix: SignMatrix, kernel_h: int, kernel_w: int, stride: int, padding: int
    ) -> None:
        """The same as a convolution, of a map whose border holds 0 and is at least ``padding``."""

    def attention(
        self,
        x: int,
        y: int,
        heads: int,
        window: int,
        shift: int,
        scale: float,
        bias: Floats,
        scores: Format,
        values: Format,
        q: Quantizer | None,
        k: Quantizer | None,
        attention: Quantizer | None,
        v: Quantizer | None,
        row_scale: bool,
    ) -> None:
        """Inside the window; x has the queries, keys and values of y's channels.  ``bias`` is (heads, tokens of keys,
        tokens of queries); ``scores`` and ``values`` say what both products multiply.  With ``row_scale``,
        where ``values`` is "u8" alone, weights of a query are divided by the largest of them before they become codes,
        and the result is multiplied by it."""

    def overlapping_attention(
        self,
        x: int,
        y: int,
        heads: int,
        window: int,
        margin: int,
        scale: float,
        bias: Floats,
        scores: Format,
        values: Format,
        q: Quantizer | None,
        k: Quantizer | None,
        attention: Quantizer | None,
        v: Quantizer | None,
        row_scale: bool,
    ) -> None:
        """As ``attention`` in a group without shift, of a map of the group's size; keys and values come from windows
        that are wider by ``margin`` on each side, zero beyond the map."""

    def sparse(self, x: int, y: int, starts: NDArray[np.int32], columns: NDArray[np.int32], values: Floats) -> None:
        """Channel r of y: the sum of values[i] times channel columns[i] of x, i from starts[r] up to starts[r + 1]."""

    def layer_norm(self, x: int, y: int, weight: Floats, bias: Floats, eps: float) -> None:
        """Over the channels of each pixel, biased variance."""

    def activation(
        self,
        x: int,
        y: int,
        function: Literal["relu", "leaky_relu", "gelu", "sigmoid", "tanh", "clip", "softplus"],
        slope: float,
    ) -> None: ...
    def prelu(self, x: int, y: int, slopes: Floats) -> None:
        """A leaky ReLU with one slope per channel."""

    def add(self, a: int, b: int, y: int) -> None: ...
    def multiply(self, a: int, b: int, y: int) -> None:
        """b is of y's shape, a 1 x 1 map of as many channels, or of one channel."""

    def affine(self, x: int, y: int, scale: Floats, shift: Floats) -> None:
        """x * scale + shift, each one number or one per channel."""

    def quantize(self, x: int, y: int, lower: float, step: float, levels: int, scale: Floats | None) -> None:
        """clip(rint((x * scale - lower) / step), 0, levels), "f32" to "u8"; ``scale`` is one number per channel."""

    def signs(self, x: int, y: int, thresholds: Floats, below: Floats | None) -> None:
        """Which channels are at least their threshold or at most ``below``, "f32" to "bits"."""

    def to_bf16(self, x: int, y: int) -> None: ...
    def round(self, x: int, y: int, lower: float, step: float, levels: int) -> None:
        """To the quantizer's levels, still "f32"."""

    def copy(self, x: int, y: int, start: int, to: int, count: int) -> None:
        """Channels start .. start + count - 1 of x to channels to .. of y; x may be a larger map (a crop)."""

    def pixel_shuffle(self, x: int, y: int, factor: int) -> None:
        """Of a map, in a rows group of the size of the output."""

    def pixel_unshuffle(self, x: int, y: int, factor: int) -> None:
        """Its inverse: of a map, in a rows group of the size of the output."""

    def resample(
        self,
        x: int,
        y: int,
        row_index: NDArray[np.int32],
        row_weight: Floats,
        column_index: NDArray[np.int32],
        column_weight: Floats,
    ) -> None:
        """Of a map, in a rows group of the size of the output; arrays are (taps, rows) and (taps, columns)."""

    def max_pool(self, x: int, y: int, kernel: int, stride: int) -> None:
        """Of a map, without padding, in a rows group of the size of the output."""

    def moments(self, x: int, y: int) -> None:
        """Of x, H x W x C, for global_pool: y is a map of ceil(W / TILE) x H pixels and 2 C channels."""

    def global_pool(self, x: int, y: int, width: int, statistic: Literal["mean", "std"]) -> None:
        """From the moments of a map of ``width`` pixels to a map of 1 x 1 pixels, in a channels group."""

    def argmax(self, x: int, y: int) -> None:
        """The number of x's largest channel, the first one of equals."""

    def lookup(self, x: int, y: int, table: Floats) -> None:
        """Row x of the table (rows, channels); x is cut to the rows there are."""

    def sort_pixels(self, classes: int, y: int, count: int, back: bool) -> None:
        """To a map of numbers of pixels (32-bit integers) in the order of their class, cut to 0 .. count - 1; with
        ``back`` the places of the pixels instead.  In a channels group of one."""

    def gather_pixels(self, x: int, order: int, y: int) -> None:
        """The pixels of a map that ``order`` names, as `sort_pixels` leaves it."""

    def scan(self, x: int, delta: int, b: int, c: int, y: int, decay: Floats, skip: Floats) -> None:
        """The selective scan of maps; ``decay`` is (channels, states).  In a channels group of one for each 16 channels
        or part of them."""

    def run(self, input: Floats, output: Floats, threads: int) -> None:
        """Reads and writes C-contiguous arrays of the plan's shapes on up to ``threads`` (1..256) threads, this one
        among them.  Releases the GIL; any number of runs may be under way.  The plan can then no longer be changed."""

class Speed:
    """How fast a kernel is: ``rate`` of ``peak``, both in 1e9 ``unit`` per second; ``share`` is their ratio."""

    @property
    def kernel(self) -> str: ...
    @property
    def format(self) -> str: ...
    @property
    def shape(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def rate(self) -> float: ...
    @property
    def peak(self) -> float: ...
    @property
    def share(self) -> float: ...

def benchmark_kernels(isa: str, repetitions: int) -> list[Speed]:
    """The kernels of one instruction set on one thread; RuntimeError for one that this machine does not have."""
