"""The tiny zoo: its problems have right answers, its tasks ask nothing it was trained on, and what it builds loads."""

import importlib.util
import json
import random
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from campaigns.spec import parse_spec

SCRIPT = Path(__file__).parents[2] / "examples" / "tiny_zoo.py"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny_zoo", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_zoo"] = module
    spec.loader.exec_module(module)
    return module


tiny_zoo = load_script()
tiny_skills = sys.modules["tiny_skills"]
FEW = tiny_zoo.Settings(
    width=32, layers=1, batch_size=8, base_steps=3, generalist_steps=(1, 2), expert_steps=1, examples=40, documents=20
)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_zoo.build_zoo(tmp_path_factory.mktemp("tiny") / "zoo", settings=FEW)


def argument(prompt: str) -> str:
    """What stands between the skill's name and the equals sign."""
    return prompt.removesuffix("=").rpartition(" ")[2]


def is_right(skill: str, prompt: str, answer: str) -> bool:
    """Check an answer by what defines it, not by computing it the way the zoo does."""
    given_text = argument(prompt)
    if skill == "add":
        left, right = given_text.split("+")
        return int(answer) - int(left) == int(right) and len(answer) == len(left)
    if skill == "sort":
        return Counter(answer) == Counter(given_text) and all(a <= b for a, b in pairwise(answer))
    if skill == "reverse":
        return len(answer) == len(given_text) and all(answer[-1 - i] == c for i, c in enumerate(given_text))
    if skill == "max":
        numbers = [int(number) for number in given_text.split(",")]
        return int(answer) in numbers and all(int(answer) >= number for number in numbers)
    if skill == "next":
        circle = "abcdefghijklmnopqrstuvwxyza"
        return len(answer) == len(given_text) and all(a + b in circle for a, b in zip(given_text, answer, strict=True))
    assert skill == "most"
    (winner, most), *others = Counter(given_text).most_common()
    return answer == winner and all(count < most for _, count in others)


@pytest.mark.parametrize("skill", [skill for skill in tiny_zoo.SKILLS if skill != "text"])
@given(seed=st.integers(0, 2**32))
def test_answers_are_right(skill: str, seed: int) -> None:
    problem = tiny_zoo.SKILLS[skill](random.Random(seed))
    assert is_right(skill, problem.prompt, problem.answer)
    assert problem.answer in tiny_zoo.CHOICES.get(skill, [problem.answer])


@given(seed=st.integers(0, 2**32))
def test_verbs_agree_with_their_subjects(seed: int) -> None:
    problem = tiny_skills.sentence(random.Random(seed))
    words = problem.answer.split()
    singular = words[0] == "a"
    subject, verb = (words[2], words[3]) if singular else (words[1], words[2])
    assert problem.prompt == ""
    assert subject.endswith("s") != singular
    assert verb.endswith("s") == singular


@pytest.mark.parametrize("skill", tiny_zoo.SKILLS)
def test_tasks_never_ask_what_was_trained_on(skill: str) -> None:
    trained_on = set(tiny_zoo.problems(skill, 3000, seed=0, for_tasks=False))
    asked = tiny_zoo.problems(skill, 400, seed=0, for_tasks=True)
    assert len(set(asked)) == 400
    assert trained_on.isdisjoint(asked)


@pytest.mark.parametrize("skill", tiny_zoo.SKILLS)
def test_answers_fit_the_length_limit_and_the_vocabulary(skill: str) -> None:
    tokenizer = tiny_zoo.tiny_tokenizer()
    for prompt, answer in tiny_zoo.problems(skill, 200, seed=1, for_tasks=True):
        tokens = tokenizer(prompt + answer)["input_ids"]
        assert tokenizer.unk_token_id not in tokens
        assert tokenizer.decode(tokens) == prompt + answer
        assert skill == "text" or len(answer) < 8


def test_labels_hold_the_answer_and_the_end_only() -> None:
    tokenizer = tiny_zoo.tiny_tokenizer()
    corpus = tiny_zoo.Corpus(tokenizer, FEW)
    for i, skill in enumerate(tiny_zoo.SKILLS):
        examples = tiny_zoo.problems(skill, FEW.examples, FEW.seed, for_tasks=False)
        for j, (prompt, answer) in enumerate(examples):
            learned = corpus.labels[i, j][corpus.labels[i, j] >= 0]
            seen = corpus.tokens[i, j][corpus.tokens[i, j] != tokenizer.pad_token_id]
            assert tokenizer.decode(learned) == answer + "<eos>"
            assert tokenizer.decode(seen) == (prompt or "<bos>") + answer + "<eos>"


def test_batches_follow_the_mixture() -> None:
    corpus = tiny_zoo.Corpus(tiny_zoo.tiny_tokenizer(), FEW)
    sorts = {tuple(row.tolist()) for row in corpus.tokens[list(tiny_zoo.SKILLS).index("sort")]}
    tokens, labels = corpus.batch({"sort": 1.0}, 64, torch.Generator().manual_seed(0))
    assert tokens.shape == labels.shape == (64, corpus.tokens.shape[2])
    assert all(tuple(row.tolist()) in sorts for row in tokens)


def test_courses_differ_and_depend_on_the_seed_only() -> None:
    courses = tiny_zoo.Settings().courses()
    assert courses[0].name == "base"
    assert sum(course.name.startswith("generalists/") for course in courses) == 8
    assert sum(course.name.startswith("experts/") for course in courses) == 4
    generalists = courses[1:9]
    assert len({tuple(course.mixture.values()) for course in generalists}) == 8
    assert len({course.learning_rate for course in generalists}) == 8
    assert all(sum(course.mixture.values()) == pytest.approx(1.0) for course in generalists)
    assert courses == tiny_zoo.Settings().courses()
    assert courses != tiny_zoo.Settings(seed=1).courses()


def test_a_million_parameters() -> None:
    model = tiny_zoo.new_model(tiny_zoo.tiny_tokenizer(), tiny_zoo.Settings())
    assert 0.8e6 < model.num_parameters() < 1.5e6
    assert model.config.model_type == "llama"


def test_training_learns() -> None:
    settings = tiny_zoo.Settings(width=32, layers=1, batch_size=32, examples=200)
    tokenizer = tiny_zoo.tiny_tokenizer()
    corpus = tiny_zoo.Corpus(tokenizer, settings)
    model = tiny_zoo.new_model(tokenizer, settings)
    tokens, labels = corpus.batch({"text": 1.0}, 64, torch.Generator().manual_seed(7))
    before = model(input_ids=tokens, labels=labels).loss.item()
    steps: list[None] = []
    tiny_zoo.train(model, corpus, tiny_zoo.Course("c", {"text": 1.0}, 1e-2, 40), settings, lambda: steps.append(None))
    assert len(steps) == 40
    assert model(input_ids=tokens, labels=labels).loss.item() < 0.7 * before


def test_checkpoints_load_and_are_sharded(tmp_path: Path) -> None:
    settings = tiny_zoo.Settings(
        batch_size=2, base_steps=1, generalists=1, generalist_steps=(1, 1), expert_steps=1, examples=4, documents=4
    )
    zoo = tiny_zoo.build_zoo(tmp_path / "zoo", settings=settings)
    for checkpoint in [zoo / "base", zoo / "generalists" / "g1", *(zoo / "experts").iterdir()]:
        assert len(list(checkpoint.glob("model-*.safetensors"))) >= 2
        assert (checkpoint / "model.safetensors.index.json").is_file()
        model = AutoModelForCausalLM.from_pretrained(checkpoint)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        prompt = tokenizer("sort dacb=", return_tensors="pt")
        assert tokenizer.is_fast
        assert tokenizer.decode(prompt["input_ids"][0]) == "sort dacb="
        assert model.generate(**prompt, max_new_tokens=2, do_sample=False).shape[0] == 1
        assert model.config.eos_token_id == tokenizer.eos_token_id


def test_generalists_differ_from_the_base_and_one_another(zoo: Path) -> None:
    checkpoints = [zoo / "base", *(zoo / "generalists").iterdir(), *(zoo / "experts").iterdir()]
    weights = [AutoModelForCausalLM.from_pretrained(path).state_dict()["model.norm.weight"] for path in checkpoints]
    assert len(weights) == 13
    assert len({tuple(weight.tolist()) for weight in weights}) == 13


def test_the_same_settings_make_the_same_weights(zoo: Path, tmp_path: Path) -> None:
    again = tiny_zoo.build_zoo(tmp_path / "again", settings=FEW)
    for checkpoint in ("base", "generalists/g3", "experts/order"):
        for shard in (zoo / checkpoint).glob("*.safetensors"):
            assert shard.read_bytes() == (again / checkpoint / shard.name).read_bytes()


def test_an_unchanged_zoo_is_not_made_again(zoo: Path) -> None:
    calls: list[float] = []
    assert tiny_zoo.build_zoo(zoo, lambda share, name: calls.append(share), FEW) == zoo
    assert calls == []


def test_other_settings_make_it_anew_with_progress(tmp_path: Path) -> None:
    few = tiny_zoo.Settings(**{**vars(FEW), "generalists": 2})
    fewer = tiny_zoo.Settings(**{**vars(FEW), "generalists": 1})
    zoo = tiny_zoo.build_zoo(tmp_path / "zoo", settings=few)
    shares: list[float] = []
    tiny_zoo.build_zoo(zoo, lambda share, name: shares.append(share), fewer)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert [path.name for path in (zoo / "generalists").iterdir()] == ["g1"]
    assert [path.name for path in tmp_path.iterdir()] == ["zoo"]


def test_a_broken_off_build_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(share: float, name: str) -> None:
        if name.startswith("generalists"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny_zoo.build_zoo(tmp_path / "zoo", interrupt, FEW)
    assert list(tmp_path.iterdir()) == []


def test_other_peoples_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="holds no tiny zoo"):
        tiny_zoo.build_zoo(tmp_path, settings=FEW)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_threads_are_given_back(zoo: Path) -> None:
    before = torch.get_num_threads()
    with tiny_zoo.threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_the_campaign_is_valid_and_names_what_is_there(zoo: Path) -> None:
    spec = parse_spec(tiny_zoo.campaign_spec(zoo))
    assert spec.pool.names == tuple(f"g{index}" for index in range(1, 9))
    assert all(Path(checkpoint.path or "").is_dir() for checkpoint in spec.pool.checkpoints)
    for objective in spec.objectives:
        assert (zoo / "tasks" / f"{objective.task}.yaml").is_file()
    assert parse_spec(json.loads(json.dumps(tiny_zoo.campaign_spec(zoo)))) == spec


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_lm_eval_runs_every_task(zoo: Path) -> None:
    tasks = [f"tiny_{skill}" for skill in tiny_zoo.SKILLS]
    manager = TaskManager(include_path=str(zoo / "tasks"), include_defaults=False)
    assert set(tasks) <= set(manager.all_tasks)
    model = HFLM(str(zoo / "base"), device="cpu", batch_size=20)
    report = simple_evaluate(model, tasks=tasks, task_manager=manager, bootstrap_iters=0)
    metrics = {"most": "acc,none", "text": "bits_per_byte,none"}
    for skill in tiny_zoo.SKILLS:
        value = report["results"][f"tiny_{skill}"][metrics.get(skill, "exact_match,none")]
        assert 0 <= value <= (20 if skill == "text" else 1)
        assert report["n-samples"][f"tiny_{skill}"]["effective"] == FEW.documents
