"""Speed of the compiled kernels in cache, beside what their instructions reach without loads and stores.

python benchmarks/kernels.py                 # the instruction set in use; --isa NAME, --isa all

Peaks are measured between the repetitions of every line, so that a busy neighbour slows both.  A tile is 64 pixels.
"""

from __future__ import annotations

import argparse

from bitsr import _native


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", default=_native.isa(), help=f"one of {', '.join(_native.isas())}, or all")
    parser.add_argument("--repetitions", type=int, default=25, help="of about a millisecond; medians are printed")
    options = parser.parse_args()
    for isa in _native.isas() if options.isa == "all" else [options.isa]:
        print(f"\n### {isa}\n")
        print("| kernel | format | shape | speed | peak | % of peak |")
        print("|---|---|---|---|---|---|")
        for speed in _native.benchmark_kernels(isa, options.repetitions):
            rate = f"{speed.rate:.1f} G{speed.unit}/s"
            peak = f"{speed.peak:.0f} | {100 * speed.share:.0f}" if speed.peak else " | "
            print(f"| {speed.kernel} | {speed.format} | {speed.shape} | {rate} | {peak} |")


if __name__ == "__main__":
    main()
