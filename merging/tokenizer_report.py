"""Whether two checkpoints give the same ids to the same words; if not, what differs."""

import json
from pathlib import Path
from typing import Any

# One of these is needed: of tokenizer_config.json alone, transformers makes a tokenizer without words.
VOCABULARY_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
)


def tokenizer_difference(path: Path, template: Path, may_add: bool = False) -> str | None:
    """Return what differs between two tokenizers, None when nothing does or one of them is not there to compare.

    With `may_add`, one of the two may have added tokens behind all tokens of the other.
    """
    for name in (*VOCABULARY_FILES, "merges.txt"):
        mine, theirs = path / name, template / name
        if not (mine.is_file() and theirs.is_file()) or mine.read_bytes() == theirs.read_bytes():
            continue
        if name != "tokenizer.json":
            return f"{mine.name} has other content"
        try:
            return _json_difference(json.loads(mine.read_bytes()), json.loads(theirs.read_bytes()), may_add)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            return f"{mine.name} that is no tokenizer, or does not compare with one ({type(error).__name__}: {error})"
    return None


def _json_difference(mine: dict[str, Any], theirs: dict[str, Any], may_add: bool) -> str | None:
    """Compare what gives tokens their ids; truncation and padding settings may differ."""
    if mine.get("model", {}).get("vocab") != theirs.get("model", {}).get("vocab"):
        return f"vocabulary with {len(mine['model']['vocab'])} entries"
    if mine.get("model", {}).get("merges") != theirs.get("model", {}).get("merges"):
        return "other merge rules"
    added = [{token["content"]: token["id"] for token in side.get("added_tokens") or []} for side in (mine, theirs)]
    if added[0] == added[1] or (may_add and _extends(added, mine["model"].get("vocab"))):
        return None
    return f"added tokens {sorted(set(added[0].items()) ^ set(added[1].items()))}"


def _extends(added: list[dict[str, int]], vocabulary: dict[str, int] | list[Any] | None) -> bool:
    """Say whether one side has all tokens of the other, and behind them some more."""
    fewer, more = sorted(added, key=len)
    words = vocabulary or {}
    last = max([*(words.values() if isinstance(words, dict) else range(len(words))), *fewer.values()], default=-1)
    return fewer.items() <= more.items() and all(number > last for token, number in more.items() if token not in fewer)
