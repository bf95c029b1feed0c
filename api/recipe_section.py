"""The recipe of a merge in words and tables: a section of its model card."""

from collections.abc import Iterator

from api.markdown import code, plain, table
from campaigns.campaign import Campaign
from campaigns.methods import Method
from campaigns.recipe import Recipe, TensorFilter
from merging.methods import METHODS

PER_SOURCE = {"weights": "weight", "densities": "density"}
RANDOM = ("dare_linear", "dare_ties", "della", "della_linear")
"""The methods whose result the recipe's seed changes."""
ALL_OTHERS = TensorFilter()


def recipe_section(campaign: Campaign, recipe: Recipe) -> str:
    """Return the section about `recipe`: methods and their parameters, parents with the digests of their content."""
    kinds = merging_kinds(recipe)
    noun = "Method" if len(kinds) == 1 else "Methods"
    facts = [] if recipe.rules else [*_settings(campaign, recipe, recipe.method)]
    facts += [f"seed {recipe.seed}"] if set(kinds) & set(RANDOM) else []
    methods = ", ".join([*map(code, kinds), *facts])
    lead = f"{noun} {methods}, stored as {code(recipe.dtype)}; recipe digest {code(recipe.digest)}."
    lines = ["## Recipe", "", lead, "", *_parents(campaign, recipe)]
    if recipe.rules:
        lines += ["", "The first row that a tensor's name fits says how it is made.", "", *_rules(campaign, recipe)]
    return "\n".join(lines)


def merging_kinds(recipe: Recipe) -> list[str]:
    """Return the methods that compute anything, in the order of the rules; the recipe's own where everything copies."""
    methods = [*(rule.method for rule in recipe.rules), recipe.method]
    kinds = dict.fromkeys(method.kind for method in methods if METHODS[method.kind].verbatim(method) is None)
    return [*kinds] or [recipe.method.kind]


def _parents(campaign: Campaign, recipe: Recipe) -> list[str]:
    """One row per source, with its numbers where all tensors have the same, and one for the base."""
    columns = {} if recipe.rules else {label: getattr(recipe.method, name, None) for name, label in PER_SOURCE.items()}
    shown = {label: values for label, values in columns.items() if values is not None}
    header = ["parent", *shown, "sha256 of its content"]
    rows = [
        [code(name), *(repr(values[index]) for values in shown.values()), code(digest)]
        for index, (name, digest) in enumerate(zip(_names(campaign, recipe), recipe.sources, strict=True))
    ]
    base = campaign.pool.base
    if recipe.base is not None and base is not None:
        rows.append([f"{code(base.name)}, the base", *("–" for _ in shown), code(base.digest)])
    if recipe.statistics:
        header.append("sha256 of its statistics")
        digests = [*map(code, recipe.statistics), *(["–"] * len(rows))]
        rows = [[*row, digest] for row, digest in zip(rows, digests, strict=False)]
    return table(header, rows)


def _rules(campaign: Campaign, recipe: Recipe) -> list[str]:
    pairs = [*((rule.tensors, rule.method) for rule in recipe.rules), (ALL_OTHERS, recipe.method)]
    rows = [[_tensors(tensors), _merge(campaign, recipe, method)] for tensors, method in pairs]
    return table(["tensors", "merge"], rows)


def _tensors(tensors: TensorFilter) -> str:
    parts = [" and ".join(map(code, tensors.contains))] if tensors.contains else []
    if tensors.layers is not None:
        first, stop = tensors.layers
        parts.append(f"layer {first}" if stop == first + 1 else f"layers {first} to {stop - 1}")
    return " in ".join(parts) or "all others"


def _merge(campaign: Campaign, recipe: Recipe, method: Method) -> str:
    """Return what a row of the rules does: a method with all its numbers, or a copy."""
    names = _names(campaign, recipe)
    copied = METHODS[method.kind].verbatim(method)
    if copied is not None:
        base = campaign.pool.base
        return f"a copy of {code(names[copied] if copied >= 0 else base.name if base else '?')}"
    numbers = [
        f"{label} {', '.join(f'{plain(name)} {value!r}' for name, value in zip(names, values, strict=True))}"
        for label in PER_SOURCE
        if (values := getattr(method, label, None)) is not None
    ]
    return "; ".join([code(method.kind), *numbers, *_settings(campaign, recipe, method)])


def _settings(campaign: Campaign, recipe: Recipe, method: Method) -> Iterator[str]:
    """Yield the parameters of a method that are not one number per source."""
    names = _names(campaign, recipe)
    for name, value in method:
        if name == "task":
            yield "the unified model" if value is None else f"the model of {code(names[value])}"
        elif name == "order" and value is not None:
            yield f"order {', '.join(plain(names[index]) for index in value)}"
        elif name not in ("kind", "order", *PER_SOURCE):
            yield f"{name} {str(value).lower() if isinstance(value, bool | str) else repr(value)}"


def _names(campaign: Campaign, recipe: Recipe) -> list[str]:
    known = {checkpoint.digest: checkpoint.name for checkpoint in campaign.pool.checkpoints}
    return [known.get(digest, "?") for digest in recipe.sources]
