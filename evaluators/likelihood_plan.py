"""The batches of a list of loglikelihood requests: sorted, shared and padded once, as lm-eval's HFLM would each time.

Requests whose context and continuation agree but for the last token share one row of the model's input. The numbers are
lm-eval's to the last digit: the model sees the same tensors, and each sum is taken over the same values in one piece.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lm_eval.models.utils import Collator
from lm_eval.models.utils_hf import pad_and_concat
from torch.nn import functional

from campaigns.errors import InvalidSpec, field_error

TokenPair = tuple[list[int], list[int]]
Likelihood = tuple[float, bool]


@dataclass(frozen=True)
class LikelihoodBatch:
    """Rows scored by one forward pass; `inputs` is rows x tokens, padded on the right.

    `rows`, `columns` (T) say which logits are scored. Each request takes a stretch of the N scored tokens: `stretches`
    are (start, stop) into `tokens` (N), whose logits are `scored` (N) and whose greedy rivals are `compared` (N), both
    indices into T. `positions` are the requests' places in the request list.
    """

    inputs: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    scored: torch.Tensor
    compared: torch.Tensor
    tokens: torch.Tensor
    stretches: tuple[tuple[int, int], ...]
    positions: tuple[int, ...]

    def read(self, logits: torch.Tensor) -> list[Likelihood]:
        """Return (loglikelihood in nats, is the greedy answer) per request; `logits` is rows x tokens x words."""
        if logits.device.type == "cpu":  # each row's softmax is its own: only those that are read
            chosen = functional.log_softmax(logits[self.rows, self.columns], dim=-1)
        else:  # on a GPU the order of a row's sum can depend on the row's place in memory
            chosen = functional.log_softmax(logits, dim=-1)[self.rows, self.columns]
        agrees = (chosen.argmax(dim=-1)[self.compared] == self.tokens).tolist()
        values = chosen[self.scored, self.tokens]
        if len(self.stretches) == len(agrees):
            return list(zip(values.tolist(), agrees, strict=True))
        # Clones, as lm-eval sums a tensor of its own: on a GPU the order of a sum depends on where its memory starts.
        sums = torch.stack([values[start:stop].clone().sum() for start, stop in self.stretches]).tolist()
        return [(value, all(agrees[start:stop])) for value, (start, stop) in zip(sums, self.stretches, strict=True)]


def plan_likelihoods(pairs: Sequence[TokenPair], lm: Any) -> list[LikelihoodBatch]:
    """Return the batches that `lm` (an HFLM) would run for (context, continuation) token lists, in its order."""
    order = Collator(
        [(None, context, continuation) for context, continuation in pairs],
        sort_fn=lambda request: (-len(request[1] + request[2]), tuple(request[1] + request[2])),
        group_by="contexts",
        group_fn=lambda request: request[1] + request[2][:-1],
    )
    return [_batch(chunk, order._arr_with_indices, lm) for chunk in order.get_batched(n=lm.batch_size)]


@dataclass
class _Indices:
    """The index lists of a batch while it grows; as in `LikelihoodBatch`."""

    rows: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    scored: list[int] = field(default_factory=list)
    compared: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    stretches: list[tuple[int, int]] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)

    def add_row(self, row: int, length: int, end: int) -> int:
        """Read the `length` logits before column `end` of `row`; return where they start in T."""
        first = len(self.rows)
        self.rows += [row] * length
        self.columns += range(end - length, end)
        return first

    def add_request(self, position: int, tokens: Sequence[int], first: int, length: int) -> None:
        """Score `tokens` on the row whose `length` logits start at `first` in T.

        Tokens fewer than `length` are compared from the end and scored from the start: lm-eval does so.
        """
        self.positions.append(position)
        self.stretches.append((len(self.tokens), len(self.tokens) + len(tokens)))
        self.scored += range(first, first + len(tokens))
        self.compared += range(first + length - len(tokens), first + length)
        self.tokens += tokens


def _batch(chunk: Sequence[Any], sharing: Mapping[tuple[int, ...], Sequence[Any]], lm: Any) -> LikelihoodBatch:
    inputs: list[torch.Tensor] = []
    indices = _Indices()
    for row, (_, context, continuation) in enumerate(chunk):
        _check_length(continuation, lm.max_length)
        inputs.append(torch.tensor((context + continuation)[-(lm.max_length + 1) :][:-1], dtype=torch.long))
        first = indices.add_row(row, len(continuation), len(inputs[-1]))
        for position, (_, _, tokens) in sharing[tuple(context + continuation[:-1])]:
            indices.add_request(position, tokens, first, len(continuation))
    longest = max(len(tensor) for tensor in inputs)
    return LikelihoodBatch(
        inputs=pad_and_concat(longest, inputs, padding_side="right").to(lm.device),
        rows=torch.tensor(indices.rows, device=lm.device),
        columns=torch.tensor(indices.columns, device=lm.device),
        scored=torch.tensor(indices.scored, device=lm.device),
        compared=torch.tensor(indices.compared, device=lm.device),
        tokens=torch.tensor(indices.tokens, device=lm.device),
        stretches=tuple(indices.stretches),
        positions=tuple(indices.positions),
    )


def _check_length(continuation: Sequence[int], most: int) -> None:
    if not 0 < len(continuation) <= most:
        message = "a task scores an answer that is empty or longer than the model can hold, in tokens"
        raise InvalidSpec([field_error("objectives", len(continuation), message, f"1 to {most}")])
