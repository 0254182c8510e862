"""Training of networks of signs: BSSR, and the binarizers of the literature with N:M masks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from bitsr.errors import ConfigError
from bitsr.methods.binary.bhvit import BHViTActivation, BHViTWeight
from bitsr.methods.binary.biper import BiPerActivation, BiPerWeight
from bitsr.methods.binary.bireal import BiRealActivation, BiRealWeight
from bitsr.methods.binary.bssr import BSQ, BSSRLinear, new_kappa
from bitsr.methods.binary.config import BSSR, Binary
from bitsr.methods.binary.dorefa import DoReFaWeight, SignActivation, UnitActivation
from bitsr.methods.binary.reactnet import ReActNetWeight, RSign
from bitsr.methods.binary.reste import ReSTEActivation, ReSTEWeight
from bitsr.methods.binary.xnor import XNORActivation, XNORWeight, XNORWindows
from bitsr.methods.masks.asp import ASP
from bitsr.methods.masks.bimask import BiMask
from bitsr.methods.masks.drc import halve_channels
from bitsr.methods.masks.srste import SRSTE
from bitsr.methods.masks.sste import SSTE
from bitsr.methods.masks.tmask import TMask
from bitsr.methods.trained import dump_trained
from bitsr.methods.training_method import FullPrecision
from bitsr.parts.binarizers import ActivationBinarizer, RPReLU, WeightBinarizer
from bitsr.parts.binary_layers import BinaryConv2d, BinaryLayer, BinaryLinear
from bitsr.parts.frozen_binary import freeze_layer
from bitsr.parts.masks import Masks
from bitsr.parts.pointwise import pointwise_as_linears


class SignTraining(FullPrecision):
    """Every linear becomes a binary one; what a binarizer learns beside the weights gets no weight decay."""

    linear: type[BSSRLinear] = BSSRLinear

    def __init__(self, config: BSSR | Binary) -> None:
        self.config = config

    def prepare(self, model: nn.Module) -> nn.Module:
        student = self.trainable(model)
        if isinstance(self.config, Binary) and self.config.mask == "drc-lite":
            halve_channels(student)
        return self.binarized(student).to(next(model.parameters()).device)

    def trainable(self, model: nn.Module) -> nn.Module:
        """A copy on the CPU, as are the layers that are made."""
        return super().prepare(model).cpu()

    def binarized(self, student: nn.Module) -> nn.Module:
        """``student`` with its linears replaced."""
        if isinstance(self.config, BSSR) and self.config.pointwise:
            pointwise_as_linears(student)
        make = self.maker()
        block = self.config.block if isinstance(self.config, BSSR) or self.config.masked else 1
        check_skipped(student, self.config.skip)
        chosen = self.chosen(student, block)
        if not chosen:
            raise ConfigError(self.nothing_chosen(student, block))
        for name, source in chosen.items():
            try:
                student.set_submodule(name, make(source))
            except ValueError as error:  # of a mask
                raise ConfigError(f"{name}: {error}; leave the layer out with skip: [{name}]") from None
        return student.train()

    def chosen(self, student: nn.Module, block: int) -> dict[str, nn.Linear | nn.Conv2d]:
        """The layers that become binary ones."""
        found: dict[str, nn.Linear | nn.Conv2d] = dict(linears(student, block, self.config.skip))
        if isinstance(self.config, Binary) and self.config.convolutions:
            found |= convolutions(student, block, self.config.skip)
        return found

    def nothing_chosen(self, student: nn.Module, block: int) -> str:
        if self.chosen(student, 1):
            return f"no layer has inputs that are whole blocks of {block}: choose another block, or no mask"
        if self.config.skip:
            return f"skip {list(self.config.skip)} leaves no layer to binarize"
        return "the network has no linear layers to binarize (method binary takes convolutions: true)"

    def maker(self) -> Callable[[Any], BinaryLayer]:
        """What makes a layer's binary twin."""
        config = self.config
        if isinstance(config, Binary):
            return lambda source: baseline_layer(source, config)
        kind = self.linear
        if config.kappa_scope != "global":
            return lambda source: kind(source, config)
        weights, inputs = new_kappa(config, ()), new_kappa(config, ())
        return lambda source: kind(source, config, weights, inputs)

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        trained = [p for p in model.parameters() if p.requires_grad]
        beside = {p for layer in binary_layers(model) for p in _beside(layer)}
        return [
            {"params": [p for p in trained if p not in beside], "lr_factor": 1.0},
            {"params": [p for p in trained if p in beside], "lr_factor": 1.0, "weight_decay": 0.0},
        ]

    def on_step(self, model: nn.Module, step: int, steps: int) -> None:
        for layer in binary_layers(model):
            layer.on_step(step, steps)

    def masks(self, model: nn.Module) -> list[Tensor]:
        return [layer.masks.mask(layer.weight) for layer in binary_layers(model) if layer.masks is not None]

    def left_out(self, model: nn.Module) -> list[str]:
        """Those that were skipped, and those whose inputs are no whole blocks."""
        inside = {part for layer in binary_layers(model) for part in layer.modules()}
        left = [name for name, layer in model.named_modules() if type(layer) is nn.Linear and layer not in inside]
        if isinstance(self.config, Binary) and self.config.convolutions:
            left += [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)][1:-1]
        return left

    def freeze(self, model: nn.Module) -> nn.Module:
        frozen = super().freeze(model)
        for name, layer in list(frozen.named_modules()):
            if isinstance(layer, BinaryLayer):
                frozen.set_submodule(name, _frozen(layer))
        options = dump_trained(self.config)
        frozen.compression = {"method": options.pop("name"), **options}  # type: ignore[assignment]
        return frozen.requires_grad_(False).eval()


def check_skipped(model: nn.Module, skip: tuple[str, ...]) -> None:
    """Raises `ConfigError` where a part of ``skip`` is in no layer's name."""
    names = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    for part in skip:
        if not any(part in name for name in names):
            raise ConfigError(f"skip: no layer has {part!r} in its name; the layers are {', '.join(names[:4])}, ...")


def linears(model: nn.Module, block: int, skip: tuple[str, ...] = ()) -> Iterator[tuple[str, nn.Linear]]:
    """Name and layer of all linears whose inputs are whole blocks, but those with a part of ``skip`` in their name."""
    for name, layer in list(model.named_modules()):
        if type(layer) is nn.Linear and layer.in_features % block == 0 and not any(part in name for part in skip):
            yield name, layer


def convolutions(model: nn.Module, block: int, skip: tuple[str, ...] = ()) -> dict[str, nn.Conv2d]:
    """The same for convolutions of one group with zero padding, but for the network's first and last one."""
    found = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]
    return {
        name: layer
        for name, layer in found[1:-1]
        if layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        if layer.in_channels % block == 0 and not any(part in name for part in skip)
    }


def binary_layers(model: nn.Module) -> Iterator[BinaryLayer]:
    return (layer for layer in model.modules() if isinstance(layer, BinaryLayer))


def _beside(layer: BinaryLayer) -> Iterator[nn.Parameter]:
    """What the layer learns beside weight and bias."""
    for part in (layer.activation, layer.binarizer, layer.rprelu):
        if part is not None:
            yield from part.parameters()


# ---- layers ---------------------------------------------------------------------------------------------------------


def baseline_layer(source: nn.Linear | nn.Conv2d, config: Binary) -> BinaryLayer:
    """The binary twin of ``source`` that the options ask for."""
    axis, (outputs, inputs) = (-1 if isinstance(source, nn.Linear) else 1), source.weight.shape[:2]
    options: dict[str, Any] = {}
    if config.full_block or config.binarizer == "bbcu":
        options = {"rprelu": RPReLU(outputs, axis), "shortcut": _shortcut(source, config)}
    masks = _masks(source, config)
    activation, weight = _binarizers(source, config, None if masks is None else masks.mask(source.weight))
    parts = (activation(inputs, axis), weight(), masks)
    if isinstance(source, nn.Linear):
        return BinaryLinear(source, *parts, **options)
    return BinaryConv2d(source, *parts, **options)


def _shortcut(source: nn.Linear | nn.Conv2d, config: Binary) -> str:
    """Inside the RPReLU where one width divides the other, in BBCU outside of it where both are equal."""
    if isinstance(source, nn.Conv2d) and set(source.stride) != {1}:
        return "none"
    small, large = sorted(source.weight.shape[:2])
    if config.binarizer == "bbcu":
        return "after" if small == large else "none"
    return "before" if large % small == 0 else "none"


def _binarizers(
    source: nn.Linear | nn.Conv2d, config: Binary, kept: Tensor | None
) -> tuple[Callable[[int, int], ActivationBinarizer], Callable[[], WeightBinarizer]]:
    """What makes the binarizers of (channels, axis) and of the weight, of which ``kept`` stays (None: all)."""
    kinds: dict[str, tuple[Callable[[int, int], ActivationBinarizer], Callable[[], WeightBinarizer]]] = {
        "none": (Unbinarized, UnbinarizedWeight),
        "dorefa": (UnitActivation if config.unit_inputs else SignActivation, DoReFaWeight),
        "reste": (ReSTEActivation, ReSTEWeight),
        "biper": (BiPerActivation, lambda: BiPerWeight(source.weight, kept)),
        "bhvit": (BHViTActivation, BHViTWeight),
        "xnor": (XNORActivation if isinstance(source, nn.Linear) else XNORWindows, XNORWeight),
        "bireal": (BiRealActivation, BiRealWeight),
        "reactnet": (RSign, ReActNetWeight),
        "bbcu": (RSign, ReActNetWeight),
    }
    return kinds[config.binarizer]


def _masks(source: nn.Linear | nn.Conv2d, config: Binary) -> Masks | None:
    weight, keep, block = source.weight.detach(), config.keep, config.block
    kinds: dict[str, Callable[[], Masks | None]] = {
        "none": lambda: None, "drc": lambda: None, "drc-lite": lambda: None, "srste": lambda: SRSTE(keep, block),
        "bimask": lambda: BiMask(weight, keep, block), "tmask": lambda: TMask(weight),
        "sste": lambda: SSTE(weight, keep, block), "asp": lambda: ASP(weight, keep, block),
    }  # fmt: skip
    return kinds[config.mask]()


class Unbinarized(ActivationBinarizer):
    """The input as it is."""

    def __init__(self, channels: int, axis: int) -> None:
        super().__init__(channels, axis)

    def forward(self, x: Tensor) -> Tensor:
        return x


class UnbinarizedWeight(WeightBinarizer):
    """The weight as it is."""

    def forward(self, weight: Tensor, mask: Tensor | None = None) -> Tensor:
        return weight


def _frozen(layer: BinaryLayer) -> nn.Module:
    """What is packed: a layer of signs, or one of pruned numbers where nothing was binarized; the layer as it is where
    BSSR's options allow no file."""
    if isinstance(layer.binarizer, BSQ) and (layer.binarizer.config.add_mean or layer.binarizer.groups is None):
        return layer
    if not isinstance(layer.binarizer, UnbinarizedWeight):
        return freeze_layer(layer)
    weight = layer.effective_weight().detach()
    plain = nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None)
    plain.weight = nn.Parameter(weight)
    plain.bias = copy.deepcopy(layer.bias)  # type: ignore[assignment]
    return plain
