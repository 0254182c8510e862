"""What can be wrong with a packed file, by name.  All are :class:`bitsr.errors.PackedFileError`."""

from bitsr.errors import PackedFileError
from bitsr.program.shapes import BadProgram

__all__ = ["BadHeader", "BadMagic", "BadProgram", "ChecksumMismatch", "Truncated", "UnsupportedVersion"]


class BadMagic(PackedFileError):
    """Not a packed file at all."""


class Truncated(PackedFileError):
    """The file ends too early."""


class BadHeader(PackedFileError):
    """The container's header is damaged: its sections do not tile the file."""


class UnsupportedVersion(PackedFileError):
    """Written by a newer bitsr, or with a version number that never was."""


class ChecksumMismatch(PackedFileError):
    """The file's content is not what was written."""
