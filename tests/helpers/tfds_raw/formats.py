"""Pictures that show a number, and the file formats that raw datasets come in, as bytes."""

import io
import json
import tarfile
import zipfile
from collections.abc import Iterable

import h5py
import numpy as np
import PIL.Image
import scipy.io
import tensorflow_datasets as tfds

_FIRST = {"train": 0, "validation": 20_000, "test": 40_000}


def splits(**counts: int) -> dict[str, range]:
    """The numbers of that many examples of each split; no number is in two of them."""
    return {split: range(_FIRST[split], _FIRST[split] + n) for split, n in counts.items()}


def picture(number: int, height: int, width: int) -> np.ndarray:
    """uint8 `[height, width]`: the number's 16 bits as a grid of 4×4 black and white squares."""
    bits = (number >> np.arange(16) & 1).astype(np.uint8)
    return np.kron(bits.reshape(4, 4) * 255, np.ones((height // 4, width // 4), np.uint8))


def pictures(numbers: Iterable[int], size: int) -> np.ndarray:
    """uint8 `[n, size, size, 3]`."""
    grey = np.stack([picture(number, size, size) for number in numbers])
    return np.repeat(grey[..., None], 3, axis=-1)


def number_in(images: np.ndarray) -> np.ndarray:
    """The numbers that pictures `[n, 32, 32, 3]` show."""
    squares = images[:, 4::8, 4::8, 0].reshape(-1, 16)
    return (squares > 127) @ (1 << np.arange(16))


def image_file(number: int, form: str = "JPEG", height: int = 32, width: int = 32) -> bytes:
    out = io.BytesIO()
    PIL.Image.fromarray(picture(number, height, width)).convert("RGB").save(out, form)
    return out.getvalue()


def labels(dataset: str) -> list[str]:
    """The class names, which TFDS itself carries."""
    return tfds.builder(dataset, data_dir="/nowhere").info.features["label"].names


def tar_file(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def zip_file(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def mat_file(**arrays: np.ndarray) -> bytes:
    out = io.BytesIO()
    scipy.io.savemat(out, arrays)
    return out.getvalue()


def h5_file(arrays: dict[str, np.ndarray]) -> bytes:
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return out.getvalue()


def json_file(content: object) -> bytes:
    return json.dumps(content).encode()


def text_file(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
