"""How long one candidate takes: Mergefront's live model beside the plain way, in one run.

    python benchmarks/candidate_turnaround.py ZOO [--candidates 12] [--json FILE]

The plain way is what a script does: write the merge to disk, build a new `HFLM` on it, call `simple_evaluate`. The
careful way does the same with one task index for all candidates and without bootstrap resamples. All three score the
same random recipes of the demo's campaign on the same items with one thread, in turn, and must agree on every value.
ZOO is a tiny zoo, such as `demo-output/zoo`; `make demo` leaves one.
"""

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import numpy as np
import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from campaigns.inventory import Inventory, resolve
from campaigns.spec import parse_spec
from evaluators.inventory import offered_tasks
from mergefront.demo import load_zoo_module
from merging.image import MergedModel
from merging.pool_files import PoolFiles
from merging.pool_report import inspect_pool
from optimizer.candidate_evaluator import CandidateEvaluator, evaluation_setup
from optimizer.jobs import Job
from search_spaces import build_space


def demo_spec(zoo):
    spec = parse_spec(load_zoo_module().campaign_spec(zoo))
    tasks = offered_tasks([zoo / "tasks"])
    return resolve(spec, Inventory(tasks=tasks, methods=(spec.space.kind,), strategies=(spec.strategy.kind,)))


def script_way(files, recipe, spec, samples, options):
    """Merge to disk, load, evaluate; return seconds and values by objective. `options` makes simple_evaluate's own."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "merge"
        MergedModel(files, recipe).write_directory(directory)
        model = HFLM(pretrained=str(directory), device="cpu", dtype="float32", batch_size=spec.evaluation.batch_size)
        found = simple_evaluate(
            model,
            tasks=list(samples),
            samples=samples,
            log_samples=False,
            **options(),
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

    index = TaskManager(include_path=str(zoo / "tasks"))
    ways = {
        "plain": lambda: {"task_manager": TaskManager(include_path=str(zoo / "tasks"))},
        "careful": lambda: {"task_manager": index, "bootstrap_iters": 0},
    }
    live, inside = [], []
    script = {way: [] for way in ways}
    for recipe in recipes[1:]:
        seconds, timing, measured = live_way(evaluator, recipe)
        live.append(seconds)
        inside.append(timing.model_seconds)
        samples = {name.split("/")[0]: list(m.item_ids) for name, m in measured.items()}
        for way, options in ways.items():
            seconds, values = script_way(files, recipe, spec, samples, options)
            script[way].append(seconds)
            assert values == {name: m.value for name, m in measured.items()}, f"the {way} way disagrees"
    figures = {
        "candidates": len(live),
        "live_seconds_median": statistics.median(live),
        "live_share_outside_the_model": 1 - sum(inside) / sum(live),
    }
    for way, seconds in script.items():
        figures[f"{way}_seconds_median"] = statistics.median(seconds)
        figures[f"{way}_over_live"] = statistics.median(s / m for s, m in zip(seconds, live, strict=True))
    for name, figure in figures.items():
        print(f"{name:34} {figure:.3f}" if isinstance(figure, float) else f"{name:34} {figure}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
