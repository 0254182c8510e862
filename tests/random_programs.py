"""Random programs of many steps, for tests of what orders steps and shares memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsr.program import steps
from bitsr.program.program import Program
from bitsr.program.shapes import Shape
from bitsr.program.sparse import to_bytes
from bitsr.program.steps import PackedWeight, Quantizer, Step
from engine_programs import program_of, random_map

CHANNELS = 6


def random_program(seed: int, quantized: bool, many: int = 14) -> tuple[Program, NDArray[np.float32]]:
    """A program of at least ``many`` steps, of which the last ones read several of those before, and a picture."""
    maker = _Maker(seed, quantized)
    while len(maker.steps) < many:
        maker.add_some()
    maker.end()
    height, width, _ = maker.shapes["input"]
    return program_of(CHANNELS, *maker.steps, **maker.tensors), random_map(height, width, CHANNELS, seed)


class _Maker:
    """``shapes`` of the maps so far; every method named after a step appends what its name says, reading map ``x``."""

    def __init__(self, seed: int, quantized: bool) -> None:
        self.rng = np.random.default_rng(seed)
        self.quantized = quantized
        self.steps: list[Step] = []
        self.tensors: dict[str, NDArray[Any]] = {}
        self.shapes: dict[str, Shape] = {
            "input": (int(self.rng.integers(9, 30)), int(self.rng.integers(9, 90)), CHANNELS)
        }

    def add_some(self) -> None:
        kinds = (self.conv, self.conv, self.linear, self.sparse, self.norm, self.active, self.sum, self.gate,
                 self.parts, self.attention, self.attention, self.resize, self.shuffle, self.pool,
                 self.scan)  # fmt: skip
        kinds[self.rng.integers(len(kinds))](self.pick(list(self.shapes)[-5:]))

    def end(self) -> None:
        """Join all late maps of one size."""
        last = self.shapes[list(self.shapes)[-1]]
        late = [name for name, shape in list(self.shapes.items())[-8:] if shape[:2] == last[:2]]
        self.put(steps.Concat, (*last[:2], sum(self.shapes[name][2] for name in late)), inputs=tuple(late))

    def put(self, kind: Any, shape: Shape, **fields: Any) -> str:
        name = f"m{len(self.steps)}"
        self.steps.append(kind(output=name, **fields))
        self.shapes[name] = shape
        return name

    def pick(self, among: Any) -> Any:
        return among[self.rng.integers(len(among))]

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def tensor(self, value: NDArray[Any]) -> str:
        name = f"t{len(self.tensors)}"
        self.tensors[name] = value
        return name

    def vector(self, n: int) -> str:
        return self.tensor(self.rng.uniform(0.5, 1.5, n).astype(np.float32))

    def operands(self, *shape: int) -> dict[str, Any]:
        """Weight, quantizer and input scale of a layer."""
        fan_in = np.sqrt(np.prod(shape[1:]))
        scale = self.vector(shape[-1]) if len(shape) == 2 and self.chance(0.3) else None
        if not self.quantized:
            weight = self.tensor((self.rng.normal(size=shape) / fan_in).astype(np.float32))
            return {"weight": weight, "input_scale": scale}
        codes = self.tensor(self.rng.integers(0, 16, shape).astype(np.uint8))
        scales = self.tensor((self.rng.uniform(0.1, 0.3, shape[0]) / fan_in).astype(np.float32))
        mids = self.tensor(self.rng.normal(0, 0.05, shape[0]).astype(np.float32)) if self.chance(0.5) else None
        quantizer = Quantizer(6, -2.0, 1 / 16) if self.chance(0.8) else None
        return {"weight": PackedWeight(codes, scales, 4, mids), "quantizer": quantizer, "input_scale": scale}

    def conv(self, x: str) -> None:
        height, width, channels = self.shapes[x]
        out, k = self.pick((2, 4, 6)), self.pick((1, 3, 5))
        groups = 2 if channels % 2 == 0 and self.chance(0.3) else 1
        weights = self.operands(out, k, k, channels // groups)
        self.put(
            steps.Conv2d, (height, width, out), x=x, bias=self.vector(out), padding=k // 2, groups=groups, **weights
        )

    def linear(self, x: str, out: int = 7) -> str:
        height, width, channels = self.shapes[x]
        return self.put(steps.Linear, (height, width, out), x=x, **self.operands(out, channels))

    def sparse(self, x: str) -> None:
        height, width, channels = self.shapes[x]
        count = int(self.rng.integers(1, 5 * channels))
        places = self.tensor(to_bytes(np.sort(self.rng.choice(5 * channels, count, replace=False))))
        fields = {"values": self.vector(count), "places": places, "rows": 5, "columns": channels}
        self.put(steps.SparseLinear, (height, width, 5), x=x, **fields)

    def norm(self, x: str) -> None:
        n = self.shapes[x][2]
        self.put(steps.LayerNorm, self.shapes[x], x=x, weight=self.vector(n), bias=self.vector(n), eps=0.1)

    def active(self, x: str) -> None:
        function = self.pick(("relu", "leaky_relu", "gelu", "sigmoid", "tanh", "clip"))
        self.put(steps.Activation, self.shapes[x], x=x, function=function, slope=0.1)

    def sum(self, x: str) -> None:
        other = self.pick([name for name, shape in self.shapes.items() if shape == self.shapes[x]])
        self.put(steps.Add, self.shapes[x], a=x, b=other)

    def gate(self, x: str) -> None:
        height, width, channels = self.shapes[x]
        if self.chance(0.5):
            part = self.put(steps.GlobalPool, (1, 1, channels), x=x, statistic="mean")
        else:
            part = self.put(steps.Slice, (height, width, 1), x=x, start=0, stop=1)
        self.put(steps.Mul, (height, width, channels), a=part, b=x)

    def parts(self, x: str) -> None:
        height, width, channels = self.shapes[x]
        first = self.put(steps.Slice, (height, width, (channels + 1) // 2), x=x, start=0, stop=(channels + 1) // 2)
        self.linear(
            self.put(steps.Concat, (height, width, channels + 2 * ((channels + 1) // 2)), inputs=(first, x, first))
        )

    def attention(self, x: str) -> None:
        """With everything around it, as in a transformer."""
        height, width, channels = self.shapes[x]
        window, heads = self.pick((2, 3, 4)), 2
        size = height + -height % window, width + -width % window
        x_padded = self.put(steps.Pad, (*size, channels), x=x, multiple=window)
        table = self.tensor(self.rng.normal(size=((2 * window - 1) ** 2, heads)).astype(np.float32))
        attended = self.put(
            steps.WindowAttention, (*size, 3 * heads), qkv=self.linear(x_padded, 9 * heads), bias_table=table,
            heads=heads, window=window, shift=self.pick(range(window)), scale=0.5,
        )  # fmt: skip
        total = self.put(steps.Add, (*size, channels), a=x_padded, b=self.linear(attended, channels))
        self.norm(total)
        self.put(steps.Crop, self.shapes[x], x=total, like=x)

    def scan(self, x: str) -> None:
        """In the order of the input's largest channels, which are no matter of the last digit; y is linear in x."""
        height, width, channels = self.shapes[x]
        if (height, width) != self.shapes["input"][:2]:
            return
        classes = self.put(steps.ArgMax, (height, width, 1), x="input")
        x = self.put(steps.Reorder, self.shapes[x], x=x, classes=classes, count=4)
        delta = self.put(steps.Activation, self.shapes[x], x=self.linear("input", channels), function="softplus")
        b, c = (self.put(steps.Slice, (height, width, 2), x="input", start=i, stop=i + 2) for i in (0, 3))
        decay = self.tensor(-self.rng.uniform(0.1, 2, (channels, 2)).astype(np.float32))
        y = self.put(
            steps.SelectiveScan, self.shapes[x], x=x, delta=delta, b=b, c=c, decay=decay, skip=self.vector(channels)
        )
        self.put(steps.Reorder, self.shapes[x], x=y, classes=classes, count=4, back=True)
        prompts = self.tensor(self.rng.normal(size=(6, channels)).astype(np.float32))
        self.put(steps.Lookup, self.shapes[x], x=classes, table=prompts)

    def resize(self, x: str) -> None:
        height, width, channels = self.shapes[x]
        if height * width < 3000:
            mode = self.pick(("nearest", "bilinear", "bicubic"))
            self.put(steps.Resize, (2 * height, 2 * width, channels), x=x, mode=mode, factor=2)

    def shuffle(self, x: str) -> None:
        height, width, channels = self.shapes[x]
        if channels % 4 == 0 and height * width < 3000:
            self.put(steps.PixelShuffle, (2 * height, 2 * width, channels // 4), x=x, factor=2)

    def pool(self, x: str) -> None:
        height, width, channels = self.shapes[x]
        if min(height, width) >= 3:
            size = (height - 3) // 2 + 1, (width - 3) // 2 + 1
            pooled = self.put(steps.MaxPool, (*size, channels), x=x, kernel=3, stride=2)
            self.put(steps.Resize, self.shapes[x], x=pooled, mode="bilinear", like=x)
