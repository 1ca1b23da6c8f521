"""How fast devices of a topology can talk to each other, from where they sit in it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rnope_jax.planning.collectives import Collective
from rnope_jax.planning.topology import Topology


class Network:
    """The links between the devices of a mesh.

    Args:
      topology: what the devices are part of.
      devices: in the order of the mesh.
    """

    def __init__(self, topology: Topology, devices: Sequence[Any]):
        self.topology = topology
        self.coordinates = np.array([device.coords for device in devices])
        """[devices, 3]"""
        self.slices = np.array([getattr(device, "slice_index", 0) for device in devices])

    def crosses_slices(self, groups: np.ndarray) -> bool:
        """Whether devices of one group sit in different slices."""
        slices = self.slices[groups]
        return bool((slices != slices[:, :1]).any())

    def bandwidth(self, groups: np.ndarray) -> float:
        """Bytes/s that one device can send to others of its group.

        A group that extends over several dimensions of the torus uses the links of all of them, and
        of a closed ring both directions. The slowest group counts.
        """
        chip = self.topology.chip
        if self.crosses_slices(groups):
            return chip.dcn_bandwidth / chip.devices
        rings = (*self.topology.rings, False)[:3]
        sizes = (*self.topology.shape, 1)[:3]
        places = self.coordinates[groups[:64]]  # all groups of a mesh axis lie alike
        slowest = float("inf")
        for group in places:
            links = 0
            for dimension in range(3):
                extent = len(np.unique(group[:, dimension]))
                if extent > 1:
                    links += 2 if rings[dimension] and extent == sizes[dimension] else 1
            # Devices of one chip talk within it, faster than over links.
            slowest = min(slowest, max(links, 1) * chip.link_bandwidth / chip.devices)
        return slowest

    def seconds(self, collective: Collective) -> float:
        """The time that a collective takes in a step, if nothing else uses the links."""
        bandwidth = self.bandwidth(collective.groups)
        if collective.kind == "collective-permute":
            bandwidth = min(bandwidth, self.topology.chip.link_bandwidth / self.topology.chip.devices)
        return collective.total / bandwidth
