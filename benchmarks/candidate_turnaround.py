"""How long one candidate takes: Mergefront's live model beside the plain way, in one run.

    python benchmarks/candidate_turnaround.py ZOO [--candidates 12] [--json FILE]

The plain way is what a script does: write the merge to disk, build a new `HFLM` on it, call `simple_evaluate`. Both
ways score the same random recipes of the demo's campaign on the same items with one thread, in turn, and must agree on
every value. ZOO is a tiny zoo, such as `demo-output/zoo`; `make demo` leaves one.
"""

import argparse
import importlib.util
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import numpy as np
import torch

from campaigns.inventory import Inventory, resolve
from campaigns.spec import parse_spec
from evaluators.inventory import offered_tasks
from merging.image import MergedModel
from merging.pool_files import PoolFiles
from merging.pool_report import inspect_pool
from optimizer.candidate_evaluator import CandidateEvaluator, evaluation_setup
from optimizer.jobs import Job
from search_spaces import build_space

SCRIPT = Path(__file__).parents[1] / "examples" / "tiny_zoo.py"


def demo_spec(zoo):
    specification = importlib.util.spec_from_file_location("tiny_zoo", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    sys.modules["tiny_zoo"] = module
    specification.loader.exec_module(module)
    spec = parse_spec(module.campaign_spec(zoo))
    tasks = offered_tasks([zoo / "tasks"])
    return resolve(spec, Inventory(tasks=tasks, methods=(spec.space.kind,), strategies=(spec.strategy.kind,)))


def plain_way(files, recipe, spec, zoo, samples):
    """Merge to disk, load, evaluate; return seconds and values by objective."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "merge"
        MergedModel(files, recipe).write_directory(directory)
        model = HFLM(pretrained=str(directory), device="cpu", dtype="float32", batch_size=spec.evaluation.batch_size)
        found = simple_evaluate(
            model,
            tasks=list(samples),
            task_manager=TaskManager(include_path=str(zoo / "tasks")),
            samples=samples,
            log_samples=False,
        )
    seconds = time.perf_counter() - started
    results = found["results"]
    return seconds, {o.name: results[o.task][f"{o.metric},{o.filter}"] for o in spec.objectives}


def live_way(evaluator, recipe):
    """Merge into the live model, evaluate; return seconds, timing, values and item ids by objective."""
    started = time.perf_counter()
    outcome = evaluator.evaluate(Job(trial_id="benchmark", recipe=recipe, split="search")).outcome
    seconds = time.perf_counter() - started
    evaluated = outcome.evaluated
    return seconds, evaluated.timing, {m.objective: m for m in evaluated.measurements}


def main():
    parser = argparse.ArgumentParser(description="Mergefront's candidate turnaround beside the plain way.")
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--candidates", type=int, default=12)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    zoo = arguments.zoo.resolve()
    spec = demo_spec(zoo)
    with tempfile.TemporaryDirectory() as cache:
        pool = inspect_pool(spec.pool, [zoo], [], Path(cache))
    files = PoolFiles(pool)
    evaluator = CandidateEvaluator(evaluation_setup(spec, pool, (str(zoo / "tasks"),)))
    space = build_space(spec, pool)
    points = np.random.default_rng(0).random((arguments.candidates + 1, space.dimensions))
    recipes = [space.candidate(tuple(point)).recipe for point in points.tolist()]
    live_way(evaluator, recipes[0])

    live, inside, plain = [], [], []
    for recipe in recipes[1:]:
        seconds, timing, measured = live_way(evaluator, recipe)
        live.append(seconds)
        inside.append(timing.model_seconds)
        samples = {name.split("/")[0]: list(m.item_ids) for name, m in measured.items()}
        plain_seconds, values = plain_way(files, recipe, spec, zoo, samples)
        plain.append(plain_seconds)
        assert values == {name: m.value for name, m in measured.items()}, "the two ways disagree"
    overhead = 1 - sum(inside) / sum(live)
    figures = {
        "candidates": len(live),
        "live_seconds_median": statistics.median(live),
        "live_share_outside_the_model": overhead,
        "plain_seconds_median": statistics.median(plain),
        "plain_over_live": statistics.median(p / m for p, m in zip(plain, live, strict=True)),
    }
    for name, figure in figures.items():
        print(f"{name:34} {figure:.3f}" if isinstance(figure, float) else f"{name:34} {figure}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
