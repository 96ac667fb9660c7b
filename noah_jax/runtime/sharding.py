"""The mesh of all devices of all processes, and the placement of arrays on it.

Trainables are replicated. Batches and populations are spread over all devices. Frozen matrices are
replicated or, if they do not fit, cut into `weight_shards` parts. The matrices of a block are put
together when it runs.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from noah_jax.errors import UserError

_AXES = ("data", "weights")


def make_mesh(weight_shards: int = 1) -> Mesh:
    """Puts all devices on the axes `data` and, with `weight_shards` devices, `weights`.

    Raises:
      UserError: `weight_shards` does not divide the number of devices.
    """
    devices = jax.device_count()
    if devices % weight_shards:
        raise UserError(
            f"weight_shards={weight_shards}: expected a divisor of the {devices} devices"
        )
    shape, types = (devices // weight_shards, weight_shards), (AxisType.Auto,) * 2
    if _slices() == 1:
        return jax.make_mesh(shape, _AXES, axis_types=types)
    # jax.make_mesh refuses several slices. Neighbours share weights.
    ordered = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(ordered).reshape(shape), _AXES, axis_types=types)


def _slices() -> int:
    """The number of TPU slices, or of hosts with GPUs."""
    return len({getattr(device, "slice_index", 0) for device in jax.devices()})


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Copies every array of `tree`, the same in all processes, to every device of `mesh`."""
    return jax.tree.map(lambda x: _put(x, replicated(mesh)), tree)


def place_frozen(mesh: Mesh, frozen: Any) -> Any:
    """Cuts the blocks' matrices along their longest axis over `weights`; replicates the rest."""
    return jax.tree.map(_put, frozen, frozen_shardings(mesh, frozen))


def frozen_shardings(mesh: Mesh, frozen: Any) -> Any:
    """The places that `place_frozen` chooses; takes shapes as well as arrays."""
    shards = mesh.shape["weights"]

    def sharding(path, x):
        name = jax.tree_util.keystr(path)
        if "blocks" not in name or "kernel" not in name:
            return replicated(mesh)
        axis = max(x.ndim - 1, x.ndim - 2, key=lambda axis: x.shape[axis])
        if x.shape[axis] % shards:
            return replicated(mesh)
        return NamedSharding(mesh, P(*[None] * axis, "weights"))

    return jax.tree_util.tree_map_with_path(sharding, frozen)


def gather(mesh: Mesh, tree: Any) -> Any:
    """Inside jit: puts the matrices that `place_frozen` cut together on every device."""
    return jax.lax.with_sharding_constraint(tree, replicated(mesh))


def spread(mesh: Mesh, x: jax.Array, axis: int = 0) -> jax.Array:
    """Inside jit: splits `axis` of `x` over the devices, where they divide it."""
    if x.shape[axis] % mesh.size:
        return x
    return jax.lax.with_sharding_constraint(x, rows_sharding(mesh, x.shape[axis], axis))


def local_rows(mesh: Mesh, n: int) -> np.ndarray:
    """The rows that are on the devices of this process if n rows are spread over all; int, sorted.

    These are all n if the devices do not divide n.
    """
    slices = rows_sharding(mesh, n).addressable_devices_indices_map((n,)).values()
    return np.unique(np.concatenate([np.arange(n)[index] for index in slices]))


def from_local_rows(mesh: Mesh, local: np.ndarray, n: int, axis: int = 0) -> jax.Array:
    """Makes the global array whose `local_rows` along `axis` are `local`."""
    shape = (*local.shape[:axis], n, *local.shape[axis + 1 :])
    return jax.make_array_from_process_local_data(rows_sharding(mesh, n, axis), local, shape)


def rows_sharding(mesh: Mesh, n: int, axis: int = 0) -> NamedSharding:
    """Spreads n rows along `axis` over all devices; puts all on each if these do not divide n."""
    return replicated(mesh) if n % mesh.size else NamedSharding(mesh, P(*[None] * axis, _AXES))


def _put(x, sharding: NamedSharding) -> jax.Array:
    """Places an array; `device_put` would compare all its values with those of other processes."""
    if sharding.is_fully_addressable or (isinstance(x, jax.Array) and not x.is_fully_addressable):
        return jax.device_put(x, sharding)
    host = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: host[index])
