"""`python -m bitsr` is the command `bitsr`."""

import sys


def run() -> int:
    """The command; interrupted while it is still being loaded, it ends as it does later."""
    try:
        from bitsr.cli.main import main

        return main()
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(run())
