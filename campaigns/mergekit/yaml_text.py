"""Writing YAML for people: plain scalars where they are safe, numbers on one line, two spaces per level."""

import json
import re
from collections.abc import Iterator, Mapping

PLAIN = re.compile(r"[A-Za-z_/.][A-Za-z0-9_/.+@-]*")
WORDS = ("true", "false", "yes", "no", "on", "off", "null", "y", "n")
"""What YAML 1.1 takes for something else than a string."""

Node = Mapping[str, "Node"] | list["Node"] | str | float | bool


def yaml_text(document: Mapping[str, Node]) -> str:
    """Return `document` as YAML 1.1, keys in their order."""
    return "".join(f"{line}\n" for line in _mapping(document, ""))


def _mapping(node: Mapping[str, Node], indent: str) -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from _mapping(value, f"{indent}  ")
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            yield f"{indent}{key}:"
            yield from _items(value, f"{indent}  ")
        else:
            yield f"{indent}{key}: {_flow(value)}"


def _items(node: list[Node], indent: str) -> Iterator[str]:
    for item in node:
        lines = list(_mapping(item, f"{indent}  ")) if isinstance(item, Mapping) else [f"{indent}  {_flow(item)}"]
        yield f"{indent}- {lines[0].lstrip()}"
        yield from lines[1:]


def _flow(node: Node) -> str:
    if isinstance(node, list):
        return f"[{', '.join(map(_flow, node))}]"
    if isinstance(node, str):
        is_plain = PLAIN.fullmatch(node) and node.lower() not in WORDS and not node.startswith(("..", ".inf", ".nan"))
        return node if is_plain else json.dumps(node, ensure_ascii=False)
    if isinstance(node, float):
        mantissa, exponent, power = repr(node).partition("e")  # YAML 1.1 wants a point in what has an exponent
        return repr(node) if "." in mantissa or not exponent else f"{mantissa}.0e{power}"
    return json.dumps(node)
