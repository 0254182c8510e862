"""Plans of the compiled engine, made by hand."""

from __future__ import annotations

import numpy as np
import pytest

native = pytest.importorskip("bitsr._native")


class Builder:
    """A plan whose values get memory one after the other."""

    def __init__(self, input_shape, output_shape, words=1 << 18):
        self.plan = native.Plan(words, words, input_shape, output_shape)
        self.arena = self.scratch = 0

    def map(self, channels, height, width, format="f32", border=0, fill=0):
        words = native.map_words(channels, height, width, format, border)
        offset, self.arena = self.arena, self.arena + -(-words // 16) * 16
        return self.plan.map(channels, height, width, format, border, fill, offset)

    def local(self, channels, width, format="f32"):
        offset, self.scratch = self.scratch, self.scratch + native.tile_words(channels, width, format)
        return self.plan.local(channels, width, format, offset)

    def input(self, shape, **options):
        x = self.map(shape[2], *shape[:2], **options)
        self.plan.rows(*shape[:2])
        self.plan.input(x)
        return x

    def run(self, picture, shape, threads=1):
        result = np.full(shape, np.nan, np.float32)
        self.plan.run(picture, result, threads)
        return result


def one_step(picture, out_shape, build, **options):
    """The result of a plan that takes the picture to a map, does build(builder, x, y) and gives y."""
    b = Builder(picture.shape, out_shape)
    x = b.input(picture.shape, **options)
    if options.get("border"):
        b.plan.fill_border(x)
    y = b.map(out_shape[2], *out_shape[:2])
    b.plan.rows(*out_shape[:2])
    build(b, x, y)
    b.plan.rows(*out_shape[:2])
    b.plan.output(y)
    return b.run(picture, out_shape)


def random_picture(rng, *shape):
    return rng.standard_normal(shape, np.float32)
