"""The registry of networks, and the way from a state dict to the network that it belongs to."""

from __future__ import annotations

from typing import Any

from torch import nn

from bitsr.archs import (
    edsr,
    espcn,
    hat,
    imdn,
    mambairv2,
    msrresnet,
    rfdn,
    rrdbnet,
    srcnn,
    srresnet,
    srvgg,
    swinir,
)
from bitsr.archs.network import Config, Network, StateDict
from bitsr.descriptor import Descriptor
from bitsr.errors import ConfigError, UnknownNetwork

NETWORKS: tuple[Network, ...] = (
    swinir.NETWORK,
    rfdn.NETWORK,
    imdn.NETWORK,
    edsr.NETWORK,
    msrresnet.NETWORK,
    mambairv2.NETWORK,
    espcn.NETWORK,
    espcn.NETWORK_CLIP,
    rrdbnet.NETWORK,
    srvgg.NETWORK,
    srresnet.NETWORK,
    srcnn.NETWORK,
    hat.NETWORK,
)


def names() -> list[str]:
    """The networks that `load` knows, without repetition."""
    return list(dict.fromkeys(network.name for network in NETWORKS))


def detect(state: StateDict, arch: str | None = None) -> tuple[Network, Config]:
    """The network of a state dict and the hyper-parameters that the weights tell.

    ``arch`` restricts the search to one name. Raises `UnknownNetwork` if no network has these keys, `ConfigError` for
    an unknown ``arch`` and `CheckpointError` if the keys are right and a shape makes no sense.
    """
    if arch is not None and arch not in names():
        raise ConfigError(f"unknown arch {arch!r}; known: {', '.join(names())}")
    for network in NETWORKS:
        if arch in (None, network.name) and (config := network.detect(state)) is not None:
            return network, config
    keys = list(state)
    seen = f"{', '.join(keys[:3])}, ... ({len(keys)} in all)" if len(keys) > 3 else ", ".join(keys)
    wanted = f"is not a {arch}" if arch else "belongs to no known network"
    raise UnknownNetwork(
        f"the state dict {wanted}; its keys: {seen}; known networks: {', '.join(names())}; compress a network of your "
        "own from Python: build the module, load its weights, set module.descriptor = bitsr.Descriptor(...) "
        "and call bitsr.compress(module, config, images)"
    )


def network_of(module: nn.Module) -> Network | None:
    """The entry of the module's class; None for a class that is not ours."""
    return next((network for network in NETWORKS if type(module) is network.build), None)


def descriptor_of(module: nn.Module) -> Descriptor:
    """The descriptor attached to a module, else the one its class implies; raises `ConfigError` if there is neither."""
    attached: Any = getattr(module, "descriptor", None)
    if isinstance(attached, Descriptor):
        return attached
    if network := network_of(module):
        return network.descriptor(module)
    raise ConfigError(
        f"{type(module).__name__} has no descriptor: set module.descriptor = bitsr.Descriptor(arch, scale, ...)"
    )
