"""A Python process in which torch cannot be imported, as where it is not installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import bitsr

BLOCK = """
import sys

class WithoutTorch:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] == "torch" else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [WithoutTorch(finder) for finder in sys.meta_path]
"""


def run_without_torch(code: str) -> subprocess.CompletedProcess[str]:
    """The finished process of ``code``."""
    environment = {**os.environ, "PYTHONPATH": str(Path(bitsr.__file__).parents[1])}
    return subprocess.run([sys.executable, "-c", BLOCK + code], capture_output=True, text=True, env=environment)
