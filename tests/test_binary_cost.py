"""Storage and operations of binary SwinIR-light x4 against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from bitsr.program.binary_cost import Operations, code_lengths, operations, scales_of, storage, stored

BLOCK = [(180, 60), (60, 60), (120, 60), (60, 120)]
SWINIR_LIGHT = BLOCK * 24


def test_codes_of_two_of_four() -> None:
    lengths = code_lengths(2, 4)
    assert lengths["entropy"] == pytest.approx(1.146, abs=5e-4)
    assert lengths["several"] == 23 / 20
    assert (lengths["code"], lengths["index"], lengths["planes"]) == (1.25, 1.5, 2.0)
    assert code_lengths(1, 1)["code"] == code_lengths(4, 4)["planes"] == 1.0


def test_scales() -> None:
    assert sum(rows * width for rows, width in SWINIR_LIGHT) == 691_200
    assert scales_of(SWINIR_LIGHT, 32) == 23_040
    assert scales_of(SWINIR_LIGHT, None) == 10_080
    for group, bits in ((None, 0.233), (16, 1.067), (32, 0.533), (64, 0.267)):
        assert storage(SWINIR_LIGHT, 0.0, group).bits == pytest.approx(bits, abs=5e-4)


@pytest.mark.parametrize(
    "bits,group,expected",
    [
        (1.0, None, (1.233, 104.1, 25.9)),
        (1.0, 32, (1.533, 129.4, 20.9)),
        (code_lengths(2, 4)["entropy"], 32, (1.680, 141.7, 19.0)),
        (code_lengths(2, 4)["several"], 32, (1.683, 142.0, 19.0)),
        (code_lengths(2, 4)["code"], 32, (1.783, 150.5, 17.9)),
        (code_lengths(2, 4)["index"], 32, (2.033, 171.6, 15.7)),
        (code_lengths(2, 4)["planes"], 32, (2.533, 213.8, 12.6)),
        (math.log2(3), 32, (2.118, 178.7, 15.1)),  # ternary
    ],
)
def test_storage(bits: float, group: int | None, expected: tuple[float, float, float]) -> None:
    counted = storage(SWINIR_LIGHT, bits, group)
    assert counted.bits == pytest.approx(expected[0], abs=6e-4)
    assert (counted.kib, counted.ratio) == pytest.approx(expected[1:], abs=0.06)


def test_scales_of_groups_cost_more_than_the_products_that_sparsity_saves() -> None:
    tokens = 57_600
    sparse, dense = operations(SWINIR_LIGHT, tokens, 2, 4, 32), operations(SWINIR_LIGHT, tokens, 1, 1, None)
    assert dense.bit_products == pytest.approx(39.81e9, rel=1e-3)
    assert sparse.bit_products == dense.bit_products // 2
    assert dense.multiplications == pytest.approx(0.581e9, rel=1e-3)
    assert sparse.multiplications == pytest.approx(1.327e9, rel=1e-3)
    assert sparse.multiplications > dense.bit_products / 64 - sparse.bit_products / 64
    assert sparse.equivalent == pytest.approx(0.311e9 + 1.327e9, rel=1e-3)


def test_a_network_of_signs_with_branches() -> None:
    """BiMaCoSR: weights of one bit, the rest and its branches as numbers; the paper says 23.8x and 27.4x and not how it
    counts."""
    signs, sparse, network = 118_421_504, 202_880, 118_593_583
    kept, low_rank, biases, scales, rprelu, norms = 13_123, 1_241_856, 78_912, 78_912, 140_544, 80_044
    rest = kept + low_rank + biases + scales + rprelu + norms
    single = stored([(signs, 1), (rest, 32), (sparse, 32 + 32)], network)
    half = stored([(signs, 1), (rest, 16), (sparse, 16 + 20)], network)
    assert (single.kib * 1024 / 1e6, single.ratio) == pytest.approx((22.96, 20.7), abs=0.05)
    assert (half.kib * 1024 / 1e6, half.ratio) == pytest.approx((18.98, 25.0), abs=0.05)
    counted = Operations(50_070_000_000, 53_000_000 + 938_000_000 + 160_000_000)
    assert counted.equivalent == pytest.approx(1.934e9, rel=1e-3)
    assert 50.1e9 / counted.equivalent == pytest.approx(25.9, abs=0.05)
