"""The merge methods: one file each, and the table that names them all."""

from merging.methods.linear import Linear
from merging.methods.method import MergeMethod
from merging.methods.task_arithmetic import TaskArithmetic

METHODS: dict[str, MergeMethod] = {
    "linear": Linear(),
    "task_arithmetic": TaskArithmetic(),
}
"""The merge method of every kind of `campaigns.recipe.Method`."""

__all__ = ["METHODS", "MergeMethod"]
