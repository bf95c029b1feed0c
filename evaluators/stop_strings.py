"""lm-eval's stopping rule for generation, with its decoding remembered and each row's stopping step written down."""

from typing import Any

import torch
from lm_eval.models.utils_hf import MultiTokenEOSCriteria


class RememberingStop(MultiTokenEOSCriteria):  # type: ignore[misc]
    """Stops a batch once every row has shown `sequence`, exactly as lm-eval does.

    lm-eval decodes the last few tokens of every row at every step. The same few tokens come again and again, so their
    text is kept in `decoded` (token ids -> text, for one tokenizer). `stopped_at` has the number of new tokens after
    which each row first showed the sequence, or None.
    """

    def __init__(self, sequence: str, tokenizer: Any, context_tokens: int, rows: int, decoded: "Decoded") -> None:
        self.initial_decoder_input_length = context_tokens
        self.done_tracker = [False] * rows
        self.sequence = sequence
        self.sequence_id_len = decoded.length(sequence, tokenizer) + 2
        self.tokenizer = tokenizer
        self.stopped_at: list[int | None] = [None] * rows
        self._decoded = decoded

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> bool:
        """Return whether every row of `input_ids` (rows x tokens) has shown the sequence by now."""
        new_tokens = input_ids.shape[1] - self.initial_decoder_input_length
        start = max(self.initial_decoder_input_length, input_ids.shape[1] - self.sequence_id_len)
        for row, tokens in enumerate(input_ids[:, start:].tolist()):
            if not self.done_tracker[row] and self.sequence in self._decoded.text(tuple(tokens), self.tokenizer):
                self.done_tracker[row] = True
                self.stopped_at[row] = new_tokens
        return False not in self.done_tracker


class Decoded:
    """Texts of short token sequences and token counts of stop sequences, for one tokenizer."""

    MOST_TEXTS = 100_000

    def __init__(self) -> None:
        self._texts: dict[tuple[int, ...], str] = {}
        self._lengths: dict[str, int] = {}

    def text(self, tokens: tuple[int, ...], tokenizer: Any) -> str:
        """Return what lm-eval's stopping rule sees of `tokens`."""
        found = self._texts.get(tokens)
        if found is None:
            if len(self._texts) >= self.MOST_TEXTS:
                self._texts.clear()
            found = self._texts[tokens] = tokenizer.batch_decode([list(tokens)])[0]
        return found

    def length(self, sequence: str, tokenizer: Any) -> int:
        """Return how many tokens `sequence` encodes to."""
        if sequence not in self._lengths:
            self._lengths[sequence] = len(tokenizer.encode(sequence, add_special_tokens=False))
        return self._lengths[sequence]
