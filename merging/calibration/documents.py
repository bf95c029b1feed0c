"""The documents of a text file: paragraphs of plain text, or the "text" fields of JSON lines."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from campaigns.errors import InvalidInput, field_error

FIELD = "texts"
JSON_LINES_SUFFIXES = (".jsonl", ".ndjson", ".json")
MAX_PARAGRAPH_CHARACTERS = 1 << 20
"""A longer paragraph is cut: a file without blank lines must not be in memory as a whole."""


def text_digest(texts: Path) -> str:
    """Return the sha256 (hex) of a file. Raises `InvalidInput` when it cannot be read."""
    try:
        with texts.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        message = f"the text cannot be read ({error.strerror})"
        raise InvalidInput([field_error(FIELD, str(texts), message, "a text file, or JSON lines")]) from None


def read_documents(texts: Path) -> Iterator[str]:
    """Yield the documents of `texts` in order, those of white space alone left out; one at a time is in memory.

    A file that ends in .jsonl, .ndjson or .json has one JSON object per line, whose "text" is the document. Any other
    is UTF-8 text with blank lines between documents.
    Raises `InvalidInput` naming the line that is not what it should be, or a file that is not UTF-8.
    """
    try:
        with texts.open(encoding="utf-8-sig") as stream:
            documents = _json_lines(stream) if texts.suffix.lower() in JSON_LINES_SUFFIXES else _paragraphs(stream)
            yield from (document for document in documents if document.strip())
    except UnicodeDecodeError as error:
        message = f"the text is not UTF-8 ({error.reason})"
        raise InvalidInput([field_error(FIELD, str(texts), message, "UTF-8 text, or JSON lines")]) from None


def _paragraphs(stream: TextIO) -> Iterator[str]:
    lines: list[str] = []
    characters = 0
    while line := stream.readline(MAX_PARAGRAPH_CHARACTERS):
        if line.strip():
            lines.append(line)
            characters += len(line)
        if not line.strip() or characters >= MAX_PARAGRAPH_CHARACTERS:
            yield "".join(lines).rstrip("\n")
            lines, characters = [], 0
    yield "".join(lines).rstrip("\n")


def _json_lines(stream: TextIO) -> Iterator[str]:
    for number, line in enumerate(stream, start=1):
        if line.strip():
            yield _text_of(line, number)


def _text_of(line: str, number: int) -> str:
    allowed = 'one JSON object per line, with a string in "text"'
    try:
        entry: Any = json.loads(line)
    except ValueError as error:
        message = f"line {number} is not JSON ({error})"
        raise InvalidInput([field_error(FIELD, line.strip(), message, allowed)]) from None
    text = entry.get("text") if isinstance(entry, dict) else None
    if not isinstance(text, str):
        has = f"; it has {', '.join(map(repr, entry))}" if isinstance(entry, dict) and "text" not in entry else ""
        message = f'line {number} has no string in "text"{has}'
        raise InvalidInput([field_error(FIELD, line.strip(), message, allowed)])
    return text
