"""A run says how much memory it takes."""

import functools

import jax
import numpy as np
import pytest

from noah_jax.errors import UserError
from noah_jax.runtime import backend, memory
from noah_jax.runtime.writer import Writer


def test_a_plan_is_arguments_outputs_and_temporaries():
    """A donated argument and the output in its place are the same memory."""
    x = np.ones((500, 500), np.float32)  # 1 MB
    double = jax.jit(lambda x, y: x * 2 + y)
    donating = jax.jit(lambda x, y: x * 2 + y, donate_argnums=0)
    assert memory.planned_mb(double.lower(x, x).compile()) == 3.0
    assert memory.planned_mb(donating.lower(x, x).compile()) == 2.0


def test_watching_compiles_nothing_twice():
    """One compilation, the largest plan of the stage counts, and the next stage starts anew."""
    compiled = []

    def listener(name, seconds, **more):
        compiled.append(more.get("fun_name"))

    @functools.partial(jax.jit, donate_argnums=0)
    def watched(x, y):
        return x + y, y.sum()

    x, y = jax.device_put(np.ones((500, 500), np.float32)), np.ones((500, 500), np.float32)
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        function = memory.watch(watched)
        with memory.noting_plans() as plans:
            assert memory.stage_peak(plans) == {}
            for _ in range(3):
                x, total = function(x, y)
            memory.watch(jax.jit(lambda x: x + 1))(np.ones(3, np.float32))
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert compiled.count("jit(watched)") == 2  # to MLIR, and from there to machine code
    assert total == 250_000 and watched._cache_size() == 1
    assert memory.stage_peak(plans) == {"device_mb": 2.0, "device_source": "compiler"}
    with memory.noting_plans() as later:
        function(x, y)
    assert len(plans) == 2 and memory.stage_peak(later) == {}


def test_too_little_memory_says_what_to_lower(tmp_path):
    for stage, keys in (
        ("supernet", "Lower supernet.batch_size, image_size, or set rematerialise=True"),
        ("search", "Lower search.genomes_per_call, eval_batch_size"),
    ):
        with pytest.raises(UserError, match=keys), Writer(tmp_path).stage(stage):
            jax.block_until_ready(jax.jit(lambda: jax.numpy.ones((1 << 45,)))())
    with pytest.raises(jax.errors.JaxRuntimeError), Writer(tmp_path).stage("test"):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


def test_an_accelerator_that_is_not_used(monkeypatch):
    assert backend.unused_accelerator() is None  # JAX_PLATFORMS=cpu asks for this
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setattr(backend.shutil, "which", lambda name: None)
    assert backend.unused_accelerator() is None
    monkeypatch.setattr(backend, "_TPUS", (__file__,))
    assert (
        "a TPU: pip install -r launch/requirements-tpu.txt in a clone"
        in backend.unused_accelerator()
    )
    assert "pip install 'noah-jax[tpu]' elsewhere" in backend.unused_accelerator()
    monkeypatch.setattr(backend.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert "a GPU: pip install -r launch/requirements-cuda.txt" in backend.unused_accelerator()
