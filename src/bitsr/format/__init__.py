"""The packed file: one small file that holds a program, with its tensors at their real number of bits.  See SPEC.md."""

from bitsr.format.errors import (
    BadHeader,
    BadMagic,
    BadProgram,
    ChecksumMismatch,
    Truncated,
    UnsupportedVersion,
)  # fmt: skip
from bitsr.format.name import SUFFIX, is_packed
from bitsr.format.reader import read_bytes, read_program
from bitsr.format.writer import to_bytes, write_program

__all__ = [
    "BadHeader", "BadMagic", "BadProgram", "ChecksumMismatch", "Truncated", "UnsupportedVersion",
    "SUFFIX", "is_packed", "read_bytes", "read_program", "to_bytes", "write_program",
]  # fmt: skip
