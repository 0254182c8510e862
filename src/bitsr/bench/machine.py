"""On what a measurement was taken."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bitsr.runtime.backends import usable_cores

PACKAGES = ("numpy", "torch", "onnxruntime", "openvino", "nncf")


def machine() -> dict[str, Any]:
    """Processor, its cores that this process may use, instruction set of the native engine, versions of packages."""
    from bitsr import __version__

    versions = {"bitsr": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"cpu": _processor(), "cores": usable_cores(), "isa": _isa(), "versions": versions}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _isa() -> str | None:
    try:
        from bitsr import _native
    except ImportError:
        return None
    return str(_native.isa())
