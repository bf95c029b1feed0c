"""From a method for every tensor to a recipe's default method and the fewest rules that give the same."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from campaigns.methods import Method
from campaigns.recipe import Rule, TensorFilter, layer_of

Key = tuple[str, ...]


@dataclass(frozen=True)
class Assignment:
    """`method` for a tensor unless a rule matches it; the first that does counts."""

    method: Method
    rules: tuple[Rule, ...]

    def gives(self, methods: Mapping[str, Method]) -> bool:
        """Whether every tensor gets the method that `methods` has for it."""
        return all(self._method_of(name) == method for name, method in methods.items())

    def _method_of(self, tensor: str) -> Method:
        return next((rule.method for rule in self.rules if rule.tensors.matches(tensor)), self.method)


def compress(methods: Mapping[str, Method], parts: Sequence[str]) -> Assignment:
    """Return the shortest assignment found that gives every tensor its method in `methods`.

    `parts` are the strings, in order, that tensors may be told apart by, beside their layer. Raises RuntimeError when
    layers and strings cannot tell two tensors apart that have different methods.
    """
    parts = list(dict.fromkeys([*_loose_names_to_tell_apart(methods, parts), *parts]))
    kinds = {(layer_of(name), _contained(name, parts)): name for name in methods}
    few = {name: methods[name] for name in kinds.values()}  # one tensor for all that no rule can tell apart
    found = [
        Assignment(default, tuple(_without_needless(few, default, rules)))
        for rules in (_by_first_part(few, parts), _by_all_parts(few, parts))
        for default in _defaults(methods)
    ]
    right = [assignment for assignment in found if assignment.gives(methods)]
    if not right:
        raise RuntimeError("the rules that were worked out do not give every tensor its method")
    return min(right, key=lambda assignment: len(assignment.rules))


def _contained(name: str, parts: Sequence[str]) -> Key:
    return tuple(part for part in parts if part in name)


def _loose_names_to_tell_apart(methods: Mapping[str, Method], parts: Sequence[str]) -> list[str]:
    """Return the names of all tensors outside the layers if `parts` do not tell those with other methods apart."""
    loose = [name for name in methods if layer_of(name) is None]
    first: dict[Key, Method] = {}
    for name in loose:
        if first.setdefault(_contained(name, parts), methods[name]) != methods[name]:
            return loose
    return []


def _defaults(methods: Mapping[str, Method]) -> list[Method]:
    """Return the methods that may become the default: those outside the layers first, then the most frequent one."""
    every = [*methods.values()]
    distinct: list[Method] = []
    for method in [*(methods[name] for name in methods if layer_of(name) is None), max(every, key=every.count)]:
        if method not in distinct:
            distinct.append(method)
    return distinct


def _by_first_part(methods: Mapping[str, Method], parts: Sequence[str]) -> list[Rule]:
    """Return a rule for every tensor, by its layer and the first of `parts` in its name."""
    order = {part: index for index, part in enumerate(parts)}
    return _rules(methods, lambda name: _contained(name, parts)[:1], lambda key: order[key[0]] if key else len(order))


def _by_all_parts(methods: Mapping[str, Method], parts: Sequence[str]) -> list[Rule]:
    """Return a rule for every tensor, by its layer and all of `parts` in its name, those with the most parts first."""
    return _rules(methods, lambda name: _contained(name, parts), lambda key: -len(key))


def _rules(methods: Mapping[str, Method], key_of: Callable[[str], Key], order: Callable[[Key], int]) -> list[Rule]:
    keys: dict[Key, dict[int | None, Method]] = {}
    for name, method in methods.items():
        keys.setdefault(key_of(name), {})[layer_of(name)] = method
    return [rule for key in sorted(keys, key=order) for rule in _rules_of(key, keys[key])]


def _rules_of(key: Key, by_layer: Mapping[int | None, Method]) -> list[Rule]:
    """Return the rules of tensors that contain `key`: ranges of layers with one method, then what is outside them."""
    ranges: list[tuple[int, int, Method]] = []
    for layer in sorted(layer for layer in by_layer if layer is not None):
        method = by_layer[layer]
        if ranges and ranges[-1][2] == method:
            ranges[-1] = (ranges[-1][0], layer + 1, method)
        else:
            ranges.append((layer, layer + 1, method))
    outside = by_layer.get(None)
    if len(ranges) == 1 and outside in (None, ranges[0][2]):
        return [Rule(tensors=TensorFilter(contains=key), method=ranges[0][2])]
    rules = [Rule(tensors=TensorFilter(contains=key, layers=(a, b)), method=method) for a, b, method in ranges]
    return rules if outside is None else [*rules, Rule(tensors=TensorFilter(contains=key), method=outside)]


def _without_needless(methods: Mapping[str, Method], default: Method, rules: Sequence[Rule]) -> list[Rule]:
    """Leave out every rule whose tensors get the same method from what comes after it."""
    matched = [[name for name in methods if rule.tensors.matches(name)] for rule in rules]
    first: dict[str, int] = {}
    for index, names in enumerate(matched):
        for name in names:
            first.setdefault(name, index)
    later = dict.fromkeys(methods, default)
    kept: list[Rule] = []
    for index in reversed(range(len(rules))):
        rule = rules[index]
        if any(first[name] == index and later[name] != rule.method for name in matched[index]):
            kept.insert(0, rule)
            later |= dict.fromkeys(matched[index], rule.method)
    return kept
