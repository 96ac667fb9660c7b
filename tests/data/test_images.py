"""Image files of all kinds: colours, frames, orientation, size, and every way to be broken."""

import io
import os
import struct
import subprocess
import sys
import textwrap
import zlib

import numpy as np
import PIL.Image
import PIL.ImageOps
import pillow_heif
import pytest

from noah_jax.data import Split, images, loader

pillow_heif.register_heif_opener()
RED, BLUE = (200, 30, 40), (20, 60, 220)
BLACK, WHITE, GREY = (0, 0, 0), (255, 255, 255), (90, 90, 90)


def _halves(left, right, mode="RGB"):
    """32×16: one colour on the left, another on the right."""
    image = PIL.Image.new("RGB", (32, 16), left)
    image.paste(right, (16, 0, 32, 16))
    return image.convert(mode)


def _with_alpha(image):
    """Transparent on the left, and a fifth of the colour on the right."""
    image.putalpha(_halves((0,) * 3, (0x33,) * 3, "L"))
    return image


def _on_white(colour, alpha):
    return tuple(round((value * alpha + 255 * (255 - alpha)) / 255) for value in colour)


def _noise():
    values = np.random.default_rng(0).integers(0, 256, (16, 32, 4), np.uint8)
    values[..., 3] = 0
    return PIL.Image.fromarray(values)


def _palette(transparency):
    image = PIL.Image.new("P", (32, 16), 1)
    image.putpalette([*WHITE, *RED, *BLUE])
    image.paste(2, (16, 0, 32, 16))
    image.info["transparency"] = transparency
    return image


def _pixels(path, upright=False):
    with images.open_file(path, upright) as image:
        return np.asarray(images.rgb(image)).astype(int)


def _png(width, height, depth, colour, rows=b""):
    """A PNG of its chunks, as Pillow writes none."""

    def chunk(name, content):
        checked = name + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _webp(width, height):
    """An animation of one small frame on a large canvas."""
    small = io.BytesIO()
    PIL.Image.new("RGB", (8, 8)).save(small, "WEBP", lossless=True)

    def bytes3(*numbers):
        return b"".join(number.to_bytes(3, "little") for number in numbers)

    def chunk(name, content):
        return name + struct.pack("<I", len(content)) + content

    frame = bytes3(0, 0, 7, 7, 10) + b"\0" + small.getvalue()[12:]
    canvas = bytes([2, 0, 0, 0]) + bytes3(width - 1, height - 1)
    parts = chunk(b"VP8X", canvas) + chunk(b"ANIM", bytes(6)) + chunk(b"ANMF", frame)
    return b"RIFF" + struct.pack("<I", len(parts) + 4) + b"WEBP" + parts


LOSSLESS = {"lossless": True, "exact": True}
KINDS = {
    "cmyk.jpg": (_halves(RED, BLUE, "CMYK"), {"quality": 95}, RED, BLUE),
    "cmyk.tif": (_halves(RED, BLUE, "CMYK"), {}, RED, BLUE),
    "ycbcr.tif": (_halves(RED, BLUE, "YCbCr"), {}, RED, BLUE),
    "palette.png": (_halves(RED, BLUE).quantize(4), {}, RED, BLUE),
    "palette.gif": (_halves(RED, BLUE).quantize(4), {}, RED, BLUE),
    "transparent.gif": (_palette(1), {"transparency": 1}, WHITE, BLUE),
    "transparent.png": (_palette(1), {}, WHITE, BLUE),
    "many transparent.png": (_palette(b"\xff\x00\x33"), {}, WHITE, _on_white(BLUE, 0x33)),
    "transparent colour.png": (_halves(RED, BLUE), {"transparency": RED}, WHITE, BLUE),
    "transparent grey.png": (_halves(GREY, BLACK, "L"), {"transparency": 0}, GREY, WHITE),
    "alpha.png": (_with_alpha(_halves(RED, BLUE)), {}, WHITE, _on_white(BLUE, 0x33)),
    "alpha.webp": (_with_alpha(_halves(RED, BLUE)), LOSSLESS, WHITE, _on_white(BLUE, 0x33)),
    "alpha.tif": (_with_alpha(_halves(RED, BLUE)), {}, WHITE, _on_white(BLUE, 0x33)),
    "grey alpha.png": (_with_alpha(_halves(WHITE, GREY, "L")), {}, WHITE, _on_white(GREY, 0x33)),
    "opaque.png": (_halves(RED, BLUE, "RGBA"), {}, RED, BLUE),
    "noise under alpha 0.png": (_noise(), {}, WHITE, WHITE),
    "grey.jpg": (_halves(GREY, WHITE, "L"), {"quality": 95}, GREY, WHITE),
    "bits.png": (_halves(WHITE, BLACK, "1"), {}, WHITE, BLACK),
    "bits.bmp": (_halves(BLACK, WHITE, "1"), {}, BLACK, WHITE),
    "fax.tif": (_halves(WHITE, BLACK, "1"), {"compression": "group4"}, WHITE, BLACK),
    "photo.avif": (_halves(RED, BLUE), {"quality": 95}, RED, BLUE),
    "photo.heic": (_halves(RED, BLUE), {"quality": 95}, RED, BLUE),
    "photo.jp2": (_halves(RED, BLUE), {}, RED, BLUE),
    "photo.qoi": (_halves(RED, BLUE), {}, RED, BLUE),
    "bits.ppm": (_halves(WHITE, BLACK, "1"), {}, WHITE, BLACK),
}


@pytest.mark.parametrize("name", KINDS)
def test_colours_of_every_mode(name, tmp_path):
    image, options, left, right = KINDS[name]
    image.save(tmp_path / name, **options)
    pixels = _pixels(tmp_path / name)
    assert pixels.shape == (16, 32, 3)
    tolerance = 2 if name == "ycbcr.tif" else 1 if "alpha" in name or "many" in name else 0
    tolerance = 5 if name.endswith((".jpg", ".avif", ".heic")) else tolerance
    assert abs(pixels[:, :12] - left).max() <= tolerance
    assert abs(pixels[:, 20:] - right).max() <= tolerance


def test_cmyk_as_photoshop_writes_it(tmp_path):
    """It has Adobe's marker and all values inverted, which a reader must know."""
    _halves(RED, BLUE, "CMYK").save(tmp_path / "a.jpg", quality=95)
    assert b"Adobe" in (tmp_path / "a.jpg").read_bytes()
    with PIL.Image.open(tmp_path / "a.jpg") as image:
        cyan, magenta, yellow, key = image.getpixel((4, 4))
    assert cyan < 70 < 200 < min(magenta, yellow) and key < 10


def test_sixteen_bits(tmp_path):
    """Colours lose their lower eight bits; grey, which Pillow would clip, is refused."""
    row = b"\0" + np.tile(np.array(RED, ">u2") * 257, 8).tobytes()
    (tmp_path / "colour.png").write_bytes(_png(8, 4, 16, 2, row * 4))
    assert (_pixels(tmp_path / "colour.png") == RED).all()
    deep = PIL.Image.fromarray(np.full((4, 4), 60_000, np.uint16))
    for name in ("deep.png", "deep.tif"):
        deep.save(tmp_path / name)
        with pytest.raises(ValueError, match="mode I;16 has more than 8 bits a channel, convert"):
            _pixels(tmp_path / name)
    PIL.Image.new("F", (4, 4)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match="mode F has more than 8 bits"):
        _pixels(tmp_path / "float.tif")


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif", "jpg"])
def test_the_first_of_several_frames(suffix, tmp_path):
    """JPEG, too: cameras write two views, or previews, into one file."""
    first, second = _halves(RED, BLUE), _halves(BLUE, RED)
    options = {"webp": {"lossless": True}, "jpg": {"format": "MPO", "quality": 95}}.get(suffix, {})
    first.save(tmp_path / f"one.{suffix}", **options)
    first.save(tmp_path / f"two.{suffix}", save_all=True, append_images=[second], **options)
    for name, several in ((f"one.{suffix}", False), (f"two.{suffix}", True)):
        pixels = _pixels(tmp_path / name)
        tolerance = 5 if suffix == "jpg" else 0
        assert abs(pixels[:, :12] - RED).max() <= tolerance
        assert abs(pixels[:, 20:] - BLUE).max() <= tolerance
        with images.open_file(tmp_path / name, upright=True) as image:
            assert images.glance(image)[1] == several


def _upright():
    """48×32, each quarter another colour: all eight orientations differ."""
    quarters = np.array([[RED, BLUE], [WHITE, GREY]], np.uint8)
    return PIL.Image.fromarray(quarters.repeat(16, 0).repeat(24, 1))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_upright_as_exif_says(suffix, orientation, tmp_path):
    """A camera stores the sensor's rows, and how it was held."""
    flip = PIL.Image.Transpose
    held = {
        2: flip.FLIP_LEFT_RIGHT,
        3: flip.ROTATE_180,
        4: flip.FLIP_TOP_BOTTOM,
        5: flip.TRANSPOSE,
        6: flip.ROTATE_90,
        7: flip.TRANSVERSE,
        8: flip.ROTATE_270,
    }
    stored = _upright().transpose(held[orientation]) if orientation > 1 else _upright()
    exif = PIL.Image.Exif()
    exif[274] = orientation
    options = {"webp": {"lossless": True}, "jpg": {"quality": 95, "subsampling": 0}}
    path = tmp_path / f"a.{suffix}"
    stored.save(path, exif=exif, **options.get(suffix, {}))
    expected = np.asarray(_upright()).astype(int)
    turned = _pixels(path, upright=True)
    assert turned.shape == expected.shape and abs(turned - expected).max() < 12
    if suffix != "tif":  # which Pillow always turns
        as_stored = _pixels(path)
        assert as_stored.shape == (48, 32, 3) if orientation > 4 else expected.shape
        assert abs(as_stored - np.asarray(stored).astype(int)).max() < 12


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0no TIFF",
        b"Exif\0\0II*\0\x08\0\0\0",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0\x01\0\0\0\x06\0\0\0",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\0a\0\0\0\0\0\0\0",  # "a"
    ],
)
def test_broken_exif_does_not_matter(exif, tmp_path):
    for name in ("a.jpg", "a.png", "a.webp"):
        _halves(GREY, GREY).save(tmp_path / name, exif=exif)
        assert abs(_pixels(tmp_path / name, upright=True) - GREY).max() <= 1
        with images.open_file(tmp_path / name, upright=True) as image:
            images.glance(image)


@pytest.mark.filterwarnings("ignore:::PIL")
def test_turned_though_other_metadata_is_odd(tmp_path):
    """Pillow turns the image before it fails to write the metadata again."""
    exif = PIL.Image.Exif()
    exif[274], exif[282] = 6, (72, 1)
    odd = exif.tobytes().replace(b"\x01\x1a\x00\x05", b"\x01\x1a\x00\x02")  # a number as text
    _upright().transpose(PIL.Image.Transpose.ROTATE_90).save(tmp_path / "a.jpg", exif=odd)
    with PIL.Image.open(tmp_path / "a.jpg") as image, pytest.raises(TypeError):
        PIL.ImageOps.exif_transpose(image)
    assert _pixels(tmp_path / "a.jpg", upright=True).shape == (32, 48, 3)


def test_huge_images_are_refused_in_little_memory_and_nothing_warns(tmp_path):
    """A process of its own does it, so that its peak and its whole output are known."""
    (tmp_path / "claim.webp").write_bytes(_webp(9_000, 9_000))
    (tmp_path / "long claim.webp").write_bytes(_webp(8_000_000, 9))  # takes seconds, too
    (tmp_path / "claim.png").write_bytes(_png(9_000, 9_000, 8, 2))
    for side in (9_500, 20_000, 2_000_000_000):
        (tmp_path / f"{side}.png").write_bytes(_png(side, side, 8, 2))
    for side in (20_000, 60_000):
        header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
        whole = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header
        (tmp_path / f"{side}.bmp").write_bytes(whole)
        (tmp_path / f"{side}.ppm").write_bytes(b"P6 %d %d 255\n" % (side, side))
        (tmp_path / f"{side}.gif").write_bytes(
            b"GIF89a" + struct.pack("<HHBBB", side, side, 0, 0, 0)
        )
    _palette(b"\x80\x10").save(tmp_path / "fine.png")
    damaged = b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"
    _halves(GREY, GREY).save(tmp_path / "fine.jpg", exif=damaged)
    program = """
        import pathlib, sys
        from noah_jax.data import images

        def peak():  # the resource module's includes that of the process that started this one
            lines = pathlib.Path("/proc/self/status").read_text().splitlines()
            return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

        before = peak()
        for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
            try:
                with images.open_file(path, True) as image:
                    print(path.name, images.glance(image)[1], sep="\\t")
            except ValueError as error:
                print(path.name, error, sep="\\t")
        print(peak() - before)
    """
    command = [
        sys.executable,
        "-W",
        "always::ResourceWarning",
        "-c",
        textwrap.dedent(program),
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    *lines, kilobytes = done.stdout.splitlines()
    assert done.stderr == "" and done.returncode == 0
    print(f"took {kilobytes} kB")
    assert int(kilobytes) < 50_000
    refused = dict(line.split("\t", 1) for line in lines)
    assert refused.pop("fine.png") == refused.pop("fine.jpg") == "False"
    assert refused.keys() == {path.name for path in tmp_path.iterdir()} - {"fine.png", "fine.jpg"}
    assert (
        "9500×9500 are more than 89,478,485 pixels: make the image smaller" in refused["9500.png"]
    )
    for name, message in refused.items():
        if name.endswith("claim.webp") or name == "claim.png":
            assert "bytes cannot hold " in message, name
        elif name.endswith("gif"):  # with no frame it is no image
            assert "no image" in message, name
        else:
            assert "more than 89,478,485" in message, name


def test_files_that_are_none(tmp_path):
    (tmp_path / "void.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "program.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "itself.png").symlink_to(tmp_path / "itself.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.png")
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(1 << 40)  # of holes
    expected = {
        "void.png": "the file is empty",
        "text.png": "no image that can be read as JPEG, PNG, GIF",
        "program.jpg": "no image that can be read as",  # and Ghostscript is not started
        "folder.png": "not a file, but a folder, a pipe or a device",
        "gone.png": "No such file or directory",
        "itself.png": "Too many levels of symbolic links",
        "device.png": "not a file, but a folder, a pipe or a device",
        "pipe.png": "not a file, but a folder, a pipe or a device",
        "large.png": "the file has 1,099,511,627,776 bytes, at most",
        "n" * 300 + ".png": "File name too long",
        "n\0.png": "embedded null byte",
    }
    names = list(expected)
    split = Split(names, lambda index: (images.open_file(tmp_path / names[index], True), 0))
    lines = list(loader.decode(split, range(len(names)), images.glance))
    for (name, message), line in zip(expected.items(), lines, strict=True):
        assert line.startswith(f"{name}: {message}")


TRUNCATED = {
    "jpg": {"quality": 50},
    "progressive.jpg": {"quality": 50, "progressive": True},
    "png": {},
    "palette.png": {},
    "frames.png": {"save_all": True},
    "gif": {},
    "frames.gif": {"save_all": True},
    "webp": {"quality": 30},
    "lossless.webp": {"lossless": True},
    "frames.webp": {"save_all": True},
    "tif": {},
    "lzw.tif": {"compression": "tiff_lzw"},
    "deflate.tif": {"compression": "tiff_adobe_deflate"},
    "jpeg.tif": {"compression": "jpeg"},
    "frames.tif": {"save_all": True},
    "bmp": {},
    "ppm": {},
}


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("name", TRUNCATED)
def test_cut_at_every_byte(name, tmp_path):
    """Refused, or read with all pixels; the first look and the reading agree."""
    rng = np.random.default_rng(0)
    noise = [PIL.Image.fromarray(rng.integers(0, 256, (9, 13, 3), np.uint8)) for _ in range(2)]
    if name == "palette.png":
        noise = [image.quantize(16) for image in noise]
    options = dict(TRUNCATED[name])
    if "save_all" in options:
        options["append_images"] = noise[1:]
    noise[0].save(tmp_path / f"whole.{name}", **options)
    whole = (tmp_path / f"whole.{name}").read_bytes()
    for length in range(len(whole)):
        (tmp_path / f"{length}.{name}").write_bytes(whole[:length])
    names = [f"{length}.{name}" for length in range(len(whole))] + [f"whole.{name}"]
    for upright in (False, True):
        split = Split(names, lambda i, up=upright: (images.open_file(tmp_path / names[i], up), i))
        looks = list(loader.decode(split, range(len(names)), images.glance))
        reads = list(
            loader.decode(split, range(len(names)), lambda image: np.asarray(images.rgb(image)))
        )
        assert not isinstance(reads[-1], str)
        fine = 0
        for cut, look, read in zip(names, looks, reads, strict=True):
            assert isinstance(look, str) == isinstance(read, str), (cut, look, read)
            if isinstance(read, str):
                assert read.startswith(f"{cut}: ") and len(read) > len(cut) + 5
            else:
                fine += 1
                np.testing.assert_array_equal(read[0], reads[-1][0], cut)
    print(f"{name}: {len(names) - 1} cuts, {fine - 1} of them with all pixels")
