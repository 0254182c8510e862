"""Fixtures shared by all tests."""

import os
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with reference outputs, benchmark pictures and public checkpoints (env BITSR_SHARED)."""
    folder = Path(os.environ.get("BITSR_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"needs the data folder: {folder} not found, set BITSR_SHARED")
    return folder


@pytest.fixture
def pictures() -> list[np.ndarray]:
    """Three small calibration pictures, 24x24x3 uint8."""
    noise = np.random.default_rng(0).random((3, 6, 6, 3))
    return [(np.kron(p, np.ones((4, 4, 1))) * 255).astype(np.uint8) for p in noise]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network that upscales by 2, as a safetensors file."""
    from small_files import write_checkpoint  # needs torch, which not every test has

    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors", scale=2)


@pytest.fixture(scope="module")
def calib(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two HR pictures, large enough to calibrate on and to judge on."""
    from small_files import write_pictures

    return write_pictures(tmp_path_factory.mktemp("calib") / "two", ["a.png", "b.png"], 160, 160)
