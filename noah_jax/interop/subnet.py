"""A subnet by itself: its trained weights, with no more than the sizes that the genome uses.

A run leaves the first two files in its workdir. An export has all three:

    subnet.json          facts: the ViT's shape, the genome, the classes, how images are prepared
    subnet.safetensors   the trained weights: prompt modules and head
    model.safetensors    all weights, LoRA merged into them; without it the backbone is fetched

Tensors are named like the parameters, with a name for each block: `blocks.3.lora.a`.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from flax import nnx

from noah_jax import pretrained
from noah_jax.errors import UserError
from noah_jax.pretrained import checksums
from noah_jax.pretrained.loading import arrange
from noah_jax.runtime import processes
from noah_jax.runtime.workdir import make_folder, write_bytes, write_text
from noah_jax.space.genomes import ALL_MODULES, by_module
from noah_jax.space.modules import PROMPT_MODULES
from noah_jax.vit import ViTConfig
from noah_jax.vit.compact import CompactViT
from noah_jax.vit.network import normalise

SHAPE = (  # the fields of a ViTConfig that say what it computes, not how
    *("width", "depth", "heads", "patch_size", "image_size", "num_classes"),
    *("registers", "pre_norm", "quick_gelu", "epsilon", "antialias"),
    *("mlp_width", "pooling", "rope", "tanh_gelu"),
)


@dataclasses.dataclass(frozen=True, eq=False)  # one is itself alone, and can be a key
class Subnet:
    """A trained subnet, and the facts that are needed to use it.

    Attributes:
      facts: the contents of `subnet.json`.
      tensors: all weights by name, float32.
      trained: the names of the trained weights; empty once LoRA is merged.
    """

    facts: dict[str, Any]
    tensors: Mapping[str, np.ndarray]
    trained: frozenset[str] = frozenset()

    @property
    def sizes(self) -> dict[str, np.ndarray]:
        """The genome by module: the size in each block, int64 `[depth]`."""
        return by_module(np.array(self.facts["genome"], np.int32))

    @property
    def config(self) -> ViTConfig:
        """The ViT's shape."""
        return ViTConfig(**self.facts["vit"])

    @property
    def class_names(self) -> list[str]:
        """The names of the classes in the order of the labels; numbers if no names are known."""
        return self.facts["class_names"] or [str(i) for i in range(self.config.num_classes)]

    @property
    def temperature(self) -> float:
        """The divisor of logits before they become probabilities; 1 if it was not fitted."""
        return self.facts.get("temperature", 1.0)

    def model(self) -> CompactViT:
        """Builds the ViT of this genome, with the subnet's weights.

        Raises:
          UserError: the tensors do not fit such a ViT; all mismatches are listed.
        """
        sizes = dict(self.sizes)
        if not any(".lora." in name for name in self.tensors):
            sizes["lora"] = np.zeros_like(sizes["lora"])  # LoRA is merged
        genome = np.stack(list(sizes.values()), axis=1)
        model = nnx.eval_shape(lambda: CompactViT(self.config, genome, rngs=nnx.Rngs(0)))
        graphdef, state = nnx.split(model)
        return nnx.merge(graphdef, arrange(state, self.tensors, "the subnet"))

    def normalise(self, images: jax.Array) -> jax.Array:
        """Turns uint8 images `[b, h, w, 3]` into the float32 ones that the model takes."""
        return normalise(images, self.facts["mean"], self.facts["std"])

    def merged(self) -> "Subnet":
        """Returns the same subnet with LoRA added to the weights that it changes."""
        tensors = dict(self.tensors)
        for i in range(self.config.depth):
            if f"blocks.{i}.lora.a" in tensors:
                a, b = (tensors.pop(f"blocks.{i}.lora.{part}") for part in "ab")
                tensors[f"blocks.{i}.qkv.kernel"] = tensors[f"blocks.{i}.qkv.kernel"] + a @ b
        return Subnet(self.facts, tensors)


def write(facts: dict[str, Any], trained: Mapping[str, np.ndarray], folder: pathlib.Path) -> None:
    """Writes `facts` as `subnet.json`, the trained weights by name as `subnet.safetensors`.

    Raises:
      UserError: they cannot be written.
    """
    write_tensors(folder / "subnet.safetensors", {name: trained[name] for name in sorted(trained)})
    write_text(folder / "subnet.json", json.dumps(facts, indent=1))


def export(subnet: Subnet, folder: pathlib.Path) -> None:
    """Writes all three files, and makes the folder if it is not there.

    Raises:
      UserError: they cannot be written.
    """
    make_folder(folder, parents=True)
    write(subnet.facts, {name: subnet.tensors[name] for name in subnet.trained}, folder)
    write_tensors(folder / "model.safetensors", subnet.merged().tensors)


def write_tensors(path: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a safetensors file, and a note of its checksum beside it.

    Raises:
      UserError: the file cannot be written.
    """
    write_bytes(path, serialised(tensors))
    if processes.is_main():  # the others may not see its files
        checksums.write_note(path)


def serialised(tensors: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> bytes:
    """Makes the contents of a safetensors file; all tensors become float32."""
    # safetensors writes the memory as it lies, so that it has to be contiguous.
    contiguous = {name: np.ascontiguousarray(x, np.float32) for name, x in tensors.items()}
    return safetensors.numpy.save(contiguous, metadata)


def read(folder: str | pathlib.Path, weights: str = "") -> Subnet:
    """Reads a subnet from the workdir of a finished run, or from an export.

    Args:
      weights: where the backbone's file is now, if it has moved since the run; an export does not
        need it.

    Raises:
      UserError: a file is missing or damaged, the backbone cannot be fetched, or its file is not
        the one that the run used.
    """
    folder = pathlib.Path(folder)
    facts = read_facts(folder)
    if (path := folder / "model.safetensors").is_file():
        return Subnet(facts, _read_tensors(path))
    own = _read_tensors(folder / "subnet.safetensors")
    if "patch_embed.kernel" in own:  # all weights were trained
        return Subnet(facts, own, frozenset(own))
    try:
        frozen = _frozen(Subnet(facts, {}), weights or facts["backbone"])
    except UserError as error:
        raise UserError(
            f"{error}\nIf the file is somewhere else now, say where: --weights=FILE, in Python "
            "weights=FILE"
        ) from error
    return Subnet(facts, frozen | own, frozenset(own))


def read_facts(folder: pathlib.Path) -> dict[str, Any]:
    """Reads `subnet.json`.

    Raises:
      UserError: it is missing or damaged.
    """
    if not (folder / "subnet.json").is_file():
        raise UserError(
            f"{folder} holds no subnet.json: expected the workdir of a finished run, or an export"
        )
    try:
        facts = json.loads((folder / "subnet.json").read_bytes())
        found = Subnet(facts, {})
        found.config, found.sizes, found.class_names  # noqa: B018  (they raise)
        if not found.temperature > 0:
            raise ValueError(f"temperature {found.temperature}: expected more than 0")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / 'subnet.json'} cannot be read: {error}") from error
    return facts


def _frozen(subnet: Subnet, source: str) -> dict[str, np.ndarray]:
    """Reads the backbone's tensors by name; UserError if they are not those of the run."""
    if pretrained.fingerprint(source) != subnet.facts.get("weights"):
        raise UserError(f"the weights of {source} are not those that the subnet was trained on")
    return by_name(pretrained.backbone(subnet.config, source), subnet.sizes)


def _read_tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        checksums.verify(path)
        return safetensors.numpy.load_file(path)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def by_name(state: nnx.State, sizes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Flattens the state of a ViT, or a part of it, into float32 tensors by name.

    Each block has names of its own. Prompt modules are cut to the sizes that the genome uses.

    Args:
      sizes: module → its size in each block; see `Subnet.sizes`.
    """
    tensors = {}
    for keys, variable in nnx.to_flat_state(state):
        path = tuple(map(str, keys))
        value = np.asarray(variable[...], np.float32)
        if path[0] != "blocks":
            tensors[".".join(path)] = value
            continue
        for i, part in enumerate(value):
            if path[1] in ALL_MODULES:
                if not (size := int(sizes[path[1]][i])):
                    continue
                if (axis := PROMPT_MODULES[path[1]].sized_axis[path[2]]) is not None:
                    part = np.take(part, range(size), axis)
            tensors[f"blocks.{i}." + ".".join(path[1:])] = part
    return tensors
