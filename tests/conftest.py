"""Two CPU devices and no implicit rank promotion: set before JAX starts."""

import io
import os
import re
import signal

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import jax
import numpy as np
import PIL.Image
import pytest
import safetensors.numpy
from flax import nnx

from noah_jax.runtime import backend
from noah_jax.space.genomes import MODULES
from noah_jax.vit import ViT, ViTConfig

backend.keep_compiled_programs()
# What the tests start is to hear Ctrl-C, even where they run in a shell's background.
signal.signal(signal.SIGINT, signal.default_int_handler)

TINY = ViTConfig(
    width=32, depth=12, heads=4, patch_size=8, image_size=16, num_classes=5, drop_path=0.2
)
MAX_SIZES = {"vpt": 4, "lora": 3, "adapter": 5}


@pytest.fixture
def strict_dtypes():
    """No implicit dtype promotion in our own code; optax and bfloat16 attention need it."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def tiny_vit():
    """A ViT of 12 blocks with every parameter random, those that start at zero included."""
    model = ViT(TINY, MAX_SIZES, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(model)
    rng = np.random.default_rng(0)
    random = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), state)
    return nnx.merge(graphdef, random)


@pytest.fixture
def random_genome():
    """A function seed → genome of the tiny ViT, zeros and gaps included."""

    def make(seed):
        rng = np.random.default_rng(seed)
        columns = [rng.integers(0, MAX_SIZES[name] + 1, TINY.depth) for name in MODULES]
        genome = np.stack(columns, axis=1)
        genome[rng.random(genome.shape) < 0.3] = 0
        if seed % 4 == 0:
            genome[:, rng.integers(3)] = 0  # a module that is used nowhere
        if seed % 5 == 0:
            genome[rng.integers(1, TINY.depth) :] = 0  # a depth under that of the ViT
        return genome.astype(np.int32)

    return make


SYNSETS = [f"n{10_000 + 7 * label:08d}" for label in range(1000)]


@pytest.fixture(scope="session")
def imagenet(tmp_path_factory):
    """Two training images and a validation image of each class; parts of V2 and R."""
    home, image = tmp_path_factory.mktemp("imagenet"), io.BytesIO()
    PIL.Image.new("RGB", (2, 2)).save(image, "jpeg", quality=20)

    def put(*parts):
        path = home.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image.getvalue())

    for label, synset in enumerate(SYNSETS):
        for number in range(2):
            put("imagenet", "train", synset, f"{synset}_{number}.JPEG")
        put("imagenet", "val", synset, f"ILSVRC2012_val_{label:08d}.JPEG")
        put("imagenetv2", "imagenetv2-matched-frequency-format-val", str(label), "0.jpeg")
    for label in range(0, 1000, 5):
        put("imagenet-rendition", "imagenet-r", SYNSETS[label], "art 0.jpg")
    return home


@pytest.fixture(scope="session")
def ti16(tmp_path_factory):
    """A file with a random ViT-Ti/16 for 48 px, in timm's layout."""
    rng = np.random.default_rng(0)
    shapes = {
        "cls_token": (1, 1, 192),
        "pos_embed": (1, 1 + 9, 192),
        "patch_embed.proj.weight": (192, 3, 16, 16),
        "patch_embed.proj.bias": (192,),
        "norm.weight": (192,),
        "norm.bias": (192,),
    }
    for i in range(12):
        for layer, (out, width) in {
            "attn.qkv": (576, 192),
            "attn.proj": (192, 192),
            "mlp.fc1": (768, 192),
            "mlp.fc2": (192, 768),
        }.items():
            shapes[f"blocks.{i}.{layer}.weight"] = (out, width)
            shapes[f"blocks.{i}.{layer}.bias"] = (out,)
        for norm in ("norm1", "norm2"):
            shapes[f"blocks.{i}.{norm}.weight"] = shapes[f"blocks.{i}.{norm}.bias"] = (192,)
    weights = {
        name: np.ones(shape, np.float32)
        if re.search(r"norm\d?\.weight", name)
        else rng.normal(0, 0.05, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    path = tmp_path_factory.mktemp("weights") / "ti16.safetensors"
    safetensors.numpy.save_file(weights, path)
    return path
