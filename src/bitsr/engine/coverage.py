"""Which step runs where, read from the tables that the code itself goes by.

`python -m bitsr.engine.coverage > docs/engine-coverage.md` writes the page.
"""

from __future__ import annotations

from bitsr.engine.rewrite import REWRITES
from bitsr.export.steps import WRITERS
from bitsr.program import steps
from bitsr.program.reference import FUNCTIONS

# what the engine multiplies with, other steps do not
PRODUCTS = (steps.Linear, steps.Conv2d, steps.WindowAttention, steps.OverlappingAttention)

HEADING = """# What runs where

Written by `python -m bitsr.engine.coverage`. "products": what is not integer is multiplied in bfloat16 and summed in
float32; all other steps are the same in `native` and `native-bf16`. `torch` runs the lines of `reference`.

| step | reference, torch | native | native-bf16 | ONNX export |
|---|---|---|---|---|
"""


def page() -> str:
    """The table of all steps, as Markdown."""
    rows = []
    for name, step in steps.STEPS.items():
        native = "yes" if step in REWRITES else "no"
        half = "products" if native == "yes" and step in PRODUCTS else native
        cells = (name, "yes" if step in FUNCTIONS else "no", native, half, "yes" if step in WRITERS else "no")
        rows.append(f"| {' | '.join(cells)} |\n")
    return HEADING + "".join(rows)


if __name__ == "__main__":
    print(page(), end="")
