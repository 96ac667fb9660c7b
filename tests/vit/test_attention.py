"""Attention against JAX's own, and what of the fused kernel can be seen without a GPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from noah_jax.vit import ViT, ViTConfig
from noah_jax.vit.attention import attend, can_fuse
from noah_jax.vit.execution import Execution


@pytest.mark.parametrize("keys", [None, 5])
def test_equals_jax_own_attention_and_gradient(keys):
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(2, n, 3, 4)), jnp.float32) for n in (7, 8, 8))

    def ours(q, k, v, keys):
        return jnp.sin(attend(q, k, v, keys, fused=False))

    def theirs(q, k, v, keys):
        lengths = None if keys is None else jnp.full(2, keys, jnp.int32)
        return jnp.sin(jax.nn.dot_product_attention(q, k, v, key_value_seq_lengths=lengths))

    live = None if keys is None else jnp.int32(keys)
    np.testing.assert_allclose(ours(q, k, v, live), theirs(q, k, v, keys), atol=1e-6)
    gradients = [
        jax.jit(jax.grad(lambda *x, f=f: f(*x, live).sum(), (0, 1, 2)))(q, k, v)
        for f in (ours, theirs)
    ]
    for mine, reference in zip(*gradients, strict=True):
        np.testing.assert_allclose(mine, reference, atol=1e-6)
    if keys:
        assert not np.any(gradients[0][1][:, keys:])


def test_no_fused_kernel_on_a_cpu():
    assert not can_fuse(heads=4, channels=16, dtype="bfloat16")


@pytest.mark.parametrize("vpt", [0, 3])  # 17 and 20 tokens: an odd and an even number
@pytest.mark.parametrize("groups", [1, 2])
def test_the_fused_kernel_runs_once_forwards_and_once_backwards(monkeypatch, vpt, groups):
    """The program for CUDA has genomes side by side and computes nothing again."""
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda capability: False)
    shape = {"width": 32, "depth": 3, "heads": 4, "patch_size": 4, "image_size": 16}
    how = Execution(fused_attention=True)
    config = ViTConfig(**shape, num_classes=5, dtype="bfloat16", execution=how)

    def loss(key, images, genomes):
        model = ViT(config, {"vpt": vpt, "lora": 2, "adapter": 2}, rngs=nnx.Rngs(0))
        graphdef, state = nnx.split(model)

        def run(state):
            def logits(images, genome):
                return nnx.merge(graphdef, state)(images, genome, train=True, key=key)

            return jax.vmap(logits)(images, genomes).sum()

        return jax.grad(run)(state)

    with jax.numpy_dtype_promotion("standard"):  # JAX's rules for the kernel promote implicitly
        exported = jax.export.export(
            jax.jit(loss),
            platforms=["cuda"],
            disabled_checks=[jax.export.DisabledSafetyCheck.custom_call(name) for name in _KERNELS],
        )(
            jax.random.key(0),
            jax.ShapeDtypeStruct((groups, 2, 16, 16, 3), jnp.float32),
            jax.ShapeDtypeStruct((groups, 3, 3), jnp.int32),
        )
    module = exported.mlir_module()
    assert [module.count(f"@{name}(") for name in _KERNELS] == [1, 1]


_KERNELS = ("__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward")
