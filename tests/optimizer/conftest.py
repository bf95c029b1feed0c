"""A small campaign for the tests that merge and score for real."""

from pathlib import Path

import pytest
import torch

from campaigns.inventory import WEIGHTS_OFFER, Inventory, resolve
from campaigns.objectives import WEIGHTS
from campaigns.spec import parse_spec
from evaluators.inventory import offered_tasks
from evaluators.lm_evaluator import LmEvaluator
from merging.methods import METHODS
from merging.pool_report import inspect_pool
from optimizer.candidate_evaluator import evaluation_setup
from optimizer.strategies import STRATEGIES
from search_spaces import build_space

RUNGS = ((0, 2), (2, 5), (5, 12))


@pytest.fixture(scope="session")
def small_campaign(zoo):
    """A resolved spec over three generalists and the base, its pool, and what an actor needs to score it."""
    threads = torch.get_num_threads()
    names = sorted(path.name for path in (zoo / "generalists").iterdir())[:3]
    document = {
        "name": "small",
        "pool": {
            "checkpoints": [{"name": name, "path": str(zoo / "generalists" / name)} for name in names],
            "base": {"name": "base", "path": str(zoo / "base")},
        },
        "space": {"kind": "task_arithmetic"},
        "objectives": [
            {"task": "tiny_most", "metric": "acc"},
            {"task": "tiny_max", "metric": "exact_match"},
            {"task": "tiny_text", "metric": "bits_per_byte", "weight": 0},
            {"task": WEIGHTS, "metric": "delta_l1"},
        ],
        "evaluation": {"search_items": 12, "holdout_items": 8, "batch_size": 5},
        "budget": {"evaluations": 8},
        "resources": {"actors": 2},
    }
    tasks = offered_tasks([zoo / "tasks"], built_in=False) | {WEIGHTS: WEIGHTS_OFFER}
    spec = resolve(parse_spec(document), Inventory(tasks=tasks, methods=tuple(METHODS), strategies=tuple(STRATEGIES)))
    pool = inspect_pool(spec.pool, [zoo], [], None)
    yield spec, evaluation_setup(spec, pool, (str(zoo / "tasks"),)), build_space(spec, pool)
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def rungs(small_campaign):
    """Three rungs of the small campaign, of 2, 3 and 7 items of each task."""
    _, setup, _ = small_campaign
    tasks = LmEvaluator(setup.objectives, setup.evaluation, setup.seed, [Path(f) for f in setup.task_folders])
    names = {objective.task for objective in setup.objectives if not objective.is_of_weights}
    return [{name: tasks.items(name)["search"][start:stop] for name in names} for start, stop in RUNGS]
