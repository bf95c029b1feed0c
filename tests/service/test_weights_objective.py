"""The built-in objective on the merged weights: real models and tasks through the loop, in this process."""

import math

import pytest
import torch
from safetensors.torch import load_file

from campaigns.inventory import WEIGHTS_OFFER, Inventory, resolve
from campaigns.objectives import WEIGHTS
from campaigns.spec import parse_spec
from campaigns.states import CampaignState
from evaluators.inventory import offered_tasks
from merging.methods import METHODS
from merging.pool_report import inspect_pool
from optimizer.candidate_evaluator import CandidateEvaluator, evaluation_setup
from optimizer.executors.local import LocalExecutor
from optimizer.loop import SearchLoop
from optimizer.strategies import STRATEGIES, SearchProblem, build_strategy
from search_spaces import build_space
from storage import Store

NAME = "weights/delta_l1"


@pytest.fixture(scope="module")
def finished(zoo_module, zoo, tmp_path_factory):
    """A campaign by the preset, run to its end: its store and itself."""
    document = zoo_module.campaign_spec(zoo)
    del document["space"]
    generalists = document["pool"]["checkpoints"][:3]
    document |= {
        "preset": "mm-mo",
        "pool": {"checkpoints": generalists, "base": {"name": "base", "path": str(zoo / "base")}},
        "objectives": [{"task": "tiny_most", "metric": "acc"}, {"task": "tiny_max", "metric": "exact_match"}],
        "evaluation": {"search_items": 8, "holdout_items": 8, "batch_size": 8},
        "strategy": {"initial_points": 3, "proposals": 3, "batch_size": 2, "samples": 4, "scanned_points": 4},
        "budget": {"evaluations": 5},
    }
    tasks = offered_tasks([zoo / "tasks"], built_in=False) | {WEIGHTS: WEIGHTS_OFFER}
    spec = resolve(parse_spec(document), Inventory(tasks=tasks, methods=tuple(METHODS), strategies=tuple(STRATEGIES)))
    pool = inspect_pool(spec.pool, [zoo], [], None)
    store = Store.open(f"sqlite:///{tmp_path_factory.mktemp('weights')}/db.sqlite")
    campaign = store.create_campaign(spec, pool)
    lease = store.lease_next("worker", 600.0)
    space = build_space(spec, pool)
    problem = SearchProblem(space.dimensions, tuple(o.weight for o in spec.objectives), spec.seed)
    evaluator = CandidateEvaluator(evaluation_setup(spec, pool, (str(zoo / "tasks"),)))
    strategy = build_strategy(spec.strategy, problem)
    SearchLoop(store, lease, LocalExecutor(evaluator.evaluate), strategy, space, lambda: False).run()
    yield store, store.campaign(campaign.id)
    store.close()


def measurements(trial, split):
    return [m for m in trial.measurements if m.split == split and m.objective == NAME]


def test_every_candidate_and_baseline_has_it(finished):
    store, campaign = finished
    assert campaign.state is CampaignState.COMPLETE
    trials = store.trials(campaign.id)
    assert len(trials) == 3 + 1 + 5
    for trial in trials:
        [found] = measurements(trial, "search")
        assert (found.items, found.standard_error, found.outcomes) == (1, 0.0, ())
        assert found.value >= 0.0
    assert len({m.protocol for trial in trials for m in measurements(trial, "search")}) == 1


def test_of_a_parent_it_is_the_distance_to_the_base(finished):
    store, campaign = finished
    base = load_file(f"{campaign.pool.base.path}/model.safetensors")
    for checkpoint, trial in zip(campaign.pool.checkpoints, store.trials(campaign.id), strict=False):
        own = load_file(f"{checkpoint.path}/model.safetensors")
        expected = math.fsum((own[name].double() - base[name].double()).abs().sum().item() for name in base)
        assert trial.candidate.label == checkpoint.name
        assert trial.value(NAME, "search") == pytest.approx(expected, rel=1e-9)
        assert next(iter(base.values())).dtype == torch.float32


def test_it_is_on_the_holdout_split_too_with_the_same_value(finished):
    store, campaign = finished
    scored = [trial for trial in store.trials(campaign.id) if measurements(trial, "holdout")]
    assert set(campaign.summary.front) <= {trial.id for trial in scored}
    for trial in scored:
        assert trial.value(NAME, "holdout") == trial.value(NAME, "search")


def test_it_is_minimised_and_stays_out_of_the_macro_average(finished):
    _, campaign = finished
    [objective] = [o for o in campaign.spec.objectives if o.name == NAME]
    assert (objective.direction, objective.weight) == ("minimize", 0.0)
