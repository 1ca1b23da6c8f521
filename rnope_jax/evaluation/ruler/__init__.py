"""RULER: thirteen tasks of long-context understanding, generated for any budget of tokens."""

from rnope_jax.evaluation.ruler.samples import Sample
from rnope_jax.evaluation.ruler.sources import Material, material
from rnope_jax.evaluation.ruler.tasks import TASKS, Generator, Task

__all__ = ["TASKS", "Generator", "Material", "Sample", "Task", "material"]
