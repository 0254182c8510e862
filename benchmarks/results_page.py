"""Fills the tables of docs/results.md on post-training quantization from results/ptq.csv and results/ptq_first.csv."""

from __future__ import annotations

import re
from pathlib import Path

from rows import Table

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = [
    *(("rfdn_x4", bits, "RFDN x4 " if bits == 8 else "") for bits in (8, 4, 3, 2)),
    *(("swinir_light_x4", bits, "SwinIR-light x4 (ours) " if bits == 8 else "") for bits in (8, 4, 3, 2)),
]
METHODS = {
    "minmax": "MinMax", "percentile": "Percentile", "dobi": "DOBI", "smoothquant": "SmoothQuant", "gptq": "GPTQ",
    "2dquant": "2DQuant", "adaround": "AdaRound", "brecq": "BRECQ", "qdrop": "QDrop", "pams": "PAMS",
    "dbdc-pac": "DBDC+Pac", "svdquant": "SVDQuant-style, rank 4", "repq": "RepQ-ViT (simulated)",
    "granular-dq": "Granular-DQ (simulated)", "harmoq-literal": "HarmoQ, as printed", "harmoq": "HarmoQ",
    "best": "**the default**",
}  # fmt: skip
UNDEFINED = {("repq", "rfdn_x4", bits) for bits in (8, 4, 3, 2)}  # no LayerNorm and no softmax
UNDEFINED |= {("granular-dq", model, bits) for model, bits, _ in COLUMNS if bits < 8}  # its weights have 8 bits
NETWORKS = {
    "rfdn_x4": "RFDN x4", "imdn_x4": "IMDN x4", "swinir_light_x4": "SwinIR-light x4 (ours)",
    "mambairv2light_x4": "MambaIRv2-light x4", "hat_small_x4": "HAT x4, reduced (ours)", "imdn_x2": "IMDN x2",
    "swinir_light_x2": "SwinIR-light x2 (ours)",
}  # fmt: skip
TIMED = {  # options with which methods that learn get the default's CPU time on RFDN at W4A4
    "harmoq": "distill_steps=600 distill_lr=0.005", "2dquant": "steps=600", "adaround": "steps=2000",
    "qdrop": "steps=400 lr=0.15 activation_lr=0.06",
    "brecq": "steps=400 activation_steps=160 lr=0.15 activation_lr=0.06", "pams": "steps=800", "dbdc-pac": "steps=350",
}  # fmt: skip
TAILS = {  # shares that Percentile clips, chosen on held-out pictures
    ("rfdn_x4", "8"): "tail=1e-05", ("rfdn_x4", "2"): "tail=0.01", ("swinir_light_x4", "8"): "tail=1e-05",
}  # fmt: skip
SETS = ("Set5", "Set14", "B100", "Urban100")
ON_ALL_SETS = ("best", "harmoq", "svdquant", "gptq", "dobi")


class Rows:
    """Seed 0 and both operands at the same bits; those with chosen options first, then those of 128 crops."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str, str, str], dict[str, str]] = {}
        for name, kind in (("ptq", "chosen"), ("ptq", "crops=128"), ("ptq", ""), ("ptq_first", "")):
            for row in Table(ROOT / f"results/{name}.csv", ()).rows:
                options = chosen(row) if kind == "chosen" else kind
                if (row["seed"], row["options"]) == ("0", options) and row["w_bits"] == row["a_bits"]:
                    self.found.setdefault((row["method"], row["model"], row["w_bits"], row["dataset"]), row)

    def get(self, method: str, model: str, bits: int, dataset: str) -> dict[str, str] | None:
        return self.found.get((method, model, str(bits), dataset))


def chosen(row: dict[str, str]) -> str | None:
    """The options that the row's method is shown with, where they are not its own."""
    cell, own = (row["model"], row["w_bits"]), None
    if row["method"] == "percentile":
        own = TAILS.get(cell)
    elif cell == ("rfdn_x4", "4"):
        own = TIMED.get(row["method"])
    return own and f"crops=128 {own}"


def mark(row: dict[str, str]) -> str:
    """*: 16 calibration crops; †: from before bounds were searched on elements of all channels, when no memory was
    noted."""
    return " *" if not row["options"] else "" if row.get("compress_peak_mib") else " †"


def of_methods(rows: Rows) -> list[str]:
    """Every method on two networks, Set5."""
    lines = [
        "| method | " + " | ".join(f"{words}W{bits}A{bits}" for _, bits, words in COLUMNS) + " |",
        "|---" * (1 + len(COLUMNS)) + "|",
    ]
    for method, name in METHODS.items():
        cells = []
        for model, bits, _ in COLUMNS:
            row = rows.get(method, model, bits, "Set5")
            text = "n/a" if (method, model, bits) in UNDEFINED else ""
            if row:
                text = f"{float(row['psnr_y']):.2f} ({float(row['gap']):.2f})"
                text = (f"**{text}**" if method == "best" else text) + mark(row)
            cells.append(text)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def of_networks(rows: Rows) -> list[str]:
    """Every network, the default and the best of the others, all sets."""
    lines = ["| network, in full precision on Set5 | method | W8A8 | W4A4 | W3A3 | W2A2 |", "|---" * 6 + "|"]
    for model, name in NETWORKS.items():
        full = rows.get("fp", model, 32, "Set5")
        for method in ON_ALL_SETS:
            cells = [gaps(rows, method, model, bits) for bits in (8, 4, 3, 2)]
            if any(cells) and (method == "best" or any("/" in cell for cell in cells)):
                words = f"{name}, {float(full['psnr_y']):.2f}" if full and method == "best" else ""
                lines.append(f"| {words} | {METHODS[method]} | " + " | ".join(cells) + " |")
    return lines


def gaps(rows: Rows, method: str, model: str, bits: int) -> str:
    """On all sets that there are rows of one file for: 'Set5 / Set14 / B100 / Urban100' or the first two."""
    found = [rows.get(method, model, bits, dataset) for dataset in SETS]
    measured = [row for row in found if row is not None]
    if not measured:
        return ""
    same = [row for row in measured if (mark(row), row["options"]) == (mark(measured[0]), measured[0]["options"])]
    return " / ".join(f"{float(row['gap']):.2f}" for row in same) + mark(measured[0])


def fill(page: Path, start: str, lines: list[str]) -> None:
    """Put ``lines`` in the place of the page's table that begins with ``start``."""
    table = re.compile(rf"^{re.escape(start)}.*?\n\n", re.DOTALL | re.MULTILINE)
    text, count = table.subn(lambda _: "\n".join(lines) + "\n\n", page.read_text(encoding="utf-8"), count=1)
    if not count:
        raise SystemExit(f"{page}: there is no table that begins with {start}")
    page.write_text(text, encoding="utf-8")


def main() -> None:
    rows = Rows()
    for lines in (of_methods(rows), of_networks(rows)):
        fill(ROOT / "docs/results.md", lines[0][: lines[0].index("W8A8")], lines)


if __name__ == "__main__":
    main()
