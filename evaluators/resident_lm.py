"""lm-eval's Hugging Face model around a live model: encoded and batched once, run again for every candidate."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from lm_eval import utils
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import postprocess_generated_text
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteriaList

from campaigns.errors import BadCandidate, InvalidSpec, field_error
from evaluators.generation_plan import GenerationBatch, plan_generation
from evaluators.likelihood_plan import Likelihood, LikelihoodBatch, TokenPair, plan_likelihoods
from evaluators.stop_strings import Decoded, RememberingStop


class Generation(NamedTuple):
    """What a model wrote. `tokens` counts up to the one that ended it; `truncated`: the length limit ended it."""

    text: str
    tokens: int
    truncated: bool


class ResidentLM(HFLM):  # type: ignore[misc]
    """HFLM around a model object whose weights change between evaluations.

    `plan` turns a list of lm-eval requests of one type into a function that answers them with the model's current
    weights: what `HFLM.generate_until`, `loglikelihood` and `loglikelihood_rolling` answer, to the last digit, without
    tokenizing, sorting and padding again. `model_seconds` adds up the time inside the model's forward and generate.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_size: int) -> None:
        # HFLM may give the tokenizer a padding token; the caller's stays as it is.
        super().__init__(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size)
        if self.backend != "causal":
            raise InvalidSpec([field_error("pool", self.backend, "only causal language models can be scored")])
        self.model_seconds = 0.0
        self._decoded = Decoded()

    def plan(self, request_type: str, requests: Sequence[Any]) -> Callable[[], list[Any]]:
        """Return a function without arguments that answers `requests`, in their order.

        Answers are `Generation` for generate_until, (loglikelihood, is greedy) for loglikelihood and a float, the
        loglikelihood, for loglikelihood_rolling; in nats. They raise `BadCandidate` when logits are not finite.
        """
        planners: dict[str, Callable[[Sequence[Any]], Callable[[], list[Any]]]] = {
            "generate_until": self._plan_generation,
            "loglikelihood": self._plan_likelihoods,
            "loglikelihood_rolling": self._plan_rolling,
        }
        return planners[request_type](requests)

    def _plan_generation(self, requests: Sequence[Any]) -> Callable[[], list[Generation]]:
        batches = plan_generation(requests, self)

        def answer() -> list[Generation]:
            answers = [(batch.positions, self._generate(batch)) for batch in batches]
            return _in_order(answers, len(requests))

        return answer

    def _plan_likelihoods(self, requests: Sequence[Any]) -> Callable[[], list[Likelihood]]:
        encoded = self.loglikelihood(requests, disable_tqdm=True)
        batches = plan_likelihoods([(context, continuation) for _, context, continuation in encoded], self)
        return lambda: self._score(batches, len(requests))

    def _plan_rolling(self, requests: Sequence[Any]) -> Callable[[], list[float]]:
        windows = [self._windows(*request.args) for request in requests]
        flat = [window for own in windows for window in own]
        # HFLM cuts the windows into batches in their order, and sorts within a batch only.
        cuts = [flat[start : start + self.batch_size] for start in range(0, len(flat), self.batch_size)]
        plans = [(plan_likelihoods(cut, self), len(cut)) for cut in cuts]

        def answer() -> list[float]:
            scores = iter([score for batches, size in plans for score, _ in self._score(batches, size)])
            return [sum(next(scores) for _ in own) for own in windows]

        return answer

    def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[Any]:
        """Return the encoded requests themselves: `HFLM.loglikelihood` encodes, the plan answers."""
        return requests

    def _windows(self, text: str) -> list[TokenPair]:
        windows = utils.get_rolling_token_windows(
            token_list=self.tok_encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.max_length,
            context_len=1,
        )
        return [utils.make_disjoint_window(window) for window in windows]

    def _score(self, batches: Sequence[LikelihoodBatch], size: int) -> list[Likelihood]:
        answers = []
        for batch in batches:
            with self._model_time(), torch.no_grad():
                logits = self.model(batch.inputs).logits
            answers.append((batch.positions, batch.read(logits)))
        found = _in_order(answers, size)
        # A logit that is NaN or +inf makes the softmax of its whole row NaN, so this sees every row that counts.
        if not all(math.isfinite(loglikelihood) for loglikelihood, _ in found):
            raise BadCandidate("the model's loglikelihoods are not finite")
        return found

    def _generate(self, batch: GenerationBatch) -> list[Generation]:
        rows, context_tokens = batch.context.shape
        stops = [RememberingStop(stop, self.tokenizer, context_tokens, rows, self._decoded) for stop in batch.stops]
        with self._model_time():
            written = self.model.generate(
                input_ids=batch.context,
                attention_mask=batch.attention_mask,
                max_length=batch.max_length,
                stopping_criteria=StoppingCriteriaList(stops),
                logits_processor=LogitsProcessorList([_FiniteLogits()]),
                pad_token_id=self.tokenizer.pad_token_id,
                use_cache=True,
                **_sampling(batch.settings),
            )
        return [self._read(tokens[context_tokens:], row, stops, batch) for row, tokens in enumerate(written.tolist())]

    def _read(
        self, tokens: list[int], row: int, stops: Sequence[RememberingStop], batch: GenerationBatch
    ) -> Generation:
        text = postprocess_generated_text(self.tok_decode(tokens), stop=list(batch.stops), think_end_token=None)
        ends = [stop.stopped_at[row] for stop in stops]
        ends += [tokens.index(end) + 1 for end in self._ending_tokens() if end in tokens]
        reached = [end for end in ends if end is not None]
        if reached:
            return Generation(text, min(reached), truncated=False)
        return Generation(text, len(tokens), truncated=len(tokens) >= batch.max_new_tokens)

    def _ending_tokens(self) -> list[int]:
        found = self.model.generation_config.eos_token_id
        return [] if found is None else [found] if isinstance(found, int) else list(found)

    @contextmanager
    def _model_time(self) -> Iterator[None]:
        self._synchronize()
        started = time.perf_counter()
        yield
        self._synchronize()
        self.model_seconds += time.perf_counter() - started

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class _FiniteLogits(LogitsProcessor):  # type: ignore[misc]
    """Changes nothing and stops the evaluation of a model whose next-token logits are NaN or infinite.

    Greedy decoding would take token 0 for NaN without a word. The maximum of a row is finite if and only if none of its
    logits is NaN or +inf and some are not -inf; a single -inf is legitimate: that is how tokens are forbidden.
    """

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not bool(torch.isfinite(scores.amax(dim=-1)).all()):
            raise BadCandidate("the model's logits are not finite")
        return scores


def _sampling(settings: dict[str, Any]) -> dict[str, Any]:
    """Return what `HFLM._model_generate` makes of a task's generation settings: temperature 0 means greedy."""
    adapted = {"temperature": 0.0, **settings}
    if adapted["temperature"] == 0.0 and adapted.get("do_sample") is None:
        adapted["do_sample"] = False
    if adapted.get("do_sample") is False and adapted["temperature"] == 0.0:
        del adapted["temperature"]
    return adapted


def _in_order(answers: Sequence[tuple[Sequence[int], Sequence[Any]]], size: int) -> list[Any]:
    """Return the batches' answers in the order of the requests."""
    ordered: list[Any] = [None] * size
    for positions, batch in answers:
        for position, answer in zip(positions, batch, strict=True):
            ordered[position] = answer
    return ordered
