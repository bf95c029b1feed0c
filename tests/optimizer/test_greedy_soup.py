"""The greedy soup: what joins, and that a campaign tries it step by step, however often it is interrupted."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaigns.campaign import Campaign
from campaigns.methods import LinearMerge
from campaigns.objectives import Measurement
from campaigns.pools import Checkpoint, Pool
from campaigns.spec import parse_spec
from campaigns.states import CampaignState, TrialState
from campaigns.trial import Evaluated, Timing, Trial
from optimizer.executors.local import LocalExecutor
from optimizer.greedy_soup import GreedySoup, Members, greedy_soup
from optimizer.jobs import Infeasible, Job, JobResult, Scored
from optimizer.loop import SearchLoop
from optimizer.strategies import SearchProblem, build_strategy
from search_spaces import build_space
from storage import Store

NAMES = ("math", "code", "chat", "law")
BEST = (0.5, 0.5, 0.0, 0.0)
"""The nearer the weights come to these, the better: math and code belong together, chat does harm."""
PULL = (0.1, 0.0, -0.4, -0.2)
Evaluate = Callable[[Job], JobResult]


def run_to_the_end(parents: list[float | None], score: Callable[[Members], float | None]) -> tuple[Members, int]:
    """Follow the recipe from nothing to its end; return who is in and how many averages were scored."""
    soups: dict[Members, float | None] = {}
    while (step := greedy_soup(parents, soups)).next_members is not None:
        assert step.next_members not in soups
        soups[step.next_members] = score(step.next_members)
    return step.members, len(soups)


def test_the_best_joins_first_and_what_harms_stays_out() -> None:
    scores: dict[Members, float | None] = {frozenset({1, 2}): 0.7, frozenset({0, 1}): 0.8}
    assert greedy_soup([0.4, 0.6, 0.5], {}) == GreedySoup(frozenset({1}), frozenset({1, 2}))
    assert greedy_soup([0.4, 0.6, 0.5], scores) == GreedySoup(frozenset({1, 2}), frozenset({0, 1, 2}))
    worse = {**scores, frozenset({1, 2}): 0.59}
    assert greedy_soup([0.4, 0.6, 0.5], worse) == GreedySoup(frozenset({0, 1}), None)


def test_what_is_just_as_good_joins_and_of_equals_the_first_leads() -> None:
    assert run_to_the_end([0.5, 0.5, 0.5], lambda members: 0.5) == (frozenset({0, 1, 2}), 2)
    assert greedy_soup([0.5, 0.5], {}).members == {0}


def test_what_could_not_be_scored_stays_out() -> None:
    assert run_to_the_end([None, 0.5, 0.4], lambda members: 0.6) == (frozenset({1, 2}), 1)
    assert run_to_the_end([0.6, 0.5, 0.4], lambda members: None) == (frozenset({0}), 2)
    assert greedy_soup([None, None], {}) == GreedySoup(frozenset(), None)


@given(parents=st.lists(st.floats(0, 1), min_size=2, max_size=7), salt=st.integers(0, 2**32))
def test_it_never_ends_below_the_best_parent_and_takes_at_most_k_minus_one_steps(
    parents: list[float], salt: int
) -> None:
    def score(members: Members) -> float:
        return hash((salt, members)) % 1000 / 1000

    members, steps = run_to_the_end(list(parents), score)
    assert steps == len(parents) - 1
    assert (parents[min(members)] if len(members) == 1 else score(members)) >= max(parents)


def measured(job: Job) -> JobResult:
    assert isinstance(job.recipe.method, LinearMerge)
    pairs = list(zip(job.recipe.method.weights, BEST, strict=True))
    value = 1 - math.fsum((weight - best) ** 2 for weight, best in pairs)
    value += math.fsum(weight * pull for weight, pull in zip(job.recipe.method.weights, PULL, strict=True))
    measurement = Measurement(
        objective="sort/acc", split=job.split, value=value, standard_error=0.01, items=10, protocol="p"
    )
    timing = Timing(merge_seconds=0, model_seconds=0, total_seconds=0)
    return JobResult(job=job, outcome=Scored(evaluated=Evaluated(measurements=(measurement,), timing=timing)))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path}/db.sqlite")
    yield opened
    opened.close()


def launch(store: Store, **changes: Any) -> Campaign:
    document = {
        "name": "soup",
        "pool": {"checkpoints": [{"name": name, "path": name} for name in NAMES]},
        "objectives": [{"task": "sort", "metric": "acc", "direction": "maximize"}],
        "baselines": {"greedy_soup": True},
        "strategy": {"kind": "nsga2", "population_size": 4},
        "budget": {"evaluations": 6},
    }
    checkpoints = tuple(Checkpoint(name=n, path=n, digest=n, stamp="s", size_bytes=1) for n in NAMES)
    pool = Pool(checkpoints=checkpoints, base=None, dtype="bfloat16", architecture="llama", parameter_count=1)
    return store.create_campaign(parse_spec(document | changes), pool)


def run(store: Store, evaluate: Evaluate = measured, slots: int = 1, seconds: float = 60.0) -> Campaign:
    lease = store.lease_next("worker", seconds)
    assert lease is not None
    campaign = store.campaign(lease.campaign_id)
    space = build_space(campaign.spec, campaign.pool)
    strategy = build_strategy(campaign.spec.strategy, SearchProblem(space.dimensions, (1.0,), campaign.spec.seed))
    return SearchLoop(store, lease, LocalExecutor(evaluate, slots), strategy, space).run()


def labels(trials: list[Trial]) -> list[str | None]:
    return [trial.candidate.label for trial in trials if trial.candidate.kind == "soup"]


STEPS = ["uniform soup", "greedy soup: math+code", "greedy soup: math+code+law", "greedy soup: math+code+chat"]


@pytest.mark.parametrize("slots", [1, 3])
def test_a_campaign_tries_it_beside_the_budget(store: Store, slots: int) -> None:
    campaign = launch(store)
    assert run(store, slots=slots).state is CampaignState.COMPLETE
    trials = store.trials(campaign.id)
    assert labels(trials) == STEPS
    assert sum(trial.candidate.kind == "candidate" for trial in trials) == 6
    soup = next(trial for trial in trials if trial.candidate.label == "greedy soup: math+code")
    assert soup.candidate.recipe.method == LinearMerge(weights=(0.5, 0.5, 0.0, 0.0))


def test_only_the_end_result_is_scored_on_the_holdout_items(store: Store) -> None:
    campaign = launch(store)
    done = run(store)
    scored = {t.candidate.label for t in store.trials(campaign.id) if "holdout" in t.timings}
    off_the_front = {t.candidate.label for t in store.trials(campaign.id) if t.id not in done.summary.front}
    assert {*NAMES, "uniform soup", "greedy soup: math+code"} <= scored
    assert not scored & off_the_front & set(STEPS[2:])


def test_its_steps_do_not_move_the_frozen_reference_point(store: Store) -> None:
    campaign = launch(store)
    seen: list[tuple[float, ...] | None] = []

    def watched(job: Job) -> JobResult:
        seen.append(store.campaign(campaign.id).summary.reference_point)
        return measured(job)

    run(store, watched)
    assert len({point for point in seen if point is not None}) == 1
    assert seen[len(NAMES) + 1] is not None  # frozen before the first step


def test_a_set_that_is_the_uniform_soup_is_not_scored_again(store: Store) -> None:
    campaign = launch(store)

    def all_welcome(job: Job) -> JobResult:
        """Every average of several is as good as the best."""
        assert isinstance(job.recipe.method, LinearMerge)
        if sum(weight > 0 for weight in job.recipe.method.weights) == 1:
            return measured(job)
        return measured(job.replace(recipe=job.recipe.replace(method=LinearMerge(weights=BEST)))).replace(job=job)

    run(store, all_welcome)
    assert labels(store.trials(campaign.id)) == ["uniform soup", *STEPS[1:3]]


def test_an_average_that_cannot_be_scored_is_passed_over(store: Store) -> None:
    campaign = launch(store)
    bad = LinearMerge(weights=(0.5, 0.5, 0.0, 0.0))

    def reject(job: Job) -> JobResult:
        wrong = job.recipe.method == bad
        return JobResult(job=job, outcome=Infeasible(reason="NaN logits")) if wrong else measured(job)

    assert run(store, reject).state is CampaignState.COMPLETE
    trials = store.trials(campaign.id)
    assert labels(trials)[1:] == ["greedy soup: math+code", "greedy soup: math+law", "greedy soup: math+chat"]
    assert sum(trial.state is TrialState.INFEASIBLE for trial in trials) == 1


class Killed(BaseException):
    """Stands for the end of the process: nothing in the loop may catch it."""


@pytest.mark.parametrize("killed_at", [2, 5, 6, 7, 8, 9, 12])
def test_killed_and_resumed_equals_never_killed(tmp_path: Path, killed_at: int) -> None:
    undisturbed, killed = (Store.open(f"sqlite:///{tmp_path}/{name}.sqlite") for name in ("undisturbed", "killed"))
    campaigns = [launch(each) for each in (undisturbed, killed)]
    run(undisturbed)
    count = 0

    def kill(job: Job) -> JobResult:
        nonlocal count
        count += 1
        if count == killed_at:
            raise Killed
        return measured(job)

    with pytest.raises(Killed):
        run(killed, kill, seconds=0.0)
    assert run(killed).state is CampaignState.COMPLETE
    expected, found = (
        [t.candidate for t in s.trials(c.id)] for s, c in zip((undisturbed, killed), campaigns, strict=True)
    )
    assert found == expected
    for each in (undisturbed, killed):
        each.close()


def test_it_needs_the_parents() -> None:
    document: dict[str, Any] = {
        "name": "soup",
        "pool": {"checkpoints": [{"name": name, "path": name} for name in NAMES]},
        "objectives": [{"task": "sort", "metric": "acc"}],
        "baselines": {"greedy_soup": True, "parents": False},
        "budget": {"evaluations": 6},
    }
    with pytest.raises(Exception, match="starts from the scores of the parents") as refused:
        parse_spec(document)
    assert [error.field for error in getattr(refused.value, "errors", ())] == ["baselines.greedy_soup"]
