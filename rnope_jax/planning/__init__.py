"""Planning: a training step compiled for a pod from any machine, and what it needs, says and takes there."""

from rnope_jax.planning.plan import Plan, make_plan
from rnope_jax.planning.report import show
from rnope_jax.planning.topology import Topology, parse

__all__ = ["Plan", "Topology", "make_plan", "parse", "show"]
