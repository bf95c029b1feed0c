"""Writing a recipe as a mergekit document that makes the same merge there."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from campaigns.errors import FieldError, InvalidInput, field_error
from campaigns.mergekit.merge import EMBEDDING
from campaigns.mergekit.methods import METHODS
from campaigns.mergekit.parsing import parse_mergekit
from campaigns.mergekit.settings import Value
from campaigns.mergekit.terms import RANDOM, inexpressible, terms_of
from campaigns.mergekit.yaml_text import Node, yaml_text
from campaigns.methods import KarcherMerge, LinearMerge, Method
from campaigns.pools import Checkpoint, Pool
from campaigns.recipe import Recipe, layer_of

ANY_TENSOR = ("lm_head.weight",)
Choices = list[tuple[str | None, Method]]
"""Methods by the string that a tensor's name contains, the first that does counts; None: every tensor."""


@dataclass(frozen=True)
class Segment:
    """The layers [first, stop), or all where `layers` is None, and what their tensors get."""

    layers: tuple[int, int] | None
    choices: Choices


def export(recipe: Recipe, pool: Pool, tensors: Iterable[str] = ()) -> str:
    """Return mergekit's YAML for `recipe` over `pool`; `tensors` are the merge's tensors' names.

    The names are needed only where the recipe has rules; without them such a recipe is a ValueError. Raises
    `InvalidInput` naming everything in the recipe that mergekit has no words for.
    """
    names = [*tensors]
    if recipe.rules and not names:
        raise ValueError("a recipe with rules needs the names of the tensors")
    errors = [*_errors(recipe, pool)]
    if errors:
        raise InvalidInput(errors)
    document = _document(recipe, pool, _segments(recipe, names))
    _check(recipe, pool, document, names or ANY_TENSOR)
    return "".join(f"# {line}\n" for line in _comments(recipe, pool, document)) + yaml_text(document)


def _errors(recipe: Recipe, pool: Pool) -> Iterator[FieldError]:
    kind = recipe.method.kind
    yield from inexpressible(recipe.method, "recipe.method")
    for index, rule in enumerate(recipe.rules):
        field = f"recipe.rules.{index}"
        if rule.method.kind != kind:
            message = "mergekit merges all tensors by one method"
            yield field_error(f"{field}.method.kind", rule.method.kind, message, kind)
        else:
            yield from inexpressible(rule.method, f"{field}.method")
        if len(rule.tensors.contains) > 1:
            message = "a filter of mergekit looks for one string"
            yield field_error(f"{field}.tensors.contains", rule.tensors.contains, message, "at most one string")
    for index, digest in enumerate(recipe.sources):
        if digest in (*recipe.sources[:index], recipe.base):
            yield field_error(f"recipe.sources.{index}", digest, "mergekit takes every model once")
    if pool.embeddings != "refuse":
        message = "mergekit has no such rule for vocabularies of different sizes"
        yield field_error("pool.embeddings", pool.embeddings, message, "refuse")


def _segments(recipe: Recipe, names: Sequence[str]) -> list[Segment]:
    """Cut the layers where a rule begins or ends, and list what counts in each part, in the order of the rules."""
    count = max((layer for name in names if (layer := layer_of(name)) is not None), default=-1) + 1
    ends = {end for rule in recipe.rules if rule.tensors.layers for end in rule.tensors.layers if 0 < end < count}
    loose = [name for name in names if layer_of(name) is None]
    if not ends:
        return [Segment(None, _with_loose(_choices(recipe, 0, count), recipe, loose))]
    cuts = [0, *sorted(ends), count]
    segments = []
    for first, stop in pairwise(cuts):
        own = [name for name in loose if (first == 0 if EMBEDDING.search(name) else stop == count)]
        segments.append(Segment((first, stop), _with_loose(_choices(recipe, first, stop), recipe, own)))
    return segments


def _choices(recipe: Recipe, first: int, stop: int) -> Choices:
    choices: Choices = []
    for rule in recipe.rules:
        layers = rule.tensors.layers
        if layers is None or (layers[0] <= first and stop <= layers[1]):
            choices.append((rule.tensors.contains[0] if rule.tensors.contains else None, rule.method))
    choices.append((None, recipe.method))
    end = next(index for index, (part, _) in enumerate(choices) if part is None)
    return choices[: end + 1]


def _with_loose(choices: Choices, recipe: Recipe, loose: Sequence[str]) -> Choices:
    """Put tensors outside the layers, which mergekit counts to the first or last slice, first where they differ."""
    own: Choices = []
    for name in loose:
        found = next(method for part, method in choices if part is None or part in name)
        if found != recipe.method_of(name):
            own.append((name, recipe.method_of(name)))
    return [*own, *choices]


def _document(recipe: Recipe, pool: Pool, segments: Sequence[Segment]) -> dict[str, Node]:
    kind = recipe.method.kind
    paths = [_path(digest, pool) for digest in recipe.sources]
    base = _base(recipe, pool)
    shared = [_shared(segment.choices) for segment in segments]
    common = {name: setting for name, setting in shared[0].items() if all(s[name] == setting for s in shared)}
    document: dict[str, Node] = {"merge_method": kind}
    if base is not None:
        document["base_model"] = base
    if segments[0].layers is None:
        document["models"] = list(_entries(kind, paths, base, segments[0]))
    else:
        document["slices"] = [
            _slice(_entries(kind, paths, base, segment), segment, {n: s for n, s in own.items() if n not in common})
            for segment, own in zip(segments, shared, strict=True)
        ]
    if common:
        document["parameters"] = common
    # float32 is what our merges are computed in
    return {**document, "dtype": "float32", "out_dtype": recipe.dtype}


def _slice(entries: Iterable[dict[str, Node]], segment: Segment, own: dict[str, Node]) -> dict[str, Node]:
    sources: list[Node] = [*entries]
    return {"sources": sources, "parameters": own} if own else {"sources": sources}


def _entries(kind: str, paths: Sequence[str], base: str | None, segment: Segment) -> Iterator[dict[str, Node]]:
    """Yield an entry per source, and one for the base where mergekit wants it listed."""
    layers: dict[str, Node] = {"layer_range": list(segment.layers)} if segment.layers else {}
    terms = [(part, terms_of(method).per_source) for part, method in segment.choices]
    for index, path in enumerate(paths):
        values = {name: _setting([(part, term[name][index]) for part, term in terms]) for name in terms[0][1]}
        parameters: dict[str, Node] = {"parameters": values} if values else {}
        yield {"model": path, **layers, **parameters}
    if base is not None and base not in paths:
        if METHODS[kind].base == "input":
            yield {"model": base, **layers, "parameters": {"weight": 0.0}}
        elif segment.layers:
            yield {"model": base, **layers}


def _shared(choices: Choices) -> dict[str, Node]:
    terms = [(part, terms_of(method).shared) for part, method in choices]
    return {name: _setting([(part, term[name]) for part, term in terms]) for name in terms[0][1]}


def _setting(values: Sequence[tuple[str | None, Value]]) -> Node:
    """Return filters, or one value where all are equal; filters that say what comes after them anyway are left out."""
    kept = [values[-1]]
    for part, value in reversed(values[:-1]):
        if len(kept) > 1 or value != kept[0][1]:
            kept.insert(0, (part, value))
    if len(kept) == 1:
        return kept[0][1]
    return [{"value": value} if part is None else {"filter": part, "value": value} for part, value in kept]


def _base(recipe: Recipe, pool: Pool) -> str | None:
    """Return the base_model: the base, slerp's first model, or where a base is just an input, the template."""
    role = METHODS[recipe.method.kind].base
    if role == "first":
        return _path(recipe.sources[0], pool)
    if role in ("optional", "required"):
        return None if recipe.base is None else _path(recipe.base, pool)
    is_free = recipe.method.kind == "linear"  # another method would count a template of no weight among its models
    return _path(recipe.template, pool) if is_free or recipe.template in recipe.sources else None


def _path(digest: str, pool: Pool) -> str:
    checkpoints = _by_digest(pool)
    if digest not in checkpoints:
        raise InvalidInput([field_error("recipe.sources", digest, "no checkpoint of the pool has this content")])
    found = checkpoints[digest]
    is_adapter = found.merged_file is not None and pool.base is not None
    return f"{pool.base.path}+{found.path}" if is_adapter and pool.base is not None else found.path


def _by_digest(pool: Pool) -> dict[str, Checkpoint]:
    every = (*pool.checkpoints, *((pool.base,) if pool.base else ()))
    return {checkpoint.digest: checkpoint for checkpoint in reversed(every)}


def _comments(recipe: Recipe, pool: Pool, document: Mapping[str, Node]) -> Iterator[str]:
    yield f"Mergefront recipe {recipe.digest}"
    if recipe.method.kind in RANDOM:
        yield f"seed {recipe.seed}: mergekit keeps none in its files, and its masks differ from ours at any seed"
    template = _path(recipe.template, pool)
    if template != document.get("base_model", _path(recipe.sources[0], pool)):
        yield f"configuration and tokenizer are those of {template}; mergekit takes them from another model"


def _check(recipe: Recipe, pool: Pool, document: Mapping[str, Node], names: Sequence[str]) -> None:
    """Read the document back, and refuse it unless every tensor gets the method that the recipe gives it."""
    paths = {checkpoint.path for checkpoint in _by_digest(pool).values()}
    merge = parse_mergekit(document, lambda path: path if path in paths else None)
    listed = len(merge.models) - len(recipe.sources)
    for name, method in merge.methods(names).items():
        if method != _canonical(recipe.method_of(name), listed):
            message = f"mergekit's filters and slices cannot tell {name} apart"
            raise InvalidInput([field_error("recipe.rules", recipe.method_of(name), message)])


def _canonical(method: Method, listed: int) -> Method:
    """Return the method as it is read back: karcher's weights sum to one, linear has one for each template `listed`."""
    if isinstance(method, KarcherMerge):
        return method.replace(weights=(1 / len(method.weights),) * len(method.weights))
    return method.replace(weights=(*method.weights, *[0.0] * listed)) if isinstance(method, LinearMerge) else method
