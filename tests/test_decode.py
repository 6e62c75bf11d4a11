"""Every image file people really have is decoded to the right pixels; every broken one is named with its reason."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from har_sweep.data.decode import DecodeError, decode, resize

LIMIT = 64_000_000
WIDTH, HEIGHT = 48, 32


def picture() -> Image.Image:
    """Smooth, so that lossy formats change little; no two of its corners are alike, so that a turn shows."""
    x, y = np.meshgrid(np.linspace(0, 255, WIDTH), np.linspace(0, 255, HEIGHT))
    return Image.fromarray(np.stack([x, y, 255 - (x + y) / 2], axis=2).astype(np.uint8))


def saved(image: Image.Image, format_: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def assert_close(data: bytes, expected: Image.Image, tolerance: float) -> None:
    decoded = decode(data, LIMIT)
    assert decoded.mode == "RGB"
    assert decoded.size == expected.size
    difference = np.abs(np.asarray(decoded, np.int16) - np.asarray(expected.convert("RGB"), np.int16))
    assert difference.mean() <= tolerance


def with_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_the_usual_kinds_give_the_picture() -> None:
    image = picture()
    grey = image.convert("L")
    kinds: list[tuple[bytes, Image.Image, float]] = [
        (saved(image, "JPEG", quality=95), image, 3),
        (saved(image, "JPEG", quality=95, progressive=True), image, 3),
        (saved(grey, "JPEG", quality=95), grey, 2),
        (saved(image.convert("CMYK"), "JPEG", quality=95), image, 4),
        (saved(image, "MPO", quality=95, save_all=True, append_images=[image]), image, 3),  # a phone's "JPEG"
        (saved(image, "PNG"), image, 0),
        (saved(image.quantize(64), "PNG"), image.quantize(64), 0),
        (saved(image, "BMP"), image, 0),
        (saved(image, "TIFF"), image, 0),
        (saved(image, "WEBP", lossless=True), image, 0),
        (saved(image, "AVIF", quality=95), image, 3),
        (saved(grey.convert("1"), "PNG"), grey.convert("1"), 0),
    ]
    for data, expected, tolerance in kinds:
        assert_close(data, expected, tolerance)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["PNG", "JPEG", "TIFF", "WEBP", "AVIF"])
def test_exif_orientation_is_applied_once(format_: str, orientation: int) -> None:
    upright = picture()
    undo = {
        1: [], 2: ["FLIP_LEFT_RIGHT"], 3: ["ROTATE_180"], 4: ["FLIP_TOP_BOTTOM"], 5: ["TRANSPOSE"],
        6: ["ROTATE_90"], 7: ["TRANSVERSE"], 8: ["ROTATE_270"],
    }[orientation]  # fmt: skip
    stored = upright.transpose(Image.Transpose[undo[0]]) if undo else upright
    options: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}, "AVIF": {"quality": 95}}
    assert_close(saved(stored, format_, exif=with_orientation(orientation), **options.get(format_, {})), upright, 3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_leaves_the_picture_as_it_is_stored() -> None:
    assert_close(saved(picture(), "JPEG", quality=95, exif=b"Exif\0\0II*\0\xff\xff\xff\x7f garbage"), picture(), 3)


def test_transparency_lies_on_white() -> None:
    rgba = picture().convert("RGBA")
    alpha = Image.new("L", rgba.size, 255)
    alpha.paste(0, (0, 0, WIDTH // 2, HEIGHT))
    rgba.putalpha(alpha)
    expected = picture()
    expected.paste((255, 255, 255), (0, 0, WIDTH // 2, HEIGHT))
    assert_close(saved(rgba, "PNG"), expected, 0)
    grey = Image.merge("LA", (picture().convert("L"), alpha))
    expected_grey = picture().convert("L")
    expected_grey.paste(255, (0, 0, WIDTH // 2, HEIGHT))
    assert_close(saved(grey, "PNG"), expected_grey, 0)
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 0])
    palette.putdata([0, 1])
    decoded = decode(saved(palette, "PNG", transparency=0), LIMIT)
    assert [decoded.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (200, 100, 0)]


@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
def test_16_bits_are_scaled_and_not_clipped(format_: str) -> None:
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)[None, :]
    decoded = np.asarray(decode(saved(Image.fromarray(ramp), format_), LIMIT))
    np.testing.assert_array_equal(decoded, np.repeat((ramp >> 8).astype(np.uint8)[..., None], 3, axis=2))


def test_16_bit_colour_png_is_scaled_the_same_way() -> None:
    values = np.linspace(0, 65535, 64).round().astype(">u2")
    rows = b"\0" + np.stack([values, values[::-1], values], axis=1).astype(">u2").tobytes()

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 64, 1, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    decoded = np.asarray(decode(png, LIMIT))
    np.testing.assert_array_equal(decoded[0, :, 0], (values >> 8).astype(np.uint8))
    np.testing.assert_array_equal(decoded[0, :, 1], (values[::-1] >> 8).astype(np.uint8))


@pytest.mark.parametrize("format_", ["GIF", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(format_: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options: dict[str, Any] = {"lossless": True} if format_ == "WEBP" else {}
    data = saved(frames[0], format_, save_all=True, append_images=frames[1:], duration=40, **options)
    with Image.open(io.BytesIO(data)) as animation:
        assert getattr(animation, "n_frames", 1) == 3
    assert_close(data, frames[0], 0)


def test_one_pixel_fills_the_square() -> None:
    pixels = resize(decode(saved(Image.new("RGB", (1, 1), (7, 80, 200)), "PNG"), LIMIT), 5)
    assert (pixels == np.array([7, 80, 200], np.uint8)).all()
    assert pixels.shape == (5, 5, 3)


def test_the_limit_is_checked_from_the_header_and_can_be_raised_above_pils_own() -> None:
    width, height = 20_000, 10_000
    huge = saved(Image.new("1", (width, height)), "PNG")
    with pytest.raises(DecodeError, match=r"20000 x 10000 is 200 megapixels, above data\.max_megapixels=64"):
        decode(huge[:200], LIMIT)  # its pixels are cut off: only the header was looked at
    assert decode(huge, width * height).size == (width, height)


def broken_files() -> dict[str, tuple[bytes, str]]:
    png = saved(picture(), "PNG")
    rotten = bytearray(png)
    rotten[len(png) // 2] ^= 0xFF
    return {
        "empty": (b"", "empty file"),
        "text": (b"<html>404 not found</html>", "not an image"),
        "truncated jpeg": (saved(picture(), "JPEG", quality=95)[:-100], "truncated"),
        "truncated png": (png[: len(png) // 2], "truncated"),
        "truncated gif": (saved(picture(), "GIF")[:900], "truncated"),
        "truncated webp": (saved(picture(), "WEBP")[:60], "truncated|not an image"),
        "header only": (png[:20], "not an image"),
        "corrupt png": (bytes(rotten), "corrupt"),
        "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        "float": (saved(Image.new("F", (4, 4), 0.5), "TIFF"), "floating-point"),
        "32 bits": (saved(Image.new("I", (4, 4), 1 << 20), "TIFF"), "32-bit"),
    }


@pytest.mark.parametrize("kind", broken_files())
def test_broken_files_say_why(kind: str, tmp_path: Path) -> None:
    data, reason = broken_files()[kind]
    file = tmp_path / "image.jpg"
    file.write_bytes(data)
    with pytest.raises(DecodeError, match=reason):
        decode(file, LIMIT)


def test_missing_files_and_folders_say_why(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="no such file"):
        decode(tmp_path / "gone.png", LIMIT)
    with pytest.raises(DecodeError, match="not a regular file"):
        decode(tmp_path, LIMIT)
    with pytest.raises(DecodeError, match="cannot be read: File name too long"):
        decode(tmp_path / ("x" * 300), LIMIT)


@pytest.mark.parametrize("source", [(260, 190), (17, 400), (224, 224), (1, 1), (30, 20)])
@pytest.mark.parametrize("size", [224, 33])
def test_resize_equals_torchvision_to_the_bit(source: tuple[int, int], size: int) -> None:
    from torchvision import transforms
    from torchvision.transforms import v2

    noise = np.random.default_rng(0).integers(0, 256, (source[1], source[0], 3), np.uint8)
    image = Image.fromarray(noise)
    ours = resize(image, size)
    resizers: list[Callable[[Image.Image], Image.Image]] = [v2.Resize((size, size)), transforms.Resize((size, size))]
    for resizer in resizers:
        np.testing.assert_array_equal(ours, np.asarray(resizer(image)))
