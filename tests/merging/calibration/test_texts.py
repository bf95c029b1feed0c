"""Texts as documents and as sequences."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from campaigns.errors import InvalidInput
from merging.calibration import CalibrationSettings
from merging.calibration.documents import MAX_PARAGRAPH_CHARACTERS, read_documents, text_digest
from merging.calibration.sequences import read_sequences

Make = Callable[..., Path]


def write(folder: Path, content: str | bytes, name: str = "texts.txt") -> Path:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def refusal(texts: Path) -> str:
    with pytest.raises(InvalidInput) as caught:
        [*read_documents(texts)]
    assert [error.field for error in caught.value.errors] == ["texts"]
    return str(caught.value)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_paragraphs_are_documents(tmp_path: Path, newline: str) -> None:
    lines = ["", "one", "still one", "", "  ", "", "two é", ""]
    assert [*read_documents(write(tmp_path, newline.join(lines)))] == ["one\nstill one", "two é"]


def test_a_file_without_blank_lines_is_cut(tmp_path: Path) -> None:
    text = "word " * MAX_PARAGRAPH_CHARACTERS
    found = [*read_documents(write(tmp_path, text))]
    assert "".join(found) == text
    assert max(map(len, found)) <= MAX_PARAGRAPH_CHARACTERS


@pytest.mark.parametrize("name", ["texts.jsonl", "texts.JSON", "texts.ndjson"])
def test_json_lines_have_texts(tmp_path: Path, name: str) -> None:
    documents = ["one\n\nstill one", "two", " "]
    lines = [json.dumps({"id": 1, "text": text}) for text in documents]
    assert [*read_documents(write(tmp_path, "\n\n".join(lines) + "\n", name))] == documents[:2]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    assert [*read_documents(write(tmp_path, "\ufeffone"))] == ["one"]
    assert [*read_documents(write(tmp_path, '\ufeff{"text": "one"}', "a.jsonl"))] == ["one"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"content": "a", "id": 1}', "line 3 has no string in \"text\"; it has 'content', 'id'"),
        ('{"text": 5}', 'line 3 has no string in "text"'),
        ('{"text": null}', 'line 3 has no string in "text"'),
        ('["text"]', 'line 3 has no string in "text"'),
        ("just words", "line 3 is not JSON"),
        ('{"text": "half', "line 3 is not JSON"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, line: str, told: str) -> None:
    found = refusal(write(tmp_path, f'{{"text": "good"}}\n\n{line}\n', "a.jsonl"))
    assert told in found
    assert 'a string in "text"' in found


def test_text_in_another_encoding(tmp_path: Path) -> None:
    assert "not UTF-8" in refusal(write(tmp_path, "é".encode("latin-1")))


def test_a_text_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.txt", tmp_path):
        with pytest.raises(InvalidInput, match="texts: the text cannot be read"):
            text_digest(path)


def test_sequences_are_the_documents_end_to_end(make_checkpoint: Make, tmp_path: Path) -> None:
    checkpoint = make_checkpoint("a")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    documents = ["the quick brown fox", "jumps over", "the lazy dog " * 20]
    expected = [token for text in documents for token in [*tokenizer(text.rstrip()).input_ids, tokenizer.eos_token_id]]
    texts = write(tmp_path, "\n\n".join(documents))
    settings = CalibrationSettings(sequences=3, sequence_length=7)
    found = read_sequences(checkpoint, texts, settings)
    assert found.shape == (3, 7)
    assert found.flatten().tolist() == expected[:21]
    lines = write(tmp_path, "\n".join(json.dumps({"text": text}) for text in documents), "a.jsonl")
    assert torch.equal(read_sequences(checkpoint, lines, settings), found)


def test_no_more_is_read_than_it_takes(make_checkpoint: Make, tmp_path: Path) -> None:
    """A wrong line far behind is not come to: reading is lazy, whatever the length of the text."""
    lines = [json.dumps({"text": "the lazy dog"})] * 2000 + ["wrong"]
    texts = write(tmp_path, "\n".join(lines), "a.jsonl")
    checkpoint = make_checkpoint("a")
    assert read_sequences(checkpoint, texts, CalibrationSettings(sequences=2, sequence_length=8)).shape == (2, 8)
    with pytest.raises(InvalidInput, match="line 2001"):
        read_sequences(checkpoint, texts, CalibrationSettings(sequences=100_000, sequence_length=8))


@pytest.mark.parametrize("content", ["", "\n \n\n"])
def test_empty_text(make_checkpoint: Make, tmp_path: Path, content: str) -> None:
    with pytest.raises(InvalidInput, match="texts: the text is empty"):
        read_sequences(make_checkpoint("a"), write(tmp_path, content), CalibrationSettings())


def test_text_that_is_too_short(make_checkpoint: Make, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="too short: it has") as caught:
        read_sequences(make_checkpoint("a"), write(tmp_path, "the dog"), CalibrationSettings(sequences=5))
    assert "at least 2560 tokens (5 sequences of 512)" in str(caught.value)
