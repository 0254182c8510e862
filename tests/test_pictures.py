"""Reading and writing of pictures: depth, grey, alpha, orientation, profile, broken files."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import png
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from bitsr.data import pictures
from bitsr.data.files import write_atomically
from bitsr.data.pictures import Picture, list_pictures, read_picture, read_rgb, to_uint8, write_picture
from bitsr.data.png16 import encode_png16
from bitsr.errors import PictureError

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(channels: int, dtype: type = np.uint8, height: int = 6, width: int = 9) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_lossless_formats_keep_every_sample(tmp_path: Path, channels: int, suffix: str, dtype: type) -> None:
    pixels = noise(channels, dtype)
    write_picture(tmp_path / f"a{suffix}", Picture(pixels, ICC))
    back = read_picture(tmp_path / f"a{suffix}")
    assert back.pixels.dtype == dtype
    np.testing.assert_array_equal(back.pixels, pixels)
    assert back.icc == ICC


@pytest.mark.parametrize(("suffix", "channels"), [(".webp", 3), (".webp", 4), (".bmp", 1), (".bmp", 3)])
def test_other_lossless_formats(tmp_path: Path, suffix: str, channels: int) -> None:
    pixels = noise(channels)
    if channels == 4:
        pixels[..., 3] |= 1  # WebP may change the colour of pixels that are fully transparent
    write_picture(tmp_path / f"a{suffix}", pixels)
    np.testing.assert_array_equal(read_picture(tmp_path / f"a{suffix}").pixels, pixels)


def test_jpeg_is_close_and_keeps_grey(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(0, 160, 10, dtype=np.uint8)[None, :, None], (16, 1, 1))
    write_picture(tmp_path / "a.jpg", ramp)
    back = read_picture(tmp_path / "a.jpg").pixels
    assert back.shape == ramp.shape
    assert np.abs(back.astype(int) - ramp).max() <= 4


def test_16_bit_becomes_8_where_the_format_has_no_more(tmp_path: Path) -> None:
    pixels = noise(3, np.uint16)
    write_picture(tmp_path / "a.bmp", pixels)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.bmp").pixels, to_uint8(pixels))


def test_to_uint8_rounds_to_nearest() -> None:
    wide = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(to_uint8(wide), np.rint(wide / 257))


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(0, 1000))
def test_png16_is_read_by_another_decoder(height: int, width: int, channels: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 65536, (height, width, channels)).astype(np.uint16)
    _, _, rows, info = png.Reader(bytes=encode_png16(pixels)).read()
    np.testing.assert_array_equal(np.array([list(r) for r in rows]), pixels.reshape(height, -1))
    assert info["bitdepth"] == 16


def test_palettes_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(noise(3)).quantize(8)
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "clear.png", transparency=0)
    np.testing.assert_array_equal(read_picture(tmp_path / "opaque.png").pixels, np.asarray(image.convert("RGB")))
    clear = read_picture(tmp_path / "clear.png").pixels
    np.testing.assert_array_equal(clear[..., 3] == 0, np.asarray(image) == 0)


def test_one_bit_cmyk_and_16_bit_grey_tiff(tmp_path: Path) -> None:
    Image.new("1", (4, 3), 1).save(tmp_path / "bit.png")
    Image.new("CMYK", (4, 3), (0, 0, 0, 255)).save(tmp_path / "cmyk.jpg")
    tifffile.imwrite(tmp_path / "inverted.tif", noise(1, np.uint16)[..., 0], photometric="miniswhite")
    assert (read_picture(tmp_path / "bit.png").pixels == 255).all()
    assert read_picture(tmp_path / "cmyk.jpg").pixels.shape == (3, 4, 3)
    np.testing.assert_array_equal(read_picture(tmp_path / "inverted.tif").pixels, 65535 - noise(1, np.uint16))


def test_planar_tiff(tmp_path: Path) -> None:
    pixels = noise(3, np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(pixels, -1, 0), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif").pixels, pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_orientation_is_applied_and_reset(tmp_path: Path, orientation: int, suffix: str) -> None:
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:8, :8] = 255  # the stored top left corner
    stored[:8, 24:] = 128
    image = Image.fromarray(stored)
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "a picture"
    image.save(tmp_path / f"in{suffix}", exif=exif, **({"lossless": True} if suffix == ".webp" else {}))

    operations = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    upright = np.asarray(image.transpose(operations[orientation]) if orientation > 1 else image)
    picture = read_picture(tmp_path / f"in{suffix}")
    np.testing.assert_allclose(picture.pixels.astype(int), upright, atol=3)

    write_picture(tmp_path / f"out{suffix}", picture)
    np.testing.assert_allclose(read_picture(tmp_path / f"out{suffix}").pixels.astype(int), upright, atol=6)
    with Image.open(tmp_path / f"out{suffix}") as out:
        assert out.getexif().get(0x0112, 1) == 1
        assert out.getexif().get(0x010E) == "a picture"


def test_orientation_of_16_bit_pictures(tmp_path: Path) -> None:
    pixels = noise(3, np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a.png").write_bytes(encode_png16(pixels, exif=exif.tobytes()))
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    for name in ("a.png", "a.tif"):
        np.testing.assert_array_equal(read_picture(tmp_path / name).pixels, np.rot90(pixels, -1))


def test_read_rgb_of_all_kinds(tmp_path: Path) -> None:
    for channels in (1, 2, 3, 4):
        for dtype in (np.uint8, np.uint16):
            pixels = noise(channels, dtype)
            write_picture(tmp_path / "a.png", pixels)
            expected = to_uint8(pixels[..., :3] if channels > 2 else np.repeat(pixels[..., :1], 3, axis=2))
            np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), expected)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_truncated_pictures_are_named(tmp_path: Path, suffix: str, dtype: type) -> None:
    whole = pictures.encode(Picture(noise(3, dtype, 40, 40)), suffix)
    path = tmp_path / f"broken{suffix}"
    for length in (0, 3, 30, len(whole) // 2, len(whole) - 40):
        path.write_bytes(whole[:length])
        with pytest.raises(PictureError, match="broken") as caught:
            read_picture(path)
        assert "\n" not in str(caught.value)


def test_missing_and_strange_files(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="nowhere.png: no such picture"):
        read_picture(tmp_path / "nowhere.png")
    with pytest.raises(PictureError, match="is not a file"):
        read_picture(tmp_path)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(PictureError, match="text.png: cannot be read"):
        read_picture(tmp_path / "text.png")
    tifffile.imwrite(tmp_path / "float.tif", np.zeros((4, 4), np.float32))
    with pytest.raises(PictureError, match="float.tif: .*float32"):
        read_picture(tmp_path / "float.tif")


def header_only_png(width: int, height: int, depth: int, data: bytes = b"") -> bytes:
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("depth", [8, 16])
def test_decompression_bombs_are_refused(tmp_path: Path, depth: int) -> None:
    (tmp_path / "bomb.png").write_bytes(header_only_png(60_000, 60_000, depth))
    with pytest.raises(PictureError, match="bomb.png.*(limit|bomb)"):
        read_picture(tmp_path / "bomb.png")


def test_a_large_picture_below_pillows_error_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", 50)
    for dtype, suffix in ((np.uint8, ".png"), (np.uint16, ".png"), (np.uint16, ".tif")):
        write_picture(tmp_path / f"a{suffix}", noise(3, dtype))
        with pytest.raises(PictureError, match="9x6 pixels are more than the limit of 50"):
            read_picture(tmp_path / f"a{suffix}")


def test_a_16_bit_png_with_far_too_much_data_is_refused(tmp_path: Path) -> None:
    small = noise(3, np.uint16, 2, 2)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in small)
    path = tmp_path / "bomb.png"
    path.write_bytes(header_only_png(2, 2, 16, zlib.compress(rows)))
    np.testing.assert_array_equal(read_picture(path).pixels, small)
    path.write_bytes(header_only_png(2, 2, 16, zlib.compress(rows + bytes(1 << 22))))
    with pytest.raises(PictureError, match="more than the header announces"):
        read_picture(path)


def test_listing_is_sorted_and_refuses_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="holds no pictures"):
        list_pictures(tmp_path)
    with pytest.raises(PictureError, match="no such folder"):
        list_pictures(tmp_path / "nowhere")
    for name in ("b.PNG", "a.jpg", "notes.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    assert [p.name for p in list_pictures(tmp_path)] == ["a.jpg", "b.PNG"]


def test_a_folder_of_folders_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    with pytest.raises(PictureError, match="holds no pictures .*; its subfolders are not searched"):
        list_pictures(tmp_path)


def test_cmyk_tiff_of_16_bit_is_not_taken_for_rgba(tmp_path: Path) -> None:
    path = tmp_path / "inks.tif"
    tifffile.imwrite(path, np.zeros((8, 8, 4), np.uint16), photometric="separated")
    with pytest.raises(PictureError, match="inks.tif: .*SEPARATED"):
        read_picture(path)


def test_writing_refuses_what_a_format_cannot_hold(tmp_path: Path) -> None:
    for suffix in (".jpg", ".bmp"):
        with pytest.raises(PictureError, match="no alpha"):
            write_picture(tmp_path / f"a{suffix}", noise(4))
    with pytest.raises(PictureError, match="unknown picture format"):
        write_picture(tmp_path / "a.xyz", noise(3))
    with pytest.raises(PictureError, match="uint8 or uint16"):
        write_picture(tmp_path / "a.png", np.zeros((2, 2, 3), np.float32))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    write_picture(path, noise(3))
    before = path.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(PictureError, match="a.png: cannot be written .*disk full"):
        write_picture(path, noise(3, height=9))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_write_atomically_into_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "none" / "a.bin", b"data")


def test_encoded_jpeg_has_no_chroma_subsampling() -> None:
    with Image.open(io.BytesIO(pictures.encode(Picture(noise(3, height=16, width=16)), ".jpg"))) as image:
        assert image.layer[0][1:3] == (1, 1)  # sampling factors of luma


# ---- what cameras and scanners write --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".tif", ".jpg", ".webp", ".png"])
def test_exif_of_a_camera_travels(suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x829A] = 0.01  # exposure time
    exif.get_ifd(0x8825)[1] = "N"
    exif[271] = "maker"
    Image.new("RGB", (4, 3)).save(tmp_path / "camera.jpg", exif=exif)
    write_picture(tmp_path / f"a{suffix}", read_picture(tmp_path / "camera.jpg"))
    with Image.open(tmp_path / f"a{suffix}") as image:
        assert image.getexif()[271] == "maker" and float(image.getexif().get_ifd(0x8769)[0x829A]) == 0.01


def test_metadata_that_cannot_be_encoded_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr("bitsr.data.pictures.encode", fail)
    with pytest.raises(PictureError, match="cannot be written"):
        write_picture(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8))


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_significant_bits_do_not_change_samples(bits: int, tmp_path: Path) -> None:
    data = encode_png16(np.full((2, 3, 1), 40000, np.uint16))
    end = 8 + 25  # signature and IHDR
    chunk = b"sBIT" + bytes([bits])
    (tmp_path / "a.png").write_bytes(
        data[:end] + (1).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") + data[end:]
    )
    assert (read_picture(tmp_path / "a.png").pixels == 40000).all()


def test_premultiplied_and_unknown_channels_of_16_bit_tiff(tmp_path: Path) -> None:
    pixels = np.array([[[20000, 0, 100, 32768], [0, 0, 0, 0]]], np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["assocalpha"])
    expected = np.rint([20000 * 65535 / 32768, 0, 100 * 65535 / 32768, 32768])
    assert read_picture(tmp_path / "a.tif").pixels.tolist() == [[expected.tolist(), [0, 0, 0, 0]]]
    tifffile.imwrite(tmp_path / "b.tif", pixels, photometric="rgb", extrasamples=["unspecified"])
    assert read_picture(tmp_path / "b.tif").pixels.tolist() == pixels[..., :3].tolist()


def test_webp_keeps_what_is_behind_transparency(tmp_path: Path) -> None:
    pixels = np.array([[[200, 10, 20, 0], [1, 2, 3, 255]]], np.uint8)
    write_picture(tmp_path / "a.webp", pixels)
    assert read_picture(tmp_path / "a.webp").pixels.tolist() == pixels.tolist()


def test_a_link_to_nothing_is_a_picture_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "nowhere.png")
    assert list_pictures(tmp_path) == [tmp_path / "a.png"]
    with pytest.raises(PictureError, match="no such picture"):
        read_picture(tmp_path / "a.png")
