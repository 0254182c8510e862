"""Bits of single layers: who gets them, how they travel through files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

import bitsr
from bitsr.cli.main import main
from bitsr.errors import ConfigError
from bitsr.methods.ptq.config import GranularDQ, HarmoQ, MinMax
from bitsr.methods.registry import METHODS, config_for, config_from, dump_config
from bitsr.parts.layers import quantized_layers
from bitsr.program.counting import count_layers
from ptq_quick import QUICK, distance, quick
from small_files import write_checkpoint, write_pictures
from tiny import make, picture


def bits_of(module: torch.nn.Module) -> dict[str, tuple[int, int]]:
    return {name: (getattr(layer, "w_bits", 0), layer.a_bits) for name, layer in quantized_layers(module).items()}


@pytest.mark.parametrize("config", [MinMax(), HarmoQ(3, 8, layer_bits={"a": (4, 4), "b.c": (16, 32)})])
def test_configs_travel_through_json_and_yaml(config: MinMax) -> None:
    plain = dump_config(config)
    assert config_from(json.loads(json.dumps(plain))) == config
    assert config_from(yaml.safe_load(yaml.safe_dump(plain))) == config
    assert hash(config_from(plain)) == hash(config)


@pytest.mark.parametrize("bits", [4, [4], [4, 5], [4, 4, 4], ["4", "4"], [1, 4], None])
def test_bits_that_are_no_pair_of_widths_are_refused(bits: object) -> None:
    with pytest.raises(ConfigError, match="layer_bits: conv"):
        config_from({"method": "minmax", "layer_bits": {"conv": bits}})


def test_convolutions_of_a_transformer_but_its_ends_take_conv_bits(pictures: list) -> None:
    module = make("swinir light x4")
    eight, four = (bits_of(bitsr.compress(module, MinMax(4, 4, conv_bits=bits), pictures)) for bits in (8, 4))
    changed = {"layers.0.conv": (4, 4), "conv_after_body": (4, 4)}
    assert all(eight[name] == (8, 8) for name in changed) and four == eight | changed
    assert eight["conv_first"] == eight["upsample.0"] == (8, 8)
    assert bits_of(bitsr.compress(module, MinMax(6, 8, conv_bits=4), pictures))["conv_after_body"] == (6, 8)
    with pytest.raises(ConfigError, match="conv_bits=5"):
        MinMax(conv_bits=5)


def test_attention_products_take_attention_bits(pictures: list) -> None:
    module = make("swinir light x4")
    four, eight = (bits_of(bitsr.compress(module, MinMax(4, 4, attention_bits=bits), pictures)) for bits in (None, 8))
    products = {name for name in four if "matmul" in name}
    assert products and {name for name in four if four[name] != eight[name]} == products
    assert {four[name][1] for name in products} == {4} and {eight[name][1] for name in products} == {8}
    floating = bits_of(bitsr.compress(module, MinMax(4, 4, attention_bits=16), pictures))
    assert floating == {name: bits for name, bits in four.items() if name not in products}
    with pytest.raises(ConfigError, match="attention_bits=5"):
        MinMax(attention_bits=5)


def test_unknown_layers_are_refused_with_near_names(pictures: list) -> None:
    with pytest.raises(ConfigError, match=r"no layer body.0.conv that .*near: body\.0\.conv[12]"):
        bitsr.compress(make("edsr"), MinMax(layer_bits={"body.0.conv": (4, 4)}), pictures)
    with pytest.raises(ConfigError, match="Granular-DQ"):
        GranularDQ(layer_bits={"conv_first": (4, 4)})


@pytest.mark.parametrize("method", ["minmax", *QUICK])
def test_every_method_gives_the_layers_their_bits(method: str, pictures: list) -> None:
    module = make("edsr")
    asked = {"body.0.conv1": (2, 6), "body.1.conv2": (8, 3), "conv_last": (16, 16)}
    base = config_for(method) if method == "minmax" else quick(method)
    plain = bits_of(bitsr.compress(module, base, pictures))
    config = config_from(dump_config(base) | {"layer_bits": asked})
    expected = plain | {"body.0.conv1": (2, 6), "body.1.conv2": (8, 3)}
    del expected["conv_last"]
    assert bits_of(bitsr.compress(module, config, pictures)) == expected


def test_attention_products_and_layers_outside_of_the_scope(pictures: list) -> None:
    module = make("swinir light x4")
    product = next(name for name, layer in quantized_layers(bitsr.compress(module, MinMax(), pictures)).items()
                   if name.endswith("matmul_qk"))  # fmt: skip
    asked = {product: (8, 8), "conv_first": (6, 3)}
    small = bitsr.compress(module, MinMax(4, 4, "paper", asked), pictures)
    assert small.get_submodule(product).quantizer_a.bits == 8
    assert bits_of(small)["conv_first"] == (6, 3) and "upsample.0" not in bits_of(small)


def test_wider_layers_are_closer(pictures: list) -> None:
    module = make("edsr")
    x = picture(module)
    errors = [distance(bitsr.compress(module, MinMax(2, 2, layer_bits=bits), pictures), module, x)
              for bits in ({}, {"body.0.conv1": (8, 8), "body.1.conv1": (8, 8)})]  # fmt: skip
    assert errors[1] < errors[0]


def test_harmoq_distils_where_any_layer_has_few_bits() -> None:
    assert HarmoQ(8, 8).fewest_bits == 8 and HarmoQ(8, 8, layer_bits={"a": (8, 4)}).fewest_bits == 4
    assert METHODS["harmoq"] is HarmoQ


def test_the_packed_file_has_them(pictures: list) -> None:
    small = bitsr.compress(make("edsr"), MinMax(layer_bits={"body.0.conv1": (3, 6), "conv_last": (16, 16)}), pictures)
    program = bitsr.lower(small)
    counted = {layer.name: (layer.w_bits, layer.a_bits) for layer in count_layers(program)}
    assert counted["body.0.conv1"] == (3, 6) and counted["conv_last"] == (16, 32)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = write_checkpoint(tmp_path / "tiny.safetensors", scale=2)
    calib = write_pictures(tmp_path / "calib", ["a.png"], 160, 160)
    config, packed = tmp_path / "config.yaml", tmp_path / "tiny.bitsr"
    config.write_text("method: minmax\nw_bits: 4\na_bits: 8\nlayer_bits: {conv_first: [2, 8]}\n")
    words = ["compress", str(checkpoint), "-o", str(packed), "--calib", str(calib), "--config", str(config)]
    assert main([*words, "--set", "a_bits=6"]) == 0
    assert main(["info", str(packed), "--json"]) == 0
    content = json.loads(capsys.readouterr().out.splitlines()[-1])
    layers = {layer["name"]: (layer["w_bits"], layer["a_bits"]) for layer in content["layers"]}
    assert layers["conv_first"] == (2, 8) and (4, 6) in layers.values()
    assert content["meta"]["compression"]["layer_bits"] == {"conv_first": [2, 8]}
    assert main([*words, "--set", "layer_bits={conv_fist: [4, 4]}"]) == 1
    assert "near: conv_first" in capsys.readouterr().err
    assert main([*words, "--set", "layer_bits={conv_first: [4, "]) == 1
    assert main(["info", str(packed)]) == 0
    assert "layer_bits" not in capsys.readouterr().out
