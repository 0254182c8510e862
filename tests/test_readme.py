"""Every command and every line of Python in the README and the documentation is run, on small files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from small_files import write_checkpoint, write_pictures

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
QUICK = {  # the default's own figures take a while; the words around them are what is tested here
    "--bits 4": "--bits 4 --set learn_steps=1 groups=1 samples=512",
    "a_bits=4)": "a_bits=4, learn_steps=1, groups=1, samples=512)",
}
ENTRY = "./bitsr.sh"


def blocks_of(page: Path) -> list[tuple[str, str]]:
    """(language, content) of every fenced block."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """The files that the pages speak of, and `bitsr` on the PATH."""
    write_checkpoint(tmp_path / "model.safetensors", scale=4)
    write_pictures(tmp_path / "photos", ["photo.png", "other.png"], 72, 80)
    write_pictures(tmp_path / "Set5", ["a.png", "b.png"])
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "bitsr"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bitsr "$@"\n')
    program.chmod(0o755)
    return tmp_path


def environment_of(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY / "src"),
        "OMP_NUM_THREADS": "1",
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run_in_order(page: Path, workplace: Path) -> None:
    for language, content in blocks_of(page):
        if ENTRY in content:
            continue
        if language == "yaml":
            assert isinstance(yaml.safe_load(content), dict)
            continue
        for long, quick in QUICK.items():
            content = content.replace(long, quick)
        program = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}[language]
        done = subprocess.run(
            [*program, content], cwd=workplace, env=environment_of(workplace), capture_output=True, text=True
        )
        assert done.returncode == 0, content + done.stdout + done.stderr


def test_pages_have_both_languages() -> None:
    for page in (REPOSITORY / "README.md", REPOSITORY / "docs" / "python.md"):
        assert "python" in {language for language, _ in blocks_of(page)}
    assert "sh" in {language for language, _ in blocks_of(REPOSITORY / "README.md")}


def entry_commands(text: str) -> list[str]:
    return [line.split("#")[0].split()[1] for line in text.splitlines() if line.startswith(ENTRY)]


def test_two_commands_for_a_fresh_machine() -> None:
    commands = [word for _, content in blocks_of(REPOSITORY / "README.md") for word in entry_commands(content)]
    assert commands == ["demo", "test"]
    assert os.access(REPOSITORY / "bitsr.sh", os.X_OK)
    assert subprocess.run(["bash", "-n", str(REPOSITORY / "bitsr.sh")]).returncode == 0
    script = (REPOSITORY / "bitsr.sh").read_text(encoding="utf-8")
    assert all(f"    {word})" in script for word in commands)


def test_ci_runs_the_readme_test_command() -> None:
    script = REPOSITORY / ".ci" / "run"
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    assert entry_commands(script.read_text(encoding="utf-8"))[-1] == "test"


def test_entry_refuses_unknown_commands() -> None:
    done = subprocess.run([str(REPOSITORY / "bitsr.sh"), "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "./bitsr.sh demo" in done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_pins_cover_what_is_declared() -> None:
    declared = re.findall(r'"([A-Za-z][\w-]*)>=', (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    pins = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").lower()
    missing = [name for name in declared if name != "hatchling" and f"\n{name.lower()}==" not in pins]
    assert not missing
    assert "torch==2.13.0" in pins and "nvidia" not in pins
