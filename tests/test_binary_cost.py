"""Storage and operations of networks of signs against numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest

from bitsr.program.binary_cost import Operations, code_lengths, operations, scales_of, storage, stored

BLOCK = [(180, 60), (60, 60), (120, 60), (60, 120)]
SWINIR_LIGHT = BLOCK * 24
ATTENTIVE_LAYER = [(144, 48), *[(48, 48)] * 4, *[(48, 24)] * 2, (16, 48), (64, 16)]
MAMBAIRV2_LIGHT = ATTENTIVE_LAYER * 20
THRESHOLDS = sum(width for _, width in SWINIR_LIGHT)  # one for each channel of each input


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
    assert sum(rows * width for rows, width in MAMBAIRV2_LIGHT) == 404_480
    assert scales_of(MAMBAIRV2_LIGHT, 32) == 17_280
    assert storage(MAMBAIRV2_LIGHT, 0.0, 32).bits == pytest.approx(0.684, abs=5e-4)


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


HALF_SPARSE = code_lengths(2, 4)["index"] - 2 / 4 + 16 * 2 / 4  # in the place of each sign a number of 16 bits


def test_storage_of_sparse_numbers() -> None:
    counted = storage(SWINIR_LIGHT, HALF_SPARSE, None, scale_bits=0)
    assert counted.bits == 9
    assert (counted.kib, counted.ratio) == pytest.approx((759.4, 3.6), abs=0.05)


@pytest.mark.parametrize(
    "bits,beside,ratio",
    [
        (1.0, scales_of(SWINIR_LIGHT, None) + THRESHOLDS, 3.5),
        (code_lengths(2, 4)["code"], scales_of(SWINIR_LIGHT, 32) + THRESHOLDS, 3.3),
        (code_lengths(2, 4)["planes"], scales_of(SWINIR_LIGHT, 32) + THRESHOLDS, 3.1),
        (HALF_SPARSE, 0, 2.1),
    ],
)
def test_the_rest_in_single_precision_is_most_of_the_network(bits: float, beside: int, ratio: float) -> None:
    counted = stored([(691_200, bits), (beside, 16), (238_428, 32)], 929_628)
    assert counted.ratio == pytest.approx(ratio, abs=0.05)


def test_thresholds() -> None:
    assert THRESHOLDS == 7200
    assert stored([(THRESHOLDS, 16)], 691_200).kib == pytest.approx(14, abs=0.1)


def test_scales_of_groups_cost_more_than_the_products_that_sparsity_saves() -> None:
    tokens = 57_600
    sparse, dense = operations(SWINIR_LIGHT, tokens, 2, 4, 32), operations(SWINIR_LIGHT, tokens, 1, 1, None)
    assert dense.bit_products == pytest.approx(39.81e9, rel=1e-3)
    assert sparse.bit_products == dense.bit_products // 2
    assert dense.multiplications == pytest.approx(0.581e9, rel=1e-3)
    assert sparse.multiplications == pytest.approx(1.327e9, rel=1e-3)
    assert sparse.multiplications > dense.bit_products / 64 - sparse.bit_products / 64
    assert replace(dense, multiplications=0).equivalent == pytest.approx(0.622e9, rel=1e-3)
    assert replace(sparse, multiplications=0).equivalent == pytest.approx(0.311e9, rel=1e-3)
    assert sparse.equivalent == pytest.approx(0.311e9 + 1.327e9, rel=1e-3)


# ---- BiMaCoSR -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """A linear, or a convolution of so many taps, that makes ``positions`` outputs."""

    outputs: int
    inputs: int
    positions: int
    taps: int = 1
    convolution: bool = True


def bimacosr_layers() -> list[Layer]:
    """Layers of signs of SinSR's U-Net on a latent of 64x64, in their order: four levels of residual blocks, of which
    the first of each level has two Swin blocks after it."""
    layers = [Layer(640, 160, 1, convolution=False), Layer(640, 640, 1, convolution=False)]

    def residual(inputs: int, outputs: int, side: int, swin: bool) -> None:
        pixels = side * side
        layers.append(Layer(outputs, inputs, pixels, 9))
        layers.append(Layer(2 * outputs, 640, 1, convolution=False))  # of the time
        layers.append(Layer(outputs, outputs, pixels, 9))
        if inputs != outputs:
            layers.append(Layer(outputs, inputs, pixels))
        if not swin:
            return
        layers.append(Layer(192, outputs, pixels))
        for _ in range(2):
            layers.append(Layer(576, 192, pixels, convolution=False))
            layers.append(Layer(192, 192, pixels, convolution=False))
            layers.extend([Layer(768, 192, pixels), Layer(192, 768, pixels)])
        layers.append(Layer(outputs, 192, pixels))

    levels, width, kept = [(160, 64), (320, 32), (320, 16), (640, 8)], 160, [160]
    for outputs, side in levels:
        if side < 64:
            layers.append(Layer(width, width, side * side, 9))
            kept.append(width)
        residual(width, outputs, side, swin=True)
        residual(outputs, outputs, side, swin=False)
        kept += [outputs, outputs]
        width = outputs
    residual(640, 640, 8, swin=True)
    residual(640, 640, 8, swin=False)
    for outputs, side in reversed(levels):
        for block in range(3):
            residual(width + kept.pop(), outputs, side, swin=block == 0)
            width = outputs
        if side < 64:
            layers.append(Layer(width, width, 4 * side * side, 9))
    return layers


LAYERS = bimacosr_layers()
SIGNS, SPARSE, NETWORK = 118_421_504, 202_880, 118_593_583
KEPT, LOW_RANK, BIASES, SCALES, RPRELU, NORMS = 13_123, 1_241_856, 78_912, 78_912, 140_544, 80_044
REST = KEPT + LOW_RANK + BIASES + SCALES + RPRELU + NORMS


def rank(layer: Layer) -> int:
    return min(8, layer.inputs, layer.outputs)


def test_layers_of_bimacosr_have_the_numbers_that_are_stored() -> None:
    assert [sum(layer.taps == 9 for layer in LAYERS), sum(not layer.convolution for layer in LAYERS)] == [50, 60]
    assert sum(layer.outputs * layer.inputs * layer.taps for layer in LAYERS) == SIGNS
    assert scales_of([(layer.outputs, layer.inputs) for layer in LAYERS], None) == BIASES == SCALES
    assert sum(rank(layer) * (layer.inputs + layer.outputs) for layer in LAYERS) == LOW_RANK
    assert sum(2 * max(layer.inputs, layer.outputs) for layer in LAYERS) == SPARSE
    assert sum(3 * layer.outputs for layer in LAYERS if layer.convolution) == RPRELU
    assert SIGNS + BIASES + KEPT + NORMS == NETWORK


def test_a_network_of_signs_with_branches() -> None:
    """Weights of one bit, the rest and its branches as numbers; the paper says 23.8x and not how it counts."""
    single = stored([(SIGNS, 1), (REST, 32), (SPARSE, 32 + 32)], NETWORK)
    half = stored([(SIGNS, 1), (REST, 16), (SPARSE, 16 + 20)], NETWORK)
    assert (single.kib * 1024 / 1e6, single.ratio) == pytest.approx((22.96, 20.7), abs=0.05)
    assert (half.kib * 1024 / 1e6, half.ratio) == pytest.approx((18.98, 25.0), abs=0.05)


def test_parameters_that_32_signs_count_as_one_of() -> None:
    everything = [(SIGNS, 1), (REST + SPARSE, 32)]
    counted = stored(everything, NETWORK)
    assert NETWORK / counted.ratio == pytest.approx(5.54e6, rel=1e-3)
    assert counted.ratio == pytest.approx(21.4, abs=0.05)
    assert stored([*everything, (-SCALES - RPRELU, 32)], NETWORK).ratio == pytest.approx(22.3, abs=0.05)
    autoencoder = 55_300_000
    assert stored([*everything, (autoencoder, 32)], NETWORK + autoencoder).ratio == pytest.approx(2.9, abs=0.05)


def test_operations_of_a_network_of_signs_with_branches() -> None:
    """Without the products with scales; the paper says 27.4x."""

    def products(outputs: int, inputs: int, positions: int) -> int:
        return operations([(outputs, inputs)], positions, 1, 1, None).bit_products

    signs = sum(products(layer.outputs, layer.inputs * layer.taps, layer.positions) for layer in LAYERS)
    ends = products(160, 6 * 9, 64 * 64) + products(3, 160 * 9, 64 * 64)
    low_rank = sum(
        products(rank(layer), layer.inputs, layer.positions) + products(layer.outputs, rank(layer), layer.positions)
        for layer in LAYERS
    )
    sparse = sum(products(2, max(layer.inputs, layer.outputs), layer.positions) for layer in LAYERS)
    assert (signs, ends) == pytest.approx((50.07e9, 0.053e9), rel=2e-3)
    assert (low_rank, sparse) == pytest.approx((0.938e9, 0.160e9), rel=3e-3)
    counted, whole = Operations(signs, ends + low_rank + sparse), signs + ends
    assert counted.equivalent == pytest.approx(1.934e9, rel=1e-3)
    assert whole / counted.equivalent == pytest.approx(25.9, abs=0.05)
    assert whole / Operations(signs, ends + low_rank).equivalent == pytest.approx(28.3, abs=0.05)
    assert low_rank > Operations(signs, 0).equivalent
