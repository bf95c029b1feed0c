"""The tiny zoo: a family of 1M-parameter Llamas that trade skills off, and lm-eval tasks that measure them.

    python examples/tiny_zoo.py DIRECTORY

A base model learns a mixture of string skills from scratch. Eight generalists and four experts continue it on other
mixtures, with other learning rates and lengths, so each is better at something and worse at something else: what
checkpoints of a real post-training effort look like, in two minutes on two cores.

    DIRECTORY/base, generalists/*, experts/*     checkpoints: sharded safetensors, tokenizer, configuration
    DIRECTORY/tasks/*.yaml, *.jsonl              lm-eval tasks: `lm_eval --include_path DIRECTORY/tasks`
    DIRECTORY/zoo.json                           what made it; while that is unchanged, the zoo is not made again
"""

import argparse
import copy
import hashlib
import itertools
import json
import math
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from string import ascii_lowercase, digits
from typing import Any
from zlib import crc32

import torch
import transformers
import yaml
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from tokenizers import Tokenizer, decoders, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).parent))  # for whoever loads this file by its path
from tiny_skills import CHOICES, SKILLS, problems

Progress = Callable[[float, str], None]
"""Told the share of the work that is done, in [0, 1], and what is being made."""


BASE_MIXTURE = {"add": 1.2, "sort": 1.2, "reverse": 1.0, "max": 1.5, "next": 0.6, "most": 0.4, "text": 0.4}
EXPERTS = {"numbers": ("add", "max"), "order": ("sort", "reverse"), "letters": ("next", "most"), "language": ("text",)}
"""The skills that each expert goes on learning."""


@dataclass(frozen=True)
class Course:
    """A training run: how much of each skill, at which peak learning rate, for how many steps."""

    name: str
    mixture: Mapping[str, float]
    learning_rate: float
    steps: int


@dataclass(frozen=True)
class Settings:
    """Everything that determines a zoo, beside this file."""

    seed: int = 0
    width: int = 160
    layers: int = 3
    batch_size: int = 96
    base_steps: int = 350
    base_learning_rate: float = 3e-3
    generalists: int = 8
    generalist_steps: tuple[int, int] = (40, 60)
    generalist_learning_rates: tuple[float, float] = (1e-3, 2.5e-3)
    concentration: float = 0.25
    emphasis: float = 1.5
    expert_steps: int = 20
    examples: int = 8000
    documents: int = 800
    threads: int = 2

    def courses(self) -> list[Course]:
        """Return the base's course, then the generalists' and the experts'."""
        return [
            Course("base", BASE_MIXTURE, self.base_learning_rate, self.base_steps),
            *(self._generalist(index) for index in range(self.generalists)),
            *(
                Course(f"experts/{name}", dict.fromkeys(skills, 1.0), 1e-3, self.expert_steps)
                for name, skills in EXPERTS.items()
            ),
        ]

    def _generalist(self, index: int) -> Course:
        """Draw a learning rate, a length and a mixture: Dirichlet, with more of one skill than of the others."""
        draw = random.Random(f"{self.seed}/{index}")
        shares = {skill: draw.gammavariate(self.concentration, 1.0) for skill in SKILLS}
        shares[list(SKILLS)[index % len(SKILLS)]] += draw.gammavariate(self.emphasis, 1.0)
        total = math.fsum(shares.values())
        low, high = self.generalist_learning_rates
        learning_rate = low * (high / low) ** draw.random()
        mixture = {skill: share / total for skill, share in shares.items()}
        return Course(f"generalists/g{index + 1}", mixture, learning_rate, draw.randint(*self.generalist_steps))


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a fast tokenizer with one token for each character. It adds no special tokens by itself."""
    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    vocabulary = {token: index for index, token in enumerate([*special, *ascii_lowercase, *digits, *" +=,"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    named = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", **named)


class Corpus:
    """Training examples of every skill as tensors.

    `tokens` and `labels` are `skills x examples x length` (int64), padded on the right. Labels hold the answers and the
    end; prompts are not learned, for their letters are random.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, settings: Settings) -> None:
        rows = [self._rows(tokenizer, skill, settings) for skill in SKILLS]
        length = max(len(tokens) for skill in rows for tokens, _ in skill)
        self.tokens = torch.full((len(rows), settings.examples, length), tokenizer.pad_token_id)
        self.labels = torch.full_like(self.tokens, -100)
        for i, skill in enumerate(rows):
            for j, (tokens, prompt_length) in enumerate(skill):
                self.tokens[i, j, : len(tokens)] = torch.tensor(tokens)
                self.labels[i, j, prompt_length : len(tokens)] = self.tokens[i, j, prompt_length : len(tokens)]

    @staticmethod
    def _rows(tokenizer: PreTrainedTokenizerFast, skill: str, settings: Settings) -> list[tuple[list[int], int]]:
        examples = problems(skill, settings.examples, settings.seed, for_tasks=False)
        texts = [f"{prompt or '<bos>'}{answer}<eos>" for prompt, answer in examples]
        encoded = tokenizer(texts)["input_ids"]
        return [(tokens, max(1, len(prompt))) for tokens, (prompt, _) in zip(encoded, examples, strict=True)]

    def batch(self, mixture: Mapping[str, float], size: int, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        """Draw tokens and labels, each `size x length`, skills in the proportions of `mixture`."""
        shares = torch.tensor([mixture.get(skill, 0.0) for skill in SKILLS], dtype=torch.float32)
        skills = torch.multinomial(shares, size, replacement=True, generator=generator)
        rows = torch.randint(self.tokens.shape[1], (size,), generator=generator)
        return self.tokens[skills, rows], self.labels[skills, rows]


def train(
    model: LlamaForCausalLM, corpus: Corpus, course: Course, settings: Settings, after_step: Callable[[], None]
) -> LlamaForCausalLM:
    """Train `model` in place on `course` with AdamW and one learning-rate cycle, and return it."""
    generator = torch.Generator().manual_seed(crc32(f"{settings.seed}/{course.name}".encode()))
    optimizer = torch.optim.AdamW(model.parameters(), lr=course.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, course.learning_rate, total_steps=course.steps + 1)
    model.train()
    for _ in range(course.steps):
        tokens, labels = corpus.batch(course.mixture, settings.batch_size, generator)
        model(input_ids=tokens, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        cycle.step()
        after_step()
    return model.eval()


def new_model(tokenizer: PreTrainedTokenizerFast, settings: Settings) -> LlamaForCausalLM:
    """Return an untrained Llama of about a million parameters."""
    torch.manual_seed(settings.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.width,
        intermediate_size=512,
        num_hidden_layers=settings.layers,
        num_attention_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def train_all(directory: Path, settings: Settings, progress: Progress) -> None:
    """Train every checkpoint and save it under `directory`."""
    tokenizer = tiny_tokenizer()
    corpus = Corpus(tokenizer, settings)
    courses = settings.courses()
    steps = itertools.count(1)
    total = sum(course.steps for course in courses)
    base = new_model(tokenizer, settings)

    def advance(name: str) -> None:
        progress(next(steps) / total, name)

    for course in courses:
        model = base if course.name == "base" else copy.deepcopy(base)
        train(model, corpus, course, settings, partial(advance, course.name))
        model.save_pretrained(directory / course.name, max_shard_size="2MB")
        tokenizer.save_pretrained(directory / course.name)


def task_config(skill: str, documents: Path) -> dict[str, Any]:
    """Return the lm-eval configuration of the task `tiny_<skill>` over a JSONL file."""
    config: dict[str, Any] = {
        "task": f"tiny_{skill}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": str(documents)},
        "test_split": "train",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "metadata": {"version": 1.0},
    }
    if skill in CHOICES:
        metric = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}
        kind: dict[str, Any] = {"output_type": "multiple_choice", "doc_to_choice": CHOICES[skill]}
    elif skill == "text":
        metric = {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}
        kind = {"output_type": "loglikelihood_rolling", "doc_to_text": ""}
    else:
        metric = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
        generation = {"until": ["<eos>"], "max_gen_toks": 8, "do_sample": False}
        kind = {"output_type": "generate_until", "generation_kwargs": generation}
    return {**config, **kind, "metric_list": [metric]}


def write_tasks(directory: Path, home: Path, settings: Settings) -> None:
    """Write a task per skill into `directory`, for use at `home`: lm-eval needs absolute paths of documents."""
    directory.mkdir(parents=True)
    for skill in SKILLS:
        asked = problems(skill, settings.documents, settings.seed, for_tasks=True)
        lines = [json.dumps(problem._asdict()) + "\n" for problem in asked]
        (directory / f"{skill}.jsonl").write_text("".join(lines))
        config = task_config(skill, home / f"{skill}.jsonl")
        (directory / f"tiny_{skill}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads: more are slower for models this small, and may round differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing a bar for every checkpoint it saves."""
    drawn = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            transformers.utils.logging.enable_progress_bar()


def manifest(directory: Path, settings: Settings) -> dict[str, Any]:
    """Return what determines the zoo at `directory`; an equal manifest means an equal zoo."""
    scripts = [Path(__file__), Path(__file__).with_name("tiny_skills.py")]
    return {
        "scripts_sha256": hashlib.sha256(b"".join(script.read_bytes() for script in scripts)).hexdigest(),
        "settings": json.loads(json.dumps(asdict(settings))),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "directory": str(directory),
        "courses": [asdict(course) for course in settings.courses()],
    }


def build_zoo(directory: Path, progress: Progress | None = None, settings: Settings | None = None) -> Path:
    """Make the zoo at `directory` unless it is there already, and return its absolute path.

    It appears at once and complete, or not at all. Raises FileExistsError when `directory` holds something else.
    """
    directory, settings = directory.resolve(), settings or Settings()
    wanted = manifest(directory, settings)
    note = directory / "zoo.json"
    if note.is_file() and json.loads(note.read_text()) == wanted:
        return directory
    if directory.exists() and not note.is_file() and any(directory.iterdir()):
        raise FileExistsError(f"{directory} is not empty and holds no tiny zoo")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as temporary:
        built = Path(temporary) / "zoo"
        with threads(settings.threads), no_progress_bars():
            train_all(built, settings, progress or (lambda share, name: None))
        write_tasks(built / "tasks", directory / "tasks", settings)
        (built / "zoo.json").write_text(json.dumps(wanted, indent=2) + "\n")
        if directory.exists():
            shutil.rmtree(directory)
        built.rename(directory)
    return directory


def campaign_spec(zoo: Path) -> dict[str, Any]:
    """Return the campaign that searches linear merges of the zoo's generalists."""
    generalists = sorted((zoo / "generalists").iterdir())
    return {
        "name": "Tiny zoo: merge eight generalists",
        "notes": "The macro-average is over accuracies; bits per byte do not add up with them and weigh nothing.",
        "pool": {"checkpoints": [{"name": path.name, "path": str(path)} for path in generalists]},
        "space": {"kind": "linear", "normalize": "sum"},
        "objectives": [
            {"task": "tiny_max", "metric": "exact_match"},
            {"task": "tiny_most", "metric": "acc"},
            {"task": "tiny_sort", "metric": "exact_match"},
            {"task": "tiny_reverse", "metric": "exact_match"},
            {"task": "tiny_text", "metric": "bits_per_byte", "weight": 0},
        ],
        "evaluation": {"search_items": 200, "holdout_items": 600, "batch_size": 100},
        "budget": {"evaluations": 96},
        "resources": {"actors": 2},
    }


def main() -> None:
    """Make the zoo in the directory named on the command line, with a progress bar."""
    parser = argparse.ArgumentParser(description="Make the tiny zoo, in at most two minutes on two cores.")
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    columns = (TextColumn("{task.description:16}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with RichProgress(*columns) as bar:
        task = bar.add_task("tiny zoo", total=1.0)
        zoo = build_zoo(arguments.directory, lambda share, name: bar.update(task, completed=share, description=name))
        bar.update(task, completed=1.0, description="tiny zoo")
    print(f"The zoo is in {zoo}. Its tasks: lm_eval --include_path {zoo / 'tasks'} --tasks tiny_sort ...")


if __name__ == "__main__":
    main()
