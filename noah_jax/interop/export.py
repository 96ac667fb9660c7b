"""Exports a found subnet: `python -m noah_jax.interop export WORKDIR [--out=FOLDER]`

    subnet.json, subnet.safetensors   the trained weights, compact; see subnet.py
    model.safetensors                 all weights, LoRA merged
    model.stablehlo                   a program of JAX's export: uint8 images → logits, anywhere
    model.onnx                        the same for ONNX's runtimes
    torch_model.py                    the same in PyTorch, which reads subnet.json and all weights
    README.md, architecture.png       a model card, and the run's drawing of the subnet
    huggingface/, timm/, peft/        checkpoints of other libraries; see layouts.py

The last three are written only if these libraries' models can hold the subnet.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jax import export as jax_export

from noah_jax.errors import UserError, listed
from noah_jax.interop import card, layouts, onnx_graph
from noah_jax.interop import subnet as subnet_lib
from noah_jax.interop.subnet import Subnet, read
from noah_jax.runtime.workdir import make_folder, remove, write_bytes, write_text, writing

_PLATFORMS = ("cpu", "cuda", "tpu")
_FIGURE = "architecture.png"
_FACTS = "subnet.json"


def export(workdir: pathlib.Path, folder: pathlib.Path, weights: str = "") -> list[str]:
    """Writes the subnet of a finished run in every layout that can hold it.

    An older export in the folder is replaced. All other files there stay.

    Args:
      weights: where the backbone's file is now, if it has moved since the run.

    Returns:
      A line for each layout, which says what it is and how to use it, or why it was not written.

    Raises:
      UserError: the run is not finished, the folder has files of these names that are no export's,
        or something cannot be read or written.
    """
    is_workdir = folder.resolve() == workdir.resolve() or (folder / "metrics.jsonl").exists()
    if is_workdir or (folder / "result.json").exists():
        raise UserError(f"{folder} is the workdir of a run: choose another --out=FOLDER")
    subnet = read(workdir, weights)
    if not subnet.trained:
        raise UserError(f"{workdir} is an export: give the workdir of its run")
    make_folder(folder, parents=True)
    _move_in(folder)
    new = folder / _NEW
    with writing(new):
        remove(new)
    make_folder(new)
    lines = _write(subnet, new, folder)
    if (figure := workdir / "figures" / _FIGURE).is_file():
        write_bytes(new / _FIGURE, figure.read_bytes())
    if card.may_be_written(folder / card.NAME):
        write_text(new / card.NAME, card.text(subnet, _FIGURE if figure.is_file() else ""))
        lines.append(
            f"{folder}/{card.NAME}: the model card; `python -m noah_jax.interop push {folder} "
            "OWNER/NAME` puts the export on the Hugging Face hub"
        )
    else:
        lines.append(f"not written: {card.NAME}, since the one in {folder} is your own")
    _finish(folder)
    return lines


def _write(subnet: Subnet, new: pathlib.Path, folder: pathlib.Path) -> list[str]:
    """Writes all layouts into `new`; the lines say `folder`."""
    merged, side = subnet.merged(), subnet.config.image_size
    large = onnx_graph.is_large(merged)
    subnet_lib.export(subnet, new)
    if not large:  # else it would not fit
        write_bytes(new / "model.stablehlo", stablehlo(merged))
    write_bytes(new / "model.onnx", onnx_graph.serialised(merged, new / "model.safetensors"))
    program = pathlib.Path(__file__).with_name("torch_model.py")
    write_bytes(new / program.name, program.read_bytes())
    images = f"uint8 [b, {side}, {side}, 3] to logits"
    return [
        f"{folder}/subnet.safetensors: {len(subnet.trained)} trained tensors; "
        f"`python -m noah_jax.interop predict {folder} IMAGE …` needs these or model.safetensors",
        f"{folder}/model.safetensors: all weights"
        + (", LoRA merged" if len(merged.tensors) < len(subnet.tensors) else ""),
        "not written: model.stablehlo, which can hold 2 GiB"
        if large
        else f"{folder}/model.stablehlo: `jax.export.deserialize(bytes).call(images)`, {images}; "
        f"for JAX from 3 weeks before to 6 months after {jax.__version__}",
        f"{folder}/model.onnx: `onnxruntime.InferenceSession(file).run(None, "
        f'{{"images": images}})`, {images}'
        + ("; it reads model.safetensors beside it" if large else ""),
        f"{folder}/{program.name}: `python {folder}/{program.name} IMAGE …`, with torch, "
        "safetensors and Pillow alone",
        *layouts.write(subnet, new, folder),
    ]


def stablehlo(subnet: Subnet) -> bytes:
    """Serialises the program uint8 images `[b, h, w, 3]`, any b → float32 logits `[b, classes]`.

    The weights are in the program. `jax.export.deserialize` reads it.
    """
    model, config = subnet.model(), subnet.config

    def logits(images):
        return model(subnet.normalise(images))

    shape = jax_export.symbolic_shape(f"b, {config.image_size}, {config.image_size}, 3")
    images = jax.ShapeDtypeStruct(shape, jnp.uint8)
    return bytes(jax_export.export(jax.jit(logits), platforms=_PLATFORMS)(images).serialize())


# --- The folder ----------------------------------------------------------------------------------
# An export is made in a folder of its own, `_NEW`. Once subnet.json there lists all files, they
# take the place of an older export's. If that is killed, the next export completes it first.

_NEW = ".new_export"
_WEIGHTS = ("subnet.safetensors", "model.safetensors")
_LATER = ("model.onnx", "torch_model.py", card.NAME, _FIGURE)  # since exports list their files
NAMES = {  # of all files that an export may hold
    *(_FACTS, *_WEIGHTS, *(f"{name}.sha256" for name in _WEIGHTS), "model.stablehlo"),
    *(*_LATER, *layouts.FILES),
}


def files(folder: pathlib.Path) -> list[str]:
    """Lists the files of the export in a folder, by their paths in it; empty if there is none.

    Raises:
      UserError: `subnet.json` cannot be read.
    """
    if not (folder / _FACTS).is_file():
        return []
    names = NAMES.intersection(subnet_lib.read_facts(folder).get("files", NAMES - {*_LATER}))
    return sorted(name for name in names if (folder / name).is_file())


def _finish(folder: pathlib.Path) -> None:
    """Completes the export in `_NEW` by the list of its files, and moves it into the folder."""
    new = folder / _NEW
    names = sorted(str(path.relative_to(new)) for path in new.rglob("*") if path.is_file())
    others = {*names} - {*files(folder), card.NAME}
    if others := [name for name in sorted(others) if (folder / name).exists()]:
        with writing(new):
            remove(new)
        raise UserError(
            f"{folder} has files that are of no export: move them, or choose another "
            f"--out=FOLDER{listed(others)}"
        )
    facts = json.loads((new / _FACTS).read_bytes())
    write_text(new / _FACTS, json.dumps(facts | {"files": names}, indent=1))
    _move_in(folder)


def _move_in(folder: pathlib.Path) -> None:
    """Puts the export in `_NEW`, if it is complete, into the place of an older one."""
    new = folder / _NEW
    facts = json.loads((new / _FACTS).read_bytes()) if (new / _FACTS).is_file() else {}
    if "files" not in facts:
        return
    with writing(folder):
        for name in _facts_last(files(folder)):
            if name != card.NAME or card.may_be_written(folder / name):
                (folder / name).unlink()
        for name in ("huggingface", "timm", "peft/base", "peft"):
            with contextlib.suppress(OSError):  # it is not there, or has other files
                (folder / name).rmdir()
        for name in _facts_last(NAMES.intersection(facts["files"])):
            if (new / name).is_file():
                (folder / name).parent.mkdir(exist_ok=True, parents=True)
                os.replace(new / name, folder / name)
        remove(new)


def _facts_last(names: Iterable[str]) -> list[str]:
    """Sorts names, `subnet.json` last, without which no folder is read as an export."""
    return sorted(names, key=lambda name: (name == _FACTS, name))
