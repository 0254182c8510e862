"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with reference outputs, benchmark pictures and public checkpoints (env BITSR_SHARED)."""
    folder = Path(os.environ.get("BITSR_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"needs the data folder: {folder} not found, set BITSR_SHARED")
    return folder
