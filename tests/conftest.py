"""Two CPU devices, no implicit rank promotion, and quick compilation: set before JAX starts.

The tests compile hundreds of programs and run each for moments. Without LLVM's optimisations and
XLA's newer emitters they compile in half of the time; what is compared is compiled alike.
"""

import dataclasses
import importlib.metadata
import os
import re
import signal
import tracemalloc

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    # Another version may not know these flags, and would end at once. One thread compiles a
    # program, since two processes do already.
    + " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    * importlib.metadata.version("jaxlib").startswith("0.10.")
)
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from noah_jax.runtime import backend, sharding
from noah_jax.space.genomes import MODULES
from noah_jax.training import evaluation
from noah_jax.training import step as step_lib
from noah_jax.vit import ViT
from tests.helpers import models
from tests.helpers.images import write_colours, write_imagenet
from tests.helpers.models import MAX_SIZES, TINY

backend.keep_compiled_programs()
# What the tests start is to hear Ctrl-C, even where they run in a shell's background.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """In several processes the long tests come first, so that none waits for the last of them."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.path.parent.name not in ("whole", "bench"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Spreads single tests over the processes, but keeps files together that share a dear fixture.

    pytest 9.2 does not see the groups of pytest-xdist 3.8.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split("::")[0]
            together = ("test_tfds.py", "test_documentation.py", "test_rendered.py")
            return file if file.endswith(together) else nodeid

    return Scheduling(config, log)


@pytest.fixture
def strict_dtypes():
    """No implicit dtype promotion in our own code; optax and bfloat16 attention need it."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def no_memory():
    """Fails if more than 50 MB were held at any time."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


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


@pytest.fixture
def network(tiny_vit):
    """The tiny ViT's, on all devices."""
    network, mesh = models.make_network(tiny_vit), sharding.make_mesh()
    params, frozen = sharding.replicate(mesh, (network.params, network.frozen))
    return dataclasses.replace(network, params=params, frozen=frozen)


@pytest.fixture
def nothing_compiled():
    """Forgets the programs that earlier tests of this process have compiled."""
    for programs in (step_lib._step, step_lib._augmented_step, evaluation._evaluator):
        programs.cache_clear()


@pytest.fixture
def data():
    return models.coloured()


@pytest.fixture
def augmented():
    return models.augmented()


@pytest.fixture(scope="session")
def imagenet(tmp_path_factory):
    """Two training images and a validation image of each class; parts of V2 and R."""
    home = tmp_path_factory.mktemp("imagenet")
    write_imagenet(home)
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


@pytest.fixture(scope="session")
def home(tmp_path_factory, ti16):
    """Photos of three plain colours in VTAB-1k's layout, and a random ViT-Ti/16."""
    home = tmp_path_factory.mktemp("home")
    write_colours(home / "colours")
    (home / "ti16.safetensors").symlink_to(ti16)
    return home
