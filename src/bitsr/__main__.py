"""`python -m bitsr` is the command `bitsr`."""

from bitsr.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
