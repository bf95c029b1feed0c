"""A text as token sequences of one length, by the checkpoint's own tokenizer."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from campaigns.errors import InvalidInput, field_error
from merging.calibration.documents import FIELD, read_documents
from merging.calibration.settings import CalibrationSettings


def read_sequences(checkpoint: Path, texts: Path, settings: CalibrationSettings) -> torch.Tensor:
    """Return the text's first tokens, `sequences` x `sequence_length` int64.

    Documents are tokenized with the special tokens that the tokenizer adds, followed by an end-of-sequence token where
    there is one, put end to end and cut. Nothing is shuffled: text that is ordered by subject should be shuffled first.
    Only as much is read as it takes. Raises `InvalidInput` for text that is empty, too short, or wrong in a line that
    was read.
    """
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False, local_files_only=True)
    found = list(islice(_tokens(tokenizer, read_documents(texts)), settings.tokens))
    if not found:
        raise InvalidInput([field_error(FIELD, str(texts), "the text is empty", "text with at least one document")])
    if len(found) < settings.tokens:
        message = f"the text is too short: it has {len(found)} tokens"
        shape = f"{settings.sequences} sequences of {settings.sequence_length}"
        allowed = f"at least {settings.tokens} tokens ({shape}), or fewer or shorter sequences"
        raise InvalidInput([field_error(FIELD, str(texts), message, allowed)])
    return torch.tensor(found).view(settings.sequences, settings.sequence_length)


def _tokens(tokenizer: PreTrainedTokenizerBase, documents: Iterable[str]) -> Iterator[int]:
    end = tokenizer.eos_token_id
    for document in documents:
        tokens: list[int] = tokenizer(document, verbose=False).input_ids
        yield from tokens
        if end is not None and tokens[-1:] != [end]:
            yield end
