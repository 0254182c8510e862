"""The log of a run: a line of JSON per validation, and TensorBoard where it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bitsr.data.files import write_atomically

NAME = "log.jsonl"


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The entries of a run, oldest first; a line that a kill cut off is left out."""
    path = folder / NAME
    if not path.exists():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return entries


class Log:
    """Appends to the log in ``folder``; what is beyond ``step``, from before a kill, is dropped first."""

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / NAME
        kept = [entry for entry in read_log(folder) if entry["step"] <= step] if step else []
        write_atomically(self.path, "".join(json.dumps(entry) + "\n" for entry in kept).encode())
        self._board = _tensorboard(folder, step)

    def write(self, entry: dict[str, Any]) -> None:
        """``entry`` holds ``step`` and numbers."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        if self._board is not None:
            for key in entry.keys() - {"step"}:
                if entry[key] is not None:
                    self._board.add_scalar(key, entry[key], entry["step"])
            self._board.flush()


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else 0)  # type: ignore[no-untyped-call]
