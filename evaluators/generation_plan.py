"""The batches of a list of generation requests: sorted, encoded and padded once, as lm-eval's HFLM would each time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.models.utils import Collator, handle_stop_sequences, normalize_gen_kwargs

from campaigns.errors import InvalidSpec, field_error


@dataclass(frozen=True)
class GenerationBatch:
    """Prompts generated together. `context` and `attention_mask` are rows x tokens, padded on the left.

    `positions` are the rows' places in the request list; `max_length` counts prompt and new tokens, `max_new_tokens`
    the latter alone; `stops` are the stop sequences, the end-of-text token's included.
    """

    positions: tuple[int, ...]
    context: torch.Tensor
    attention_mask: torch.Tensor
    stops: tuple[str, ...]
    max_length: int
    max_new_tokens: int
    settings: dict[str, Any]


def plan_generation(requests: Sequence[Any], lm: Any) -> list[GenerationBatch]:
    """Return the batches that `lm` (an HFLM) would run for `requests`, in its order."""
    arguments = [request.args for request in requests]

    def longest_first(argument: tuple[str, dict[str, Any]]) -> tuple[int, str]:
        return -len(lm.tok_encode(argument[0])), argument[0]

    order = Collator(arguments, sort_fn=longest_first, group_by="gen_kwargs", group_fn=lambda argument: argument[1])
    chunks = list(order.get_batched(n=lm.batch_size))
    places = iter(order._reorder_indices)
    return [_batch(chunk, tuple(next(places) for _ in chunk), lm) for chunk in chunks]


def _batch(chunk: Sequence[tuple[str, dict[str, Any]]], positions: tuple[int, ...], lm: Any) -> GenerationBatch:
    settings = dict(normalize_gen_kwargs(chunk[0][1], lm.max_gen_toks))
    end_of_text = lm.tok_decode(lm.eot_token_id, skip_special_tokens=False)
    stops = handle_stop_sequences(settings.pop("until", None), eos=end_of_text)
    max_new_tokens = settings.pop("max_gen_toks")
    room = lm.max_length - max_new_tokens
    if room <= 0:
        message = "a task generates as many tokens as the model can hold, prompt included"
        raise InvalidSpec([field_error("objectives", max_new_tokens, message, f"max_gen_toks below {lm.max_length}")])
    prompts = [prompt for prompt, _ in chunk]
    context, mask = lm.tok_batch_encode(prompts, left_truncate_len=room, truncation=lm.truncation)
    max_length = settings.pop("max_length", context.shape[1] + max_new_tokens)
    return GenerationBatch(
        positions=positions,
        context=context.to(lm.device),
        attention_mask=mask.to(lm.device),
        stops=tuple(stops),
        max_length=max_length,
        max_new_tokens=max_length - context.shape[1],
        settings=settings,
    )
