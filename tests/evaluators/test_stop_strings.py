import random

import pytest
import torch
from lm_eval.models.utils_hf import MultiTokenEOSCriteria
from transformers import PreTrainedTokenizerFast

from evaluators.stop_strings import Decoded, RememberingStop


@pytest.mark.parametrize("sequence", ["a", "ab", "</s>", "\n\n", ""])
def test_stops_where_lm_eval_stops(sequence: str, tokenizer: PreTrainedTokenizerFast) -> None:
    draw = random.Random(7)
    letters = tokenizer.convert_tokens_to_ids(["a", "b", "\n", "</s>", "c"])
    decoded = Decoded()
    for context in (0, 3):
        rows = torch.tensor([[draw.choice(letters) for _ in range(context + 20)] for _ in range(5)])
        ours = RememberingStop(sequence, tokenizer, context, len(rows), decoded)
        theirs = MultiTokenEOSCriteria(sequence, tokenizer, context, len(rows))
        for step in range(context + 1, rows.shape[1] + 1):
            assert ours(rows[:, :step], None) == theirs(rows[:, :step], None)
            assert ours.done_tracker == theirs.done_tracker
            assert [at is not None for at in ours.stopped_at] == theirs.done_tracker


def test_writes_down_the_step(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = torch.tensor(tokenizer.convert_tokens_to_ids(list("xxaabxxx")))
    stop = RememberingStop("ab", tokenizer, 2, 1, Decoded())
    answers = [stop(ids[None, :step], None) for step in range(3, 9)]
    assert answers == [False, False, True, True, True, True]
    assert stop.stopped_at == [3]


def test_memory_is_bounded(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Decoded, "MOST_TEXTS", 10)
    decoded = Decoded()
    for token in range(4, 40):
        assert decoded.text((token,), tokenizer) == tokenizer.decode([token])
        assert len(decoded._texts) <= 10
