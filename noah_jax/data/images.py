"""Image files: which are read, and how they become RGB.

The first frame or page of a file is used; transparency is dropped. Colours are as Pillow reads
them without colour profiles, as in the reference code.
"""

import contextlib
import os
import pathlib
import stat
import warnings
from typing import BinaryIO

import numpy as np
import PIL.Image
import PIL.ImageFile
import PIL.ImageOps
from PIL.ExifTags import Base as Tag

from noah_jax.digests import file_sha256

_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM")  # others start programs, e.g. EPS
_MAX_PIXELS = 89_478_485  # Pillow's own limit
_MAX_BYTES = 1 << 30
_ANY_FILE_HOLDS, _A_BYTE_HOLDS = 1 << 24, 10_000  # pixels: more are claimed, to take memory

# It warns of damaged metadata, which leaves the pixels alone, and of what is refused here anyway.
warnings.filterwarnings("ignore", module="PIL")


def require_file(path: str | pathlib.Path, most_bytes: int) -> int:
    """Its size in bytes; says at once that there is no file, where reading would wait for a pipe.

    Raises:
      OSError: there is nothing that can be looked at.
      ValueError: it is no file, or a larger one.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("no file, but a folder, a pipe or a device")
    if status.st_size > most_bytes:
        raise ValueError(f"the file has {status.st_size:,} bytes, at most {most_bytes:,} are read")
    return status.st_size


def open_file(path: str | pathlib.Path, upright: bool) -> PIL.Image.Image:
    """Opens an image file; see `open_image`.

    Args:
      upright: turns it as its EXIF says, as viewers show it.
    """
    size = require_file(path, _MAX_BYTES)
    if not size:
        raise ValueError("the file is empty")
    image = open_image(path)
    try:
        if image.width * image.height > max(_ANY_FILE_HOLDS, _A_BYTE_HOLDS * size):
            raise ValueError(f"a file of {size} bytes holds no {image.width}×{image.height} pixels")
        if upright:
            _turn(image)
    except BaseException:
        image.close()
        raise
    return image


def open_image(file: str | pathlib.Path | BinaryIO) -> PIL.Image.Image:
    """The image, not yet decoded; to be closed.

    Raises:
      ValueError: it has too many pixels, or is no image in one of `_FORMATS`.
      Exception: whatever else Pillow's readers raise on a broken one.
    """
    too_large = f"more than {_MAX_PIXELS:,} pixels: make the image smaller"
    try:
        image = PIL.Image.open(file, formats=_FORMATS)
    except PIL.UnidentifiedImageError:
        raise ValueError(f"no image that can be read as {', '.join(_FORMATS)}") from None
    except PIL.Image.DecompressionBombError:  # where there are more than twice as many
        raise ValueError(too_large) from None
    if image.width * image.height > _MAX_PIXELS:
        image.close()
        raise ValueError(f"{image.width}×{image.height} are {too_large}")
    return image


def _turn(image: PIL.Image.Image) -> None:
    if image.format not in ("JPEG", "MPO"):  # whose metadata comes first
        image.load()
    try:
        turned = image.getexif().get(Tag.Orientation, 1) != 1
    except Exception:  # metadata that nobody can read
        turned = False
    if turned:
        image.load()
        with contextlib.suppress(Exception):  # odd metadata, which it writes after turning
            PIL.ImageOps.exif_transpose(image, in_place=True)


def rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """The image in RGB; ValueError if it has more than 8 bits a channel, which would be clipped."""
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"mode {image.mode} has more than 8 bits a channel, convert it to 8")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # without which Pillow warns
    return image.convert("RGB")


def glance(image: PIL.Image.Image) -> tuple[str, bool]:
    """The sha256 of an image's file, and whether it has several frames.

    Reads all that `rgb` would, but decodes JPEG at an eighth of its size.
    """
    image.draft("RGB", (8, 8))
    np.asarray(rgb(image).reduce(8))
    assert isinstance(image, PIL.ImageFile.ImageFile)  # which knows its file
    digest = file_sha256(os.fsdecode(image.filename))
    try:
        several = getattr(image, "is_animated", False)  # for a GIF it looks at the second frame
    except Exception:
        several = True
    return digest, several


def reason(error: Exception) -> str:
    """Says what is wrong with an image, for a line that starts with its name."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
