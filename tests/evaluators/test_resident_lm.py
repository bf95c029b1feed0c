"""ResidentLM against the HFLM that it stands in for, in one process, on the requests that are easy to get wrong."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from campaigns.errors import BadCandidate, InvalidSpec
from evaluators.resident_lm import ResidentLM

MODEL_TOKENS = 64
PAIRS = [
    ("", "fig"),
    ("ends in spaces  ", "fig"),
    ("shared context", "a"),
    ("shared context", "b"),
    ("shared context", "abc"),
    ("shared context", "abd"),
    ("shared contexta", "bd"),  # the same row as the two above, with a shorter continuation
    ("x" * 100, "is cut from the left"),
    ("a", "b" * MODEL_TOKENS),
    ("same", "twice"),
    ("same", "twice"),
]
TEXTS = ["short", "", "word " * 50, "x" * MODEL_TOKENS, "y" * (MODEL_TOKENS + 1), "the cat sat on the mat."]
GREEDY = {"until": ["\n", "q"], "max_gen_toks": 9, "do_sample": False, "temperature": 0.0}
BRIEF = {"until": "e", "max_gen_toks": 3}
PROMPTS = [
    ("q: 1+1", GREEDY),
    ("a longer prompt than that", GREEDY),
    ("q: 1+1", BRIEF),
    ("z" * 90, GREEDY),
    ("b", BRIEF),
]


def requests(request_type: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [
        Instance(request_type=request_type, doc={}, arguments=argument, idx=0, metadata=("task", index, 1))  # type: ignore[arg-type]
        for index, argument in enumerate(arguments)
    ]


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def model(request: pytest.FixtureRequest, make_model: Callable[..., LlamaForCausalLM]) -> LlamaForCausalLM:
    return make_model(5, positions=MODEL_TOKENS).to(request.param)


def both(model: Any, tokenizer: Any, batch_size: int) -> tuple[ResidentLM, HFLM]:
    ours = ResidentLM(model, tokenizer, batch_size)
    return ours, HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_loglikelihood(batch_size: int, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    ours, theirs = both(model, tokenizer, batch_size)
    asked = requests("loglikelihood", PAIRS)
    plan = ours.plan("loglikelihood", asked)
    assert plan() == theirs.loglikelihood(asked, disable_tqdm=True)
    assert plan() == plan()


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_loglikelihood_rolling(batch_size: int, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    ours, theirs = both(model, tokenizer, batch_size)
    asked = requests("loglikelihood_rolling", [(text,) for text in TEXTS])
    answers = ours.plan("loglikelihood_rolling", asked)()
    assert answers == theirs.loglikelihood_rolling(asked, disable_tqdm=True)
    assert answers[1] == 0 and all(answer < 0 for answer in answers[2:])


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_generate_until(batch_size: int, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    ours, theirs = both(model, tokenizer, batch_size)
    asked = requests("generate_until", PROMPTS)
    plan = ours.plan("generate_until", asked)
    texts = [generation.text for generation in plan()]
    assert texts == theirs.generate_until(asked, disable_tqdm=True)
    assert len(set(texts)) > 1
    assert [generation.text for generation in plan()] == texts


def test_single_token_answers_share_one_row(
    tokenizer: PreTrainedTokenizerFast, make_model: Callable[..., LlamaForCausalLM]
) -> None:
    model = make_model(6)
    ours, theirs = both(model, tokenizer, 16)
    asked = requests("loglikelihood", [("which letter:", letter) for letter in "abcdefgh"])
    rows: list[int] = []
    handle = model.register_forward_pre_hook(lambda _, arguments: rows.append(len(arguments[0])))
    answers = ours.plan("loglikelihood", asked)()
    handle.remove()
    assert rows == [1]
    assert answers == theirs.loglikelihood(asked, disable_tqdm=True)
    assert sum(greedy for _, greedy in answers) <= 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("request_type", "argument"),
    [("loglikelihood", ("a", "b")), ("loglikelihood_rolling", ("text",)), ("generate_until", ("q:", BRIEF))],
)
def test_logits_that_are_not_finite(
    request_type: str,
    argument: tuple[Any, ...],
    value: float,
    tokenizer: PreTrainedTokenizerFast,
    make_model: Callable[..., LlamaForCausalLM],
) -> None:
    model = make_model(7)
    plan = ResidentLM(model, tokenizer, 4).plan(request_type, requests(request_type, [argument]))
    plan()
    with torch.no_grad():
        model.lm_head.weight[-1] = value  # one word of the vocabulary, that nothing asks for
    with pytest.raises(BadCandidate, match="not finite"):
        plan()


def test_a_token_at_minus_infinity_is_no_fault(
    tokenizer: PreTrainedTokenizerFast, make_model: Callable[..., LlamaForCausalLM]
) -> None:
    asked = requests("generate_until", [("q:", {**GREEDY, "suppress_tokens": [5]})])
    (generation,) = ResidentLM(make_model(7), tokenizer, 4).plan("generate_until", asked)()
    assert generation.tokens > 0


def test_counts_tokens_and_truncation_as_by_hand(
    tokenizer: PreTrainedTokenizerFast, make_model: Callable[..., LlamaForCausalLM]
) -> None:
    model = make_model(8)
    prompts = [f"q: {number}+1" for number in range(30)]
    asked = requests(
        "generate_until", [(prompt, {"until": ["\n", "q", "st"], "max_gen_toks": 10}) for prompt in prompts]
    )
    generations = ResidentLM(model, tokenizer, 1).plan("generate_until", asked)()
    for prompt, generation in zip(prompts, generations, strict=True):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        written = model.generate(ids, max_new_tokens=10, do_sample=False, pad_token_id=0)[0, ids.shape[1] :].tolist()
        lengths = [n for n in range(1, len(written) + 1) if ends(tokenizer.decode(written[:n]))]
        assert generation.tokens == (lengths[0] if lengths else 10)
        assert generation.truncated == (not lengths)
    assert {generation.truncated for generation in generations} == {True, False}


def ends(text: str) -> bool:
    return any(stop in text for stop in ("\n", "q", "st", "</s>"))


def test_time_is_counted_once_and_the_tokenizer_left_alone(
    tokenizer: PreTrainedTokenizerFast, make_model: Callable[..., LlamaForCausalLM]
) -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, bos_token="<s>", eos_token="</s>")
    lm = ResidentLM(make_model(9), bare, 4)
    assert bare.pad_token is None and lm.tokenizer.pad_token is not None
    assert lm.model_seconds == 0
    plan = lm.plan("generate_until", requests("generate_until", PROMPTS))
    assert lm.model_seconds == 0
    calls: list[float] = []
    lm.model.register_forward_hook(lambda *_: calls.append(lm.model_seconds))
    plan()
    assert lm.model_seconds > 0
    assert len(set(calls)) <= 3, "seconds are added at the end of each of three generate calls, not in each forward"


def test_requests_that_do_not_fit_the_model(
    tokenizer: PreTrainedTokenizerFast, make_model: Callable[..., LlamaForCausalLM]
) -> None:
    lm = ResidentLM(make_model(5, positions=MODEL_TOKENS), tokenizer, 4)
    with pytest.raises(InvalidSpec, match="max_gen_toks below 64"):
        lm.plan("generate_until", requests("generate_until", [("q", {"until": ["a"], "max_gen_toks": 64})]))
    with pytest.raises(InvalidSpec, match="1 to 64"):
        lm.plan("loglikelihood", requests("loglikelihood", [("q", "a" * 65)]))
