"""Networks run in tiles: the whole picture's result where that can be, what changed where it cannot."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitsr.descriptor import Descriptor
from bitsr.errors import ConfigError, PictureError
from bitsr.runtime.tiles import run_tiled, spans
from small_files import noise


def blur_and_repeat(x: np.ndarray, reach: int, scale: int) -> np.ndarray:
    """A local operator with zero padding, as a convolution of (2 reach + 1) squared taps, then nearest upscaling."""
    padded = np.pad(x, [(reach, reach), (reach, reach), (0, 0)])
    out = np.zeros_like(x)
    for dy in range(2 * reach + 1):
        for dx in range(2 * reach + 1):
            out += padded[dy : dy + x.shape[0], dx : dx + x.shape[1]] / (1 + dy + 2 * dx)
    return out.repeat(scale, 0).repeat(scale, 1)


def window_means(x: np.ndarray, window: int) -> np.ndarray:
    """Each window replaced by its mean: equal in tiles only if they begin at window borders."""
    height, width = (-x.shape[0] % window, -x.shape[1] % window)
    padded = np.pad(x, [(0, height), (0, width), (0, 0)], mode="symmetric")
    means = padded.reshape(padded.shape[0] // window, window, -1, window, x.shape[2]).mean((1, 3))
    return means.repeat(window, 0).repeat(window, 1)[: x.shape[0], : x.shape[1]].astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.integers(1, 30), st.integers(0, 3), st.integers(1, 2))
def test_any_tile_equals_the_whole_picture(height: int, width: int, tile: int, reach: int, scale: int) -> None:
    x = noise(height, width, dtype=np.float32)
    descriptor = Descriptor("local", scale, reach=reach)
    whole = blur_and_repeat(x, reach, scale)
    out, tiling = run_tiled(lambda t: blur_and_repeat(t, reach, scale), x, descriptor, tile, 10**9)
    np.testing.assert_array_equal(out, whole)
    assert tiling.tiles == math.ceil(height / tile) * math.ceil(width / tile)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 30), st.sampled_from([2, 4, 5]))
def test_tiles_of_windowed_networks_begin_at_windows(height: int, width: int, tile: int, window: int) -> None:
    x = noise(height, width, dtype=np.float32)
    descriptor = Descriptor("windowed", 1, tiling="window", multiple=window, reach=window + 1)
    out, _ = run_tiled(lambda t: window_means(t, window), x, descriptor, tile, 10**9)
    np.testing.assert_allclose(out, window_means(x, window), rtol=1e-6)


@given(st.integers(1, 60), st.integers(1, 20), st.sampled_from([1, 2, 8]), st.integers(0, 9), st.integers(1, 30))
def test_spans_cover_the_axis_once(length: int, side: int, multiple: int, reach: int, least: int) -> None:
    side = math.ceil(side / multiple) * multiple
    descriptor = Descriptor("x", 2, multiple=multiple, reach=reach, min_size=least)
    result = spans(length, side, descriptor)
    assert [i for span in result for i in range(span.start, span.stop)] == list(range(length))
    for span in result:
        assert 0 <= span.first <= max(0, span.start - reach) and min(length, span.stop + reach) <= span.last <= length
        assert span.first % multiple == 0 and (span.last % multiple == 0 or span.last == length)
        assert span.last - span.first >= min(least, length)


def test_auto_takes_the_picture_whole_while_memory_allows() -> None:
    seen: list[tuple[int, ...]] = []

    def network(x: np.ndarray) -> np.ndarray:
        seen.append(x.shape[:2])
        return blur_and_repeat(x, 2, 1)

    x = noise(30, 20, dtype=np.float32)
    descriptor = Descriptor("local", 1, reach=2)
    _, tiling = run_tiled(network, x, descriptor, "auto", 600)
    assert seen == [(30, 20)] and tiling.tiles == 1
    seen.clear()
    out, tiling = run_tiled(network, x, descriptor, "auto", 150)
    assert max(height * width for height, width in seen) <= 150
    assert tiling.side == 8 and tiling.tiles == len(seen) == 12
    np.testing.assert_array_equal(out, blur_and_repeat(x, 2, 1))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_tiles_are_halved_when_memory_runs_out(error: Exception) -> None:
    def network(x: np.ndarray) -> np.ndarray:
        if x.shape[0] * x.shape[1] > 100:
            raise error
        return blur_and_repeat(x, 1, 2)

    x = noise(24, 24, dtype=np.float32)
    out, tiling = run_tiled(network, x, Descriptor("local", 2, reach=1), "auto", 10**9)
    np.testing.assert_array_equal(out, blur_and_repeat(x, 1, 2))
    assert tiling.side == 6


def test_memory_that_never_suffices_is_one_clear_error() -> None:
    def network(x: np.ndarray) -> np.ndarray:
        raise MemoryError

    with pytest.raises(PictureError, match="memory does not suffice"):
        run_tiled(network, noise(9, 9, dtype=np.float32), Descriptor("local", 2), "auto", 10**9)


def test_other_errors_are_not_taken_for_lack_of_memory() -> None:
    def network(x: np.ndarray) -> np.ndarray:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        run_tiled(network, noise(9, 9, dtype=np.float32), Descriptor("local", 2), "auto", 10**9)


def test_the_change_by_tiling_a_global_network_is_measured() -> None:
    def network(x: np.ndarray) -> np.ndarray:
        return (x + x.mean((0, 1))) / 2

    x = np.linspace(0, 1, 40, dtype=np.float32)[:, None, None] ** 2 * np.ones((1, 40, 3), np.float32)
    descriptor = Descriptor("global", 1, tiling="global", reach=2)
    _, whole = run_tiled(network, x, descriptor, "auto", 10**9)
    assert whole.difference is None
    _, tiled = run_tiled(network, x, descriptor, 12, 10**9)
    assert tiled.changes and tiled.difference is not None
    near, far = x[10:26].mean(), x[2:34].mean()
    assert tiled.difference.largest == pytest.approx(255 * abs(near - far) / 2, rel=1e-3)
    assert tiled.difference.psnr == pytest.approx(-20 * math.log10(abs(near - far) / 2), rel=1e-3)
    assert "tiling changed the result" in str(tiled)
    _, tight = run_tiled(network, x, descriptor, 12, 16 * 16)  # no memory for more surroundings
    assert tight.changes and tight.difference is None
    assert "tiling changed the result: not measured" in str(tight)


def test_windows_stay_in_place_where_the_change_by_tiling_is_measured() -> None:
    """A network of windows of 4 that never look beyond gives the same with any tiles."""

    def network(x: np.ndarray) -> np.ndarray:
        height, width = x.shape[0] // 4, x.shape[1] // 4
        means = x.reshape(height, 4, width, 4, 3).mean((1, 3))
        return means.repeat(4, 0).repeat(4, 1)

    x = np.random.default_rng(0).random((48, 48, 3)).astype(np.float32)
    for reach in (0, 4, 6):
        descriptor = Descriptor("windows", 1, tiling="global", reach=reach, multiple=4)
        out, tiled = run_tiled(network, x, descriptor, 16, 30 * 30)
        assert np.array_equal(out, network(x))
        assert tiled.difference is None or tiled.difference.largest == 0


def test_a_tile_needs_a_side() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        run_tiled(lambda x: x, noise(4, 4, dtype=np.float32), Descriptor("x", 1), 0, 100)
