"""A subnet by itself: what a finished run found, with only the sizes that are live.

`load` reads it back from a run's workdir; `write` and `read` are for the folder that an export is:

    subnet.json          what it is: the ViT's shape, the genome, the classes, how images are read
    subnet.safetensors   what was trained: prompt modules and head
    model.safetensors    all weights, LoRA merged into them; without it the backbone is fetched

Tensors are named like the parameters, a name a block: `blocks.3.lora.a`. Output scales are
multiplied into them.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx

from noah_jax import pretrained
from noah_jax.config import from_json
from noah_jax.config.settings import schedule
from noah_jax.errors import UserError
from noah_jax.pretrained import checksums
from noah_jax.runtime import sharding
from noah_jax.runtime.checkpoint import Checkpoints
from noah_jax.runtime.workdir import make_folder, read_json_here, write_bytes, write_text
from noah_jax.space.genomes import ALL_MODULES, COLUMNS, complete, max_sizes
from noah_jax.training import loop
from noah_jax.training import step as step_lib
from noah_jax.training.run import checkpoint_purpose
from noah_jax.vit import ViTConfig, network
from noah_jax.vit.compact import CompactViT

_SHAPE = (
    *("width", "depth", "heads", "patch_size", "image_size", "num_classes"),
    *("registers", "pre_norm", "quick_gelu", "epsilon"),
)
# Along which axis the size of a module counts, of each of its parameters.
_SIZED = {"tokens": 0, "a": 1, "b": 0, "down": 1, "down_bias": 0, "up": 0, "up_bias": None}
_LAST = ("b", "up", "up_bias")  # those that make the output, which a scale multiplies


@dataclasses.dataclass(frozen=True)
class Subnet:
    """A trained subnet and what one must know to use it.

    Attributes:
      facts: what `subnet.json` holds.
      tensors: all weights by name, float32.
      trained: the names of those that were trained; none once LoRA is merged.
    """

    facts: dict[str, Any]
    tensors: Mapping[str, np.ndarray]
    trained: frozenset[str] = frozenset()

    @property
    def genome(self) -> np.ndarray:
        """int32 `[depth, 7]`."""
        return complete(np.array(self.facts["genome"], np.int32))

    @property
    def config(self) -> ViTConfig:
        return ViTConfig(**self.facts["vit"])

    @property
    def class_names(self) -> list[str]:
        """Numbers where no names are known."""
        return self.facts["class_names"] or [str(i) for i in range(self.config.num_classes)]

    def model(self) -> CompactViT:
        """Raises UserError if the tensors are not those of such a ViT."""
        sizes = self.genome[:, : len(ALL_MODULES)].copy()
        if not any(".lora." in name for name in self.tensors):  # merged
            sizes[:, ALL_MODULES.index("lora")] = 0
        model = nnx.eval_shape(lambda: CompactViT(self.config, sizes, rngs=nnx.Rngs(0)))
        graphdef, state = nnx.split(model)
        return nnx.merge(graphdef, _fill(state, self.tensors))

    def merged(self) -> "Subnet":
        """The same with LoRA added to the weights that it changes."""
        tensors = dict(self.tensors)
        for i in range(self.config.depth):
            if f"blocks.{i}.lora.a" in tensors:
                a, b = (tensors.pop(f"blocks.{i}.lora.{part}") for part in "ab")
                tensors[f"blocks.{i}.qkv.kernel"] = tensors[f"blocks.{i}.qkv.kernel"] + a @ b
        return Subnet(self.facts, tensors)


def load(workdir: str | pathlib.Path) -> Subnet:
    """The subnet that a finished run retrained.

    Raises:
      UserError: the run is not finished, or the backbone's weights are not those it had.
    """
    workdir = pathlib.Path(workdir)
    result, saved = (read_json_here(workdir / name) for name in ("result.json", "config.json"))
    if result is None or saved is None:
        raise UserError(f"{workdir} holds no finished run: there is no result.json or config.json")
    inputs = saved.pop("inputs", {})
    config, genome = from_json(saved), np.array(result["genome"], np.int32)
    source = config.weights or config.backbone
    if pretrained.fingerprint(source) != inputs.get("weights"):
        raise UserError(f"the weights of {source} are not those that the run in {workdir} had")
    width = config.vit(1, "float32").width
    vit = config.vit(result["head_params"] // (width + 1), "float32")
    mean, std = pretrained.NORMALISATIONS[result["normalisation"]]
    mesh, backbone = sharding.make_mesh(), pretrained.backbone(config.vit(1, "float32"), source)
    sizes, method = max_sizes(genome), config.method
    net = network.make_network(vit, sizes, backbone, (mean, std), method, 0, mesh)
    plan, images = schedule(config, result["images"], "retrain")
    checkpoints = Checkpoints(workdir / "retrain", print, checkpoint_purpose(genome))
    steps = step_lib.steps_per_epoch("retrain", plan, images)
    params = loop.trained(net, plan, steps, checkpoints, mesh)
    facts = {
        "vit": {name: getattr(vit, name) for name in _SHAPE},
        "genome": genome.tolist(),
        "class_names": result.get("class_names", []),
        "mean": mean,
        "std": std,
        "center_crop": config.center_crop,
        "backbone": source,
        **{name: result[name] for name in ("task", "method", "seed")},
        **{name: result[name] for name in ("test_accuracy", "params", "versions")},
    }
    tensors = by_name(params, genome)
    trained = frozenset(tensors)
    return Subnet(facts, tensors | by_name(net.frozen, genome), trained)


def write(subnet: Subnet, folder: pathlib.Path) -> None:
    """Raises UserError if it cannot be written."""
    make_folder(folder, parents=True)
    own = {name: subnet.tensors[name] for name in sorted(subnet.trained)}
    for name, tensors in (("subnet", own), ("model", subnet.merged().tensors)):
        path = folder / f"{name}.safetensors"
        write_bytes(path, safetensors.numpy.save({n: as_saved(x) for n, x in tensors.items()}))
        checksums.write_note(path)
    write_text(folder / "subnet.json", json.dumps(subnet.facts, indent=1))


def as_saved(tensor: np.ndarray) -> np.ndarray:
    """safetensors writes the memory of an array, whatever its order."""
    return np.ascontiguousarray(tensor, np.float32)


def read(folder: str | pathlib.Path) -> Subnet:
    """What `write` wrote.

    Raises:
      UserError: something is missing or damaged, or the backbone cannot be fetched.
    """
    folder = pathlib.Path(folder)
    try:
        facts = json.loads((folder / "subnet.json").read_bytes())
        found = Subnet(facts, {})
        found.config, found.genome, found.class_names  # noqa: B018  (they raise)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is no export: subnet.json cannot be read: {error}") from error
    path = folder / "model.safetensors"
    if path.is_file():
        return Subnet(facts, _read_tensors(path))
    backbone = pretrained.backbone(found.config, facts["backbone"])
    frozen = by_name(backbone, found.genome)
    own = _read_tensors(folder / "subnet.safetensors")
    return Subnet(facts, frozen | own, frozenset(own))


def _read_tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        checksums.verify(path)
        return safetensors.numpy.load_file(path)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def by_name(state: nnx.State, genome: np.ndarray) -> dict[str, np.ndarray]:
    """A ViT's state, or a part of it, with a name a block, and of prompt modules what is live."""
    tensors, rows = {}, complete(genome)
    for path, variable in nnx.to_flat_state(state):
        value = np.asarray(variable[...], np.float32)
        if path[0] != "blocks":
            tensors[".".join(path)] = value
            continue
        for i, (part, row) in enumerate(zip(value, rows, strict=True)):
            if path[1] in ALL_MODULES:
                sizes = dict(zip(COLUMNS, row.tolist(), strict=True))
                if not (size := sizes[path[1]]):
                    continue
                if (axis := _SIZED[path[2]]) is not None:
                    part = np.take(part, range(size), axis)
                if path[2] in _LAST:
                    part = part * np.float32(10.0 ** sizes[f"{path[1]}_scale"])
            tensors[f"blocks.{i}." + ".".join(path[1:])] = part
    return tensors


def _fill(state: nnx.State, tensors: Mapping[str, np.ndarray]) -> nnx.State:
    """Raises UserError for what is missing, left over or of another shape; all are listed."""
    left, filled, problems = dict(tensors), [], []
    for path, variable in nnx.to_flat_state(state):
        name = ".".join(map(str, path))
        tensor, shape = left.pop(name, None), tuple(variable.shape)
        if tensor is None or tensor.shape != shape:
            problems.append(f"expected {name} {list(shape)}")
        else:
            filled.append((path, variable.replace(jnp.asarray(tensor))))
    problems += [f"unexpected {name} {list(tensor.shape)}" for name, tensor in left.items()]
    if problems:
        raise UserError("the subnet's tensors do not fit:\n  " + "\n  ".join(sorted(problems)))
    return nnx.from_flat_state(filled)
