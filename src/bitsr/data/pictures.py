"""Reading and writing of pictures with all that a user expects back: depth, grey, alpha, orientation, profile."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import ExifTags, Image

from bitsr.data.files import write_atomically
from bitsr.data.png16 import encode_png16, is_png16, read_png16
from bitsr.errors import PictureError

FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF",
}  # fmt: skip
SUFFIXES = tuple(FORMATS)
MAX_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs
STRUCTURE = {
    *range(256, 260), 262, 266, 273, *range(277, 280), 284, 317, 320, *range(322, 326), 330, 338, 339, 347, 34675,
}  # fmt: skip
"""TIFF tags that lay out the file's pixels and must not travel to another file as EXIF."""
PLAIN_TIFF = (tifffile.PHOTOMETRIC.MINISWHITE, tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
MOST_EXIF_OF_JPEG = 65533  # bytes; more is left out
NO_ALPHA = (".jpg", ".jpeg", ".bmp")


@dataclass(frozen=True)
class Picture:
    """Pixels and what travels with them.

    Attributes:
        pixels: HxWxC uint8 or uint16; C is 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGBA, not premultiplied).
        icc: the colour profile, as it stood in the file.
        exif: the EXIF block; its orientation is already applied to the pixels and reset.  (16-bit TIFF carries none.)
    """

    pixels: NDArray
    icc: bytes | None = None
    exif: bytes | None = None

    @property
    def is_grey(self) -> bool:
        return self.pixels.shape[2] < 3

    @property
    def rgb(self) -> NDArray:
        """HxWx3 without alpha, in the picture's own depth; grey is repeated."""
        return np.repeat(self.pixels[..., :1], 3, axis=2) if self.is_grey else self.pixels[..., :3]

    @property
    def alpha(self) -> NDArray | None:
        """HxWx1, or None for an opaque picture."""
        return self.pixels[..., -1:] if self.pixels.shape[2] in (2, 4) else None


def read_picture(path: str | Path) -> Picture:
    """Read a PNG, JPEG, WebP, BMP or TIFF picture (of an animation, the first frame).

    8-bit samples stay uint8, 16-bit ones (PNG, TIFF) uint16; palettes become RGB or RGBA.  Raises `PictureError` naming
    file and cause for anything that is missing, corrupt, larger than ``MAX_PIXELS``, or of a kind that is not handled.
    """
    path = Path(path)
    if not path.is_file():
        raise PictureError(f"{path}: no such picture" if not path.exists() else f"{path}: is not a file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return _read_png16(path) if is_png16(path) else _read_tiff16(path) or _read_pillow(path)
    except Exception as error:  # decoders answer broken files with every kind of exception
        raise PictureError(f"{path}: cannot be read as a picture ({_one_line(error)})") from error


def read_rgb(path: str | Path) -> NDArray[np.uint8]:
    """Read any picture as HxWx3 uint8: alpha is dropped, grey repeated, 16 bit rounded to 8."""
    return to_uint8(read_picture(path).rgb)


def to_uint8(pixels: NDArray) -> NDArray[np.uint8]:
    """uint16 samples rounded to uint8 (65535 becomes 255); uint8 passes."""
    return pixels if pixels.dtype == np.uint8 else ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def check_folder(folder: str | Path) -> None:
    """Raises `PictureError` for what is no folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise PictureError(f"{folder}: {'is a file, expected a folder' if folder.exists() else 'no such folder'}")


def list_pictures(folder: str | Path) -> list[Path]:
    """All pictures directly in a folder, sorted by name; raises `PictureError` if there is none."""
    check_folder(folder)
    folder = Path(folder)
    paths = sorted(p for p in folder.iterdir() if is_picture(p))
    if not paths:
        deeper = "; its subfolders are not searched" if any(p.is_dir() for p in folder.iterdir()) else ""
        raise PictureError(f"{folder}: holds no pictures ({', '.join(SUFFIXES)}){deeper}")
    return paths


def is_picture(path: Path) -> bool:
    """Whether the name is that of a picture; hidden files are not."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and (path.is_file() or _dangles(path))


def _dangles(path: Path) -> bool:
    """A link to nothing: the reader says so."""
    return path.is_symlink() and not path.exists()


def write_picture(path: str | Path, picture: Picture | NDArray) -> None:
    """Write a picture, or a bare HxWxC array of uint8 or uint16, in the format that the suffix names.

    The file appears by temporary file, fsync and rename, never in part.  PNG and TIFF keep 16 bit, the others get 8.
    JPEG has quality 95 without chroma subsampling, WebP is lossless.  Raises `PictureError` for an unknown suffix,
    for alpha in a format without it, and when the folder cannot be written.
    """
    path = Path(path)
    if not isinstance(picture, Picture):
        picture = Picture(picture)
    pixels = picture.pixels
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 2, 3, 4) or pixels.dtype not in (np.uint8, np.uint16):
        raise PictureError(f"{path}: pixels must be HxWxC uint8 or uint16, not {pixels.dtype} {pixels.shape}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, encode(picture, path.suffix))
    except Exception as error:  # encoders answer metadata that they cannot write with every kind of exception
        raise PictureError(f"{path}: cannot be written ({_one_line(error)})") from error


def encode(picture: Picture, suffix: str) -> bytes:
    """The bytes of a picture file of the format that ``suffix`` names; see `write_picture`."""
    suffix, pixels = suffix.lower(), picture.pixels
    if suffix not in SUFFIXES:
        raise PictureError(f"unknown picture format {suffix!r}, use one of {', '.join(SUFFIXES)}")
    if suffix in NO_ALPHA and picture.alpha is not None:
        raise PictureError(f"{suffix[1:].upper()} has no alpha channel, use .png, .webp or .tif")
    if pixels.dtype == np.uint16 and suffix == ".png":
        return encode_png16(pixels, picture.icc, picture.exif)
    if pixels.dtype == np.uint16 and suffix in (".tif", ".tiff"):
        return _encode_tiff16(picture)

    samples = np.ascontiguousarray(to_uint8(pixels))
    image = Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)  # the shape tells L, LA, RGB, RGBA
    options: dict[str, Any] = {"icc_profile": picture.icc} if picture.icc else {}
    jpeg = suffix in (".jpg", ".jpeg")
    if picture.exif and not (jpeg and len(picture.exif) > MOST_EXIF_OF_JPEG):
        options["exif"] = picture.exif
    if jpeg:
        options |= {"quality": 95, "subsampling": 0}
    elif suffix == ".webp":
        options |= {"lossless": True, "exact": True}
    elif suffix in (".tif", ".tiff") and not picture.exif:  # libtiff cannot write what cameras put there
        options |= {"compression": "tiff_adobe_deflate"}
    buffer = io.BytesIO()
    image.save(buffer, FORMATS[suffix], **options)
    return buffer.getvalue()


def _read_pillow(path: Path) -> Picture:
    with Image.open(path) as image:
        _refuse_large(*image.size)
        image.load()
        exif = image.getexif()
        orientation = exif.get(ExifTags.Base.Orientation, 1)
        icc = image.info.get("icc_profile") if image.mode not in ("CMYK", "LAB") else None
        if image.mode in ("F", "I"):
            raise ValueError(f"samples of mode {image.mode} are neither 8 nor 16 bit")
        if image.mode.startswith("I;16"):
            pixels = np.asarray(image).astype(np.uint16)
        else:
            pixels = np.array(image.convert(_plain_mode(image)))
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return Picture(_orient(pixels, orientation), icc, _reset(exif))


def _plain_mode(image: Image.Image) -> str:
    grey = image.mode in ("1", "L", "LA", "La")
    return ("L" if grey else "RGB") + ("A" if image.has_transparency_data else "")


def _read_png16(path: Path) -> Picture:
    with Image.open(path) as image:
        _refuse_large(*image.size)
        image.load()
        exif, icc = image.getexif(), image.info.get("icc_profile")
    pixels = read_png16(path, MAX_PIXELS)
    return Picture(_orient(pixels, exif.get(ExifTags.Base.Orientation, 1)), icc, _reset(exif))


def _read_tiff16(path: Path) -> Picture | None:
    """A TIFF whose samples are not 8 bit (None for any other file)."""
    with open(path, "rb") as file:
        if file.read(4) not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return None
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        if page.bitspersample <= 8:
            return None
        if page.dtype != np.uint16:
            raise ValueError(f"samples of type {page.dtype} are neither 8 nor 16 bit")
        if page.photometric not in PLAIN_TIFF:
            colours = getattr(page.photometric, "name", page.photometric)
            raise ValueError(f"16-bit samples of colours {colours} are not handled, save it as RGB")
        _refuse_large(page.imagewidth, page.imagelength)
        pixels = page.asarray()
        if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and pixels.ndim == 3:
            pixels = np.moveaxis(pixels, 0, -1)
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            pixels = 65535 - pixels
        orientation, icc = page.tags.valueof(274, 1), page.tags.valueof(34675)
        extra = page.extrasamples
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if extra and extra[0] == tifffile.EXTRASAMPLE.UNSPECIFIED:
        pixels = pixels[..., : -len(extra)]
    elif extra and extra[0] == tifffile.EXTRASAMPLE.ASSOCALPHA:
        pixels = _divided_by_alpha(pixels)
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 2, 3, 4):
        raise ValueError(f"a TIFF page of shape {pixels.shape} is not a picture")
    return Picture(_orient(pixels, int(orientation)), bytes(icc) if icc else None)


def _divided_by_alpha(pixels: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Colours that were multiplied with their alpha, the last channel, as they had been; black where it is 0."""
    colours, alpha = pixels[..., :-1].astype(np.float64), pixels[..., -1:]
    colours = np.divide(colours * 65535, alpha, out=np.zeros_like(colours), where=alpha > 0)
    return np.concatenate([np.rint(colours.clip(0, 65535)).astype(np.uint16), alpha], axis=2)


def _encode_tiff16(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    pixels = picture.pixels
    tifffile.imwrite(
        buffer,
        pixels[..., 0] if pixels.shape[2] == 1 else pixels,
        photometric="minisblack" if picture.is_grey else "rgb",
        planarconfig="contig" if pixels.shape[2] > 1 else None,
        extrasamples=["unassalpha"] if picture.alpha is not None else None,
        compression="zlib",
        iccprofile=picture.icc,
        metadata=None,
    )
    return buffer.getvalue()


def _refuse_large(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels are more than the limit of {MAX_PIXELS}")


def _orient(pixels: NDArray, orientation: int) -> NDArray:
    """Turn stored pixels upright; ``orientation`` is the EXIF value 1..8, others count as 1."""
    if orientation in (5, 6, 7, 8):
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _reset(exif: Image.Exif) -> bytes | None:
    for tag in [*STRUCTURE & set(exif)]:
        del exif[tag]
    if not exif:
        return None
    exif[ExifTags.Base.Orientation] = 1
    return exif.tobytes()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
