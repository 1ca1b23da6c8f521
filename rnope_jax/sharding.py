"""The device mesh, and the one table that maps logical axes of arrays to mesh axes."""

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from rnope_jax.config import Config, MeshConfig
from rnope_jax.errors import UserError

#: The mesh axis that splits sequences.
CONTEXT = "context"

#: Axes of the mesh, outermost first.
MESH_AXES = ("data", "fsdp", CONTEXT, "tensor")

#: Logical axis of a parameter or activation -> mesh axes that split it. An axis that is not listed
#: is not split.
RULES: Mapping[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "sequence": (CONTEXT,),
    "vocab": ("tensor",),
    "embed": ("fsdp", CONTEXT),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
}

#: Names of the logical axes of an array, one per dimension; None for a dimension that is never split.
Axes = Sequence[str | None]


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of a run over `devices` (all of them by default).

    Raises:
      UserError: if the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [getattr(config, name) for name in MESH_AXES]
    if -1 in sizes:
        known = math.prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = len(devices) // known if len(devices) % known == 0 else 0
    if math.prod(sizes) != len(devices):
        given = ", ".join(f"mesh.{name} = {getattr(config, name)}" for name in MESH_AXES)
        raise UserError(
            f"{given}: the product must equal the number of devices, {len(devices)}; "
            "-1 on one axis takes what the others leave"
        )
    # Only TPU slices are so far apart that replicas alone may span them.
    slices = len({getattr(device, "slice_index", 0) for device in devices if device.platform == "tpu"})
    grid = _grid_over_slices(config, sizes, slices, devices) if slices > 1 else _grid(sizes, devices)
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(sizes))


def splits_torus(mesh: Mesh) -> bool:
    """Whether axes of a mesh share a dimension of a slice's torus, whose links then close no ring for either."""
    slices = len({getattr(device, "slice_index", 0) for device in mesh.devices.flat})
    one = mesh.devices[: len(mesh.devices) // slices]
    try:
        mesh_utils.create_device_mesh(one.shape, list(one.flat))
    except NotImplementedError:
        return True
    return False


def _grid(sizes: Sequence[int], devices: Sequence[jax.Device]) -> np.ndarray:
    """The devices of one slice with each mesh axis along whole dimensions of the torus, where that can be."""
    try:
        return mesh_utils.create_device_mesh(sizes, devices)
    except NotImplementedError:
        # For example an axis of 8 on a torus of 4x4x4. In the order of their places: the compiler
        # makes all-reduces of all-gathers where axes are put together from parts of several dimensions.
        places = sorted(devices, key=lambda device: (*device.coords, device.core_on_chip))
        return np.array(places).reshape(sizes)


def _grid_over_slices(config: MeshConfig, sizes: list[int], slices: int, devices: Sequence[jax.Device]) -> np.ndarray:
    """The devices of slices that talk over the data-centre network: `data` runs over them, outermost.

    Raises:
      UserError: if `data` is not a multiple of the number of slices.
    """
    data, *inner = sizes
    if data % slices:
        raise UserError(
            f"mesh.data = {config.data}: must be a multiple of the number of slices, {slices}, because replicas are "
            f"what can talk over the network between them; for example mesh.data = {slices}"
        )
    members: dict[int, list[jax.Device]] = {}
    for device in devices:
        members.setdefault(device.slice_index, []).append(device)
    return np.concatenate([_grid((data // slices, *inner), members[index]) for index in sorted(members)])


def partition(axes: Axes, *, but: Sequence[str] | frozenset[str] = ()) -> PartitionSpec:
    """The partition of an array with these logical axes, over all axes of the mesh `but` some."""
    split = (tuple(axis for axis in RULES.get(name or "", ()) if axis not in but) for name in axes)
    return PartitionSpec(*(over or None for over in split))


def sharding(mesh: Mesh, axes: Axes) -> NamedSharding:
    """The placement on `mesh` of an array with these logical axes."""
    return NamedSharding(mesh, partition(axes))


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Keeps an activation split by its logical axes; does nothing outside a mesh.

    Inside `jax.shard_map` an array is a device's own part along the axes of the map, and those are left out.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, partition(axes, but=mesh.manual_axes))


def context_parts() -> int:
    """Into how many parts the mesh at hand splits each sequence."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape.get(CONTEXT, 1)


def check_divisible(mesh: Mesh | AbstractMesh, name: str, shape: Sequence[int], axes: Axes) -> None:
    """Checks that an array can be split as its logical axes say.

    Raises:
      UserError: naming the array, its axis and the mesh axes.
    """
    for size, axis in zip(shape, axes, strict=True):
        mesh_axes = [a for a in (RULES.get(axis, ()) if axis else ()) if mesh.shape[a] > 1]
        parts = math.prod(mesh.shape[a] for a in mesh_axes)
        if size % parts:
            raise UserError(
                f"{name}: its axis {axis!r} of size {size} cannot be split over {parts} devices "
                f"(mesh axes {', '.join(mesh_axes)}); change the size or mesh.{' or mesh.'.join(mesh_axes)}"
            )


def check_batches(config: Config, mesh: Mesh) -> None:
    """Checks that every micro-batch of every stage divides over the devices that split it, rows and sequence.

    Raises:
      UserError: naming the stage and the nearest sizes that work.
    """
    for index in range(len(config.stages)):
        check_batch(config, index, mesh)


def check_batch(config: Config, index: int, mesh: Mesh) -> None:
    """Checks the micro-batches of one stage.

    Raises:
      UserError: naming the stage and the nearest sizes that work.
    """
    stage, parts = config.stages[index], batch_parts(mesh)
    if (length := stage.sequence_length) % (chunks := 2 * mesh.shape[CONTEXT]) and chunks > 2:
        below, above = length // chunks * chunks, (length // chunks + 1) * chunks
        options = f"{below} or {above}" if below else f"{above}"
        raise UserError(
            f"stages[{index}].sequence_length = {length}: must be divisible by {chunks} "
            f"(two chunks for each of mesh.context = {chunks // 2} devices); for example {options}"
        )
    unit = parts * stage.accumulation
    if stage.batch_size % unit:
        below, above = stage.batch_size // unit * unit, (stage.batch_size // unit + 1) * unit
        options = f"{below} or {above}" if below else f"{above}"
        raise UserError(
            f"stages[{index}].batch_size = {stage.batch_size}: must be divisible by {unit} "
            f"(data x fsdp = {parts} devices, accumulation = {stage.accumulation}); for example {options}"
        )


def batch_parts(mesh: Mesh) -> int:
    """Over how many devices the rows of a batch are spread."""
    return math.prod(mesh.shape[axis] for axis in RULES["batch"])
