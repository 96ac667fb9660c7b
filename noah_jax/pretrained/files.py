"""The files that a path of weights stands for, and what a file is that holds none."""

import json
import pathlib
import re
import shlex
import zipfile

from noah_jax.errors import UserError, joined
from noah_jax.pretrained.containers import EXPECTED

_SUFFIXES = (".safetensors", ".npz", ".onnx", ".whl")
_TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".pyth", ".pkl", ".pickle")
_INDEX = ".index.json"
_LARGEST_JSON = 8 << 20  # bytes
_PART = re.compile(r"(.*?)[-_.]?(\d{1,6})[-_]of[-_](\d{1,6})(\D*)")
_MOST_PARTS = 10_000


def found(path: pathlib.Path) -> list[pathlib.Path]:
    """Lists the files that hold the model at `path`: one, or all parts of one that is cut.

    Args:
      path: a file of weights, an index of its parts, or a folder with one of these.

    Raises:
      UserError: a part is missing, the file is a single part, or the folder has no weights, or
        several.
      OSError: the folder cannot be read.
    """
    if path.is_dir():
        return _in_folder(path)
    if path.name.endswith(_INDEX):
        return _all_there(_indexed(path), path)
    _refuse_part(path)
    return [path]


def read_json(path: pathlib.Path) -> dict:
    """Reads a JSON file that holds an object.

    Raises:
      UserError: it cannot be read, or holds something else.
    """
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ValueError(f"it has more than {_LARGEST_JSON} bytes")
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object")
    return value


# --- Parts and folders ---------------------------------------------------------------------------


def _indexed(index: pathlib.Path) -> list[pathlib.Path]:
    """Lists the parts that an index names; they lie beside it, there or not."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise UserError(f"{index} is no index of a model's parts: it has no weight_map")
    parts = {str(name) for name in names.values()}
    # Else an index could make any file be read.
    if odd := sorted(x for x in parts if pathlib.PurePath(x).name != x or "\\" in x or "\0" in x):
        raise UserError(f"{index} names files that are not beside it: {joined(odd)}")
    return [index.with_name(name) for name in sorted(parts)]


def _all_there(parts: list[pathlib.Path], origin: pathlib.Path) -> list[pathlib.Path]:
    if absent := [part.name for part in parts if not part.is_file()]:
        raise UserError(
            f"{origin}: {len(absent)} of the model's {len(parts)} parts are missing: "
            f"{joined(absent)}. Fetch them into the same folder"
        )
    return parts


def _refuse_part(path: pathlib.Path) -> None:
    """Raises UserError if the file is one of several parts of a model, by its name or an index."""
    for index in sorted(path.parent.glob("*" + _INDEX)):
        try:
            parts = _indexed(index)
        except UserError:
            continue  # it is of no use, and was not asked for
        if path in parts and len(parts) > 1:
            raise UserError(
                f"{path} is a part of a model, one of {len(parts)}: give their index, "
                f"--config.weights={shlex.quote(str(index))}"
            )
    match = _PART.fullmatch(path.name)
    if match and path.suffix in _SUFFIXES and int(match[3]) > 1:
        raise UserError(
            f"{path} is a part of a model, one of {int(match[3])}: put all parts in one folder "
            f"and give that, --config.weights={shlex.quote(str(path.parent))}"
        )


def _in_folder(folder: pathlib.Path) -> list[pathlib.Path]:
    """Lists the files of the one model in a folder; those below it do not count."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    weights = [name for name in names if name.endswith(_SUFFIXES)]
    if "model.safetensors" in names:
        return [folder / "model.safetensors"]
    indexes = [name for name in names if name.endswith(".safetensors" + _INDEX)]
    if len(indexes) == 1:
        return _all_there(_indexed(folder / indexes[0]), folder)
    if weights and not indexes and (parts := _parts(folder, weights)):
        return parts
    if len(weights) == 1 and not indexes:
        return [folder / weights[0]]
    if several := indexes or weights:
        raise UserError(f"{folder} holds several files of weights, name one: {joined(several)}")
    torch = [name for name in names if name.endswith(_TORCH_SUFFIXES)]
    torch.sort(key=lambda name: "model" not in name)  # an optimizer may lie beside it
    advice = f". {convert_command(folder / torch[0])}" if torch else ""
    entries = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    raise UserError(
        f"{folder} holds no weights: {EXPECTED}; it has {joined(entries) or 'nothing'}{advice}"
    )


def _parts(folder: pathlib.Path, names: list[str]) -> list[pathlib.Path]:
    """Lists all parts of a model that has no index, if `names` are such parts; else nothing."""
    matches = [_PART.fullmatch(name) for name in names]
    wholes = {(match[1], int(match[3]), match[4]) if match else None for match in matches}
    if len(wholes) != 1 or (whole := wholes.pop()) is None or not 1 < whole[1] < _MOST_PARTS:
        return []
    there = {int(match[2]): match[0] for match in matches if match}
    first = min(there) if min(there) in (0, 1) else 1
    parts = [
        folder / there.get(i, f"{whole[0]}-{i:05d}-of-{whole[1]:05d}{whole[2]}")
        for i in range(first, first + whole[1])
    ]
    return _all_there(parts, folder)


# --- What a file is that holds no weights --------------------------------------------------------

_CUT = "fetch it again"
_UNPACK = "unpack it and name the file of weights in it"
_LOGIN = "fetch the file itself; the server may have asked to log in"
_LFS = ("a Git LFS pointer, without the file it stands for", "run `git lfs pull` in its repository")
_SIGNATURES = (  # where, bytes, what has them there, what to do
    (0, b"version https://git-lfs", *_LFS),
    (0, b"version https://hawser", *_LFS),
    (0, b"/annex/objects/", "a git-annex pointer", "run `git annex get` in its repository"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as of Keras (.h5)", ""),
    (0, b"\x93NUMPY", "one array of NumPy (.npy), without names", ""),
    (0, b"GGUF", "a GGUF file, as of llama.cpp", ""),
    (4, b"TFL3", "a TensorFlow Lite model", ""),
    (0, b"\x1f\x8b", "packed by gzip", _UNPACK),
    (0, b"BZh", "packed by bzip2", _UNPACK),
    (0, b"\xfd7zXZ", "packed by xz", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "packed by zstd", _UNPACK),
    (0, b"7z\xbc\xaf", "a 7-Zip archive", _UNPACK),
    (0, b"Rar!", "a RAR archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"PAR1", "a Parquet table", ""),
    (0, b"MATLAB", "a file of MATLAB", ""),
    (0, b"%PDF", "a PDF", ""),
    (0, b"\x89PNG", "an image (PNG)", ""),
    (0, b"\xff\xd8\xff", "an image (JPEG)", ""),
    (0, b"model_checkpoint_path:", "the list of a TensorFlow checkpoint", ""),
)
_TENSORFLOW = r".*(\.data-\d+-of-\d+|\.ckpt\.index|ckpt[-\w]*\.(index|meta)|saved_model\.pb)"


def description(path: pathlib.Path) -> str:
    """Says what a file is that could not be read as weights, and what to do; empty if unknown."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(4096)
        file.seek(max(size - 8, 0))
        end = file.read(8)
    if not size:
        return f"it is empty: {_CUT}"
    if not any(start):
        return f"it begins with {len(start)} zero bytes, as a download that broke off: {_CUT}"
    for where, signature, what, advice in _SIGNATURES:
        if start[where:].startswith(signature):
            return f"it is {what}: {advice or EXPECTED}"
    # The second is the end of a table of LevelDB, in which TensorFlow lists its variables.
    if re.fullmatch(_TENSORFLOW, path.name) or end == bytes.fromhex("57fb808b247547db"):
        return f"it is a part of a TensorFlow checkpoint: {EXPECTED}"
    return _packed(path, start) or _safetensors(path, start) or _text(start)


def convert_command(path: pathlib.Path) -> str:
    """Says by which command a file of PyTorch becomes weights."""
    command = f"python -m noah_jax.pretrained convert {shlex.quote(str(path))}"
    return f"Convert PyTorch's file with `{command}`, which needs torch"


def is_torch(path: pathlib.Path) -> bool:
    """Tells whether a file's contents look like those of torch.save: a pickle, zipped or not."""
    with open(path, "rb") as file:
        start = file.read(10)
    # A safetensors file begins with the length of its header, which can look alike.
    if start[:1] == b"\x80" and start[1:2] <= b"\x05" and start[8:10] != b'{"':
        return True
    return start[:2] == b"PK" and any(re.fullmatch("([^/]*/)?data.pkl", x) for x in _members(path))


def is_program(path: pathlib.Path) -> bool:
    """Tells whether a zip file is a program of TorchScript."""
    return any(re.fullmatch("([^/]*/)?constants.pkl", name) for name in _members(path))


def _members(path: pathlib.Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return []


def _packed(path: pathlib.Path, start: bytes) -> str:
    """Describes a zip file or a pickle; empty for others."""
    if is_torch(path):
        return f"it is a checkpoint of PyTorch or another pickle. {convert_command(path)}"
    if not start.startswith(b"PK"):
        return ""
    if not (names := _members(path)):
        return f"it is a zip file (.npz, .whl, .pth) that is cut short or damaged: {_CUT}"
    if path.suffix in (".npz", ".whl"):
        return ""  # its reader says more
    if any(name.endswith(".npy") for name in names):
        return "it is an .npz by its contents: name it so"
    if any("model.weights.h5" in name for name in names):
        return f"it is a model of Keras: {EXPECTED}"
    return f"it is a zip file of {joined(names, 3)}: {_UNPACK}"


def _safetensors(path: pathlib.Path, start: bytes) -> str:
    """Describes a file that begins as safetensors do, under another name; empty for others."""
    if path.suffix == ".safetensors" or start[8:10] != b'{"' or any(start[5:8]):
        return ""
    return "it is a .safetensors by its contents: name it so"


def _text(start: bytes) -> str:
    """Describes a text by its first words; empty for others."""
    try:
        text = start.decode("utf-8-sig", "strict" if len(start) < 4096 else "ignore").strip()
    except UnicodeDecodeError:
        return ""
    if re.match(r"(?is)<!doctype html|.{0,1000}<(html|head|body)\b", text):
        return f"it is a web page (HTML): {_LOGIN}"
    if text.startswith("<"):
        return f"it is a text in XML, as a server's error: {_LOGIN}"
    if text.startswith(("{", "[")):
        advice = f"an index of parts must end in {_INDEX}" if "weight_map" in text else EXPECTED
        return f"it is a text in JSON: {advice}"
    if text and all(c.isprintable() or c.isspace() for c in text):
        return f"it is a text that begins {' '.join(text[:60].split())!r}: {_LOGIN}"
    return ""
