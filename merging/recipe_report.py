"""Whether a recipe can be made of a pool; if not, everything that stands against it, at once."""

from collections.abc import Iterator, Sequence

import torch

from campaigns.errors import FieldError, field_error
from campaigns.methods import ConsensusMerge, EmrMerge, Method, per_source
from campaigns.pools import Pool
from campaigns.recipe import Recipe

PAIRS = ("slerp", "nuslerp")
"""The methods that take exactly two sources."""
SHOWN_NAMES = 5
LARGEST = torch.finfo(torch.float32).max


def recipe_errors(recipe: Recipe, pool: Pool) -> Iterator[FieldError]:
    """Yield everything that keeps `recipe` from being made of `pool`, its statistics left aside.

    Fields are as in the recipe: `recipe.sources.1`, `recipe.base`, `recipe.rules.3.method.weights`.
    """
    members = [*pool.checkpoints, *([pool.base] if pool.base else [])]
    known = {checkpoint.digest for checkpoint in members}
    allowed = ", ".join(f"{checkpoint.digest[:12]}... ({checkpoint.name})" for checkpoint in members)
    for index, digest in enumerate(recipe.sources):
        if digest not in known:
            yield field_error(f"recipe.sources.{index}", digest, "no checkpoint of this content", allowed)
    if recipe.base is not None and recipe.base not in known:
        yield field_error("recipe.base", recipe.base, "no checkpoint of this content", allowed)
    needy = [method.kind for method in recipe.methods if method.needs_base]
    if needy and recipe.base is None:
        yield field_error("recipe.base", None, f"{needy[0]} needs a base", allowed)
    if recipe.template != pool.template.digest:
        message = "not the template of this pool"
        yield field_error("recipe.template", recipe.template, message, pool.template.digest)
    yield from _method_errors("recipe.method", recipe.method, len(recipe.sources))
    for index, rule in enumerate(recipe.rules):
        yield from _method_errors(f"recipe.rules.{index}.method", rule.method, len(recipe.sources))


def idle_rules(recipe: Recipe, tensors: Sequence[str]) -> Iterator[FieldError]:
    """Yield one error for each rule that is about none of the `tensors`, which are those that are merged."""
    allowed = f"names such as {', '.join(tensors[:SHOWN_NAMES])}"
    for index, rule in enumerate(recipe.rules):
        if not any(rule.tensors.matches(name) for name in tensors):
            wanted = rule.tensors.model_dump(exclude_defaults=True)
            yield field_error(f"recipe.rules.{index}.tensors", wanted, "no tensor of this pool matches", allowed)


def _method_errors(field: str, method: Method, sources: int) -> Iterator[FieldError]:
    if method.kind in PAIRS and sources != 2:
        yield field_error(
            "recipe.sources", f"{sources} sources", f"{method.kind} takes exactly two sources", "2 sources"
        )
        return
    for name, value in per_source(method).items():
        if len(value) != sources:
            message = "there must be one entry per source"
            yield field_error(f"{field}.{name}", value, message, f"{sources} entries")
    for path, number in _numbers(field, method):
        if abs(number) > LARGEST:
            yield field_error(path, number, "the number is too large for float32", f"at most {LARGEST}")
    if isinstance(method, EmrMerge) and method.task is not None and method.task >= sources:
        yield field_error(f"{field}.task", method.task, "there is no such source", f"0 to {sources - 1}")
    if isinstance(method, ConsensusMerge) and method.agreeing > sources:
        message = "more tasks must agree than there are sources"
        yield field_error(f"{field}.agreeing", method.agreeing, message, f"0 to {sources}")


def _numbers(field: str, method: Method) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a method with their fields."""
    for name, value in method:
        if isinstance(value, tuple):
            yield from ((f"{field}.{name}.{index}", number) for index, number in enumerate(value))
        elif isinstance(value, float):
            yield f"{field}.{name}", value
