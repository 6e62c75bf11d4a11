"""An image file as people have it -> RGB pixels. Imports neither torch nor anything else of ``har_sweep``."""

from __future__ import annotations

import hashlib
import io
import stat
from importlib import import_module
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# PIL's own limit would refuse what ``data.max_megapixels`` allows; ``decode`` checks ours from the header instead.
Image.MAX_IMAGE_PIXELS = None

# Not every format PIL knows: some of the others run external programs or read other files.
for _plugin in ("Jpeg", "Png", "Gif", "WebP", "Bmp", "Tiff", "Avif"):
    import_module(f"PIL.{_plugin}ImagePlugin")  # PIL registers only some before it is asked for any
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")
EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif")
)  # fmt: skip
# Pictures to whoever put them there, which a folder's listing must not leave out without a word.
NOT_DECODED = frozenset((
    ".heic", ".heif", ".hif", ".jxl", ".svg", ".svgz", ".jp2", ".j2k", ".jpx", ".mpo", ".apng", ".dib", ".ico", ".tga",
    ".psd", ".exr", ".hdr", ".ppm", ".pgm", ".pbm", ".pnm", ".qoi", ".eps", ".dng", ".raw", ".cr2", ".cr3", ".nef",
    ".arw", ".orf", ".rw2", ".raf",
))  # fmt: skip

PREPROCESSING = {
    "decode": "8-bit RGB, upright by EXIF; of an animation the first frame; transparency on white; 16 bits: the high 8",
    "resize": "squash to the square, the aspect not kept",
    "interpolation": "bilinear, antialiased, as Pillow's Image.resize",
}
"""What ``decode`` and ``resize`` do, for whoever has a model's weights without this code."""

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class DecodeError(ValueError):
    """Why an image file cannot be used, in a few words and without its path."""


def read(file: Path) -> bytes:
    """The file's bytes.

    Raises
    ------
    DecodeError
        if it is missing, empty or cannot be read; what is no regular file (a pipe, a device) is not even opened.
    """
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise DecodeError("not a regular file")
        data = file.read_bytes()
    except FileNotFoundError:
        raise DecodeError("no such file") from None
    except OSError as e:
        raise DecodeError(f"cannot be read: {e.strerror}") from e
    if not data:
        raise DecodeError("empty file")
    return data


def content_hash(data: bytes) -> str:
    """32 hex digits that tell an image file from every other."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def decode(source: Path | bytes, max_pixels: int) -> Image.Image:
    """The picture as 8-bit RGB, upright by its EXIF orientation.

    Of an animation the first frame; transparency lies on white; 16 bits are scaled to 8 (the high byte, as PIL does for
    16-bit colour).

    Raises
    ------
    DecodeError
        if it is missing, empty, truncated, corrupt, not an image, or has more than ``max_pixels``.
    """
    data = source if isinstance(source, bytes) else read(source)
    if data.startswith(b"version https://git-lfs"):
        raise DecodeError("a Git LFS pointer, not the image itself; run `git lfs pull`")
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as e:  # a plug-in meets a broken header with whatever error comes first
        raise DecodeError(f"not an image (of {', '.join(FORMATS)}), or its header is broken") from e
    width, height = image.size
    if width * height > max_pixels:
        raise DecodeError(
            f"{width} x {height} is {width * height / 1e6:.4g} megapixels,"
            f" above data.max_megapixels={max_pixels / 1e6:g}"
        )
    try:
        image.load()
        orientation = _orientation(image)
        image = _rgb(image)
    except DecodeError:
        raise
    except Exception as e:
        raise DecodeError(f"truncated or corrupt: {str(e) or type(e).__name__}") from e
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # viewers show a picture with broken EXIF data as it is stored, and so do we
        return None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise DecodeError("floating-point pixels have no agreed range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise DecodeError("32-bit pixels have no agreed range; save it with 8 or 16 bits")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def resize(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """The RGB image as ``uint8 [size, size, 3]``: bilinear with antialiasing, the aspect not kept.

    Equal to the bit to torchvision's ``Resize((size, size))`` of the PIL image.
    """
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
