"""One mesh axis over all devices: weights replicated, batches and populations spread."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


def make_mesh() -> Mesh:
    """All devices on one axis, `data`."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicate(mesh: Mesh, tree):
    """A copy of every array of `tree` on every device of `mesh`."""
    return jax.device_put(tree, NamedSharding(mesh, P()))


def spread(mesh: Mesh, x: jax.Array, axis: int = 0) -> jax.Array:
    """Inside jit: splits `axis` of `x` over the devices, where they divide it."""
    if x.shape[axis] % mesh.size:
        return x
    spec = P(*[None] * axis, "data")
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))
