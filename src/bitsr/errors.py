"""Every deliberate error of bitsr: one line that names the cause and the mend.

The command line prints such an error as `error: ...` and exits with 1; anything else is a bug and shows a traceback.
"""


class BitsrError(Exception):
    """Base of all deliberate errors; its text is one line, ready to be shown to the user."""


class UnknownNetwork(BitsrError):
    """A state dict belongs to no network that bitsr knows, or to one whose hyper-parameters cannot be told from it."""


class CheckpointError(BitsrError):
    """A checkpoint cannot be read, holds code or non-finite weights, or does not fit its network."""


class PictureError(BitsrError):
    """A picture cannot be read, written or taken by the network."""


class PackedFileError(BitsrError):
    """A packed file is damaged, was written by a newer version, or describes an invalid program."""


class UnsupportedLayer(BitsrError):
    """A layer can be simulated, but not lowered to the steps of a program; the text names the layer."""


class ConfigError(BitsrError):
    """An option or a configuration value is unknown, out of range, or contradicts another."""


class ResultsError(BitsrError):
    """A file of results lacks columns or rows, or has text where a number belongs."""
