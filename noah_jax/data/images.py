"""Image files: which are read, and how they become RGB.

The first frame or page of a file is used. What is transparent becomes white, as in most viewers.
Colours are as Pillow reads them without colour profiles, as in the reference code.
"""

import contextlib
import functools
import io
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

# Others start programs, as EPS does, or cannot be told from text.
_FORMATS = [
    *("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000", "ICO", "QOI", "SGI"),
]
_MAX_PIXELS = 89_478_485  # Pillow's own limit
_MAX_BYTES = 1 << 30
# Pixels that a file of any size may have, and that each of its bytes may stand for. A file that
# claims more is made to exhaust the memory.
_ANY_FILE_HOLDS, _A_BYTE_HOLDS = 1 << 24, 10_000

# Pillow warns of damaged metadata, which does not affect pixels, and of files that we refuse.
warnings.filterwarnings("ignore", module="PIL")


def require_file(path: str | pathlib.Path, most_bytes: int) -> int:
    """Returns the size of a file in bytes; raises at once where reading would wait for a pipe.

    Raises:
      OSError: there is nothing at `path`, or it cannot be reached.
      ValueError: it is not a file, or a file of more than `most_bytes`.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a file, but a folder, a pipe or a device")
    if status.st_size > most_bytes:
        raise ValueError(f"the file has {status.st_size:,} bytes, at most {most_bytes:,} are read")
    return status.st_size


def open_file(path: str | pathlib.Path, upright: bool) -> PIL.Image.Image:
    """Opens an image file; see `open_image`.

    Args:
      upright: turns the image as its EXIF says, which is how viewers show it.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is empty or too large, or claims more pixels than its bytes can hold.
      Exception: see `open_image`.
    """
    size = require_file(path, _MAX_BYTES)
    if not size:
        raise ValueError("the file is empty")
    return _believable(open_image(path), size, upright)


def open_bytes(content: bytes, upright: bool) -> PIL.Image.Image:
    """Opens an encoded image in memory; arguments and errors are those of `open_file`."""
    if not content:
        raise ValueError("there are no bytes")
    return _believable(open_image(io.BytesIO(content)), len(content), upright)


def _believable(image: PIL.Image.Image, size: int, upright: bool) -> PIL.Image.Image:
    """Refuses an image that claims more pixels than its `size` in bytes can hold."""
    try:
        if image.width * image.height > max(_ANY_FILE_HOLDS, _A_BYTE_HOLDS * size):
            raise ValueError(
                f"a file of {size} bytes cannot hold {image.width}×{image.height} pixels"
            )
        return turned(image) if upright else image
    except BaseException:
        image.close()
        raise


def is_image(path: str | pathlib.Path) -> bool:
    """Tells by a file's first bytes whether it is an image that can be read."""
    try:
        require_file(path, _MAX_BYTES)
        open_image(path).close()
    except Exception:  # whatever Pillow's readers raise
        return False
    return True


def open_image(file: str | pathlib.Path | BinaryIO) -> PIL.Image.Image:
    """Opens an image without decoding it; the caller closes it.

    Raises:
      ValueError: the image has too many pixels, or is not in one of `_FORMATS`.
      Exception: whatever else Pillow's readers raise on a broken image.
    """
    too_large = f"more than {_MAX_PIXELS:,} pixels: make the image smaller"
    try:
        image = PIL.Image.open(file, formats=_formats())
    except PIL.UnidentifiedImageError:
        raise ValueError(f"no image that can be read as {', '.join(_formats())}") from None
    except PIL.Image.DecompressionBombError:  # raised if there are more than twice as many
        raise ValueError(too_large) from None
    if image.width * image.height > _MAX_PIXELS:
        image.close()
        raise ValueError(f"{image.width}×{image.height} are {too_large}")
    return image


@functools.cache
def _formats() -> tuple[str, ...]:
    """The formats that are read; with the package pillow-heif also HEIC, as telephones write it."""
    try:
        import pillow_heif
    except ImportError:
        return tuple(_FORMATS)
    pillow_heif.register_heif_opener()
    return (*_FORMATS, "HEIF")


def turned(image: PIL.Image.Image) -> PIL.Image.Image:
    """Turns an opened image as its EXIF says, which is how viewers show it."""
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
    return image


def rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """Converts an image to RGB, on white where it is transparent.

    Raises:
      ValueError: it has more than 8 bits a channel, which would be clipped.
    """
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"mode {image.mode} has more than 8 bits a channel, convert it to 8")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def glance(image: PIL.Image.Image) -> tuple[str, bool]:
    """Inspects an opened image: the sha256 of its file, and whether it has several frames.

    It reads everything that `rgb` would read, but decodes a JPEG at an eighth of its size. The
    sha256 is empty if the image is not a file.
    """
    image.draft("RGB", (8, 8))
    np.asarray(rgb(image).reduce(8))
    assert isinstance(image, PIL.ImageFile.ImageFile)  # which knows its file
    digest = file_sha256(os.fsdecode(image.filename)) if image.filename else ""
    try:
        several = getattr(image, "is_animated", False)  # for a GIF it looks at the second frame
    except Exception:
        several = True
    return digest, several


def reason(error: Exception) -> str:
    """Says what is wrong with an image, for a line that starts with its name."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
