"""One actor's evaluator over jobs in rungs: it saves what it can, and never serves what other weights answered."""

import os
import shutil
from pathlib import Path

import pytest

from campaigns.pools import Pool
from optimizer.candidate_evaluator import CandidateEvaluator
from optimizer.jobs import Faulted, Infeasible, Job, Scored

ONE, OTHER = (0.4, 0.2, 0.3), (0.1, 0.6, 0.2)


@pytest.fixture
def make_job(small_campaign, rungs):
    _, _, space = small_campaign

    def make(point=ONE, stop=0, split="search", trial_id="t"):
        return Job(trial_id=trial_id, recipe=space.candidate(point).recipe, split=split, rungs=tuple(rungs[:stop]))

    return make


@pytest.fixture(scope="module")
def shared(small_campaign):
    return CandidateEvaluator(small_campaign[1])


def scored(evaluator, job):
    outcome = evaluator.evaluate(job).outcome
    assert isinstance(outcome, Scored), outcome
    return outcome.evaluated


def measured(evaluator, job):
    return scored(evaluator, job).measurements


@pytest.fixture
def anew(small_campaign):
    """What an actor measures that never saw another job."""
    found = {}

    def measure(job):
        key = job.model_dump_json()
        if key not in found:
            found[key] = measured(CandidateEvaluator(small_campaign[1]), job)
        return found[key]

    return measure


def test_going_on_is_not_merged_again_and_measures_as_any_other_actor(shared, make_job, anew):
    first = scored(shared, make_job(stop=1))
    assert first.timing.merge_seconds > 0 and first.timing.model_seconds > 0
    for stop in (2, 3):
        more = scored(shared, make_job(stop=stop))
        assert more.timing.merge_seconds == 0 and more.timing.model_seconds > 0
        assert more.measurements == anew(make_job(stop=stop))
    again = scored(shared, make_job(stop=3, trial_id="another of the same recipe"))
    assert (again.timing.merge_seconds, again.timing.model_seconds) == (0, 0)
    assert again.measurements == more.measurements
    assert [m.items for m in again.measurements] == [12, 12, 12, 1], "the weights are measured on every job"


def test_a_recipe_after_another_is_answered_anew(shared, make_job, anew):
    for point, stop in ((ONE, 1), (OTHER, 1), (ONE, 2), (OTHER, 3), (OTHER, 3), (ONE, 1)):
        assert measured(shared, make_job(point, stop)) == anew(make_job(point, stop))
    ours, theirs = (anew(make_job(point, 1)) for point in (ONE, OTHER))
    assert sum(one.value != other.value for one, other in zip(ours, theirs, strict=True)) > 1


@pytest.mark.parametrize("between", [{"split": "holdout"}, {}, {"point": OTHER}, {"point": OTHER, "split": "holdout"}])
def test_jobs_without_rungs_in_between(between, shared, make_job, anew):
    measured(shared, make_job(stop=1))
    other = scored(shared, make_job(**between))
    assert other.timing.merge_seconds > 0
    assert other.measurements == anew(make_job(**between))
    assert measured(shared, make_job(stop=2)) == anew(make_job(stop=2))


def test_after_a_job_that_broke_half_way_the_same_recipe_is_merged_again(shared, make_job, anew):
    measured(shared, make_job(stop=1))
    broken = make_job(stop=1).replace(rungs=({**make_job(stop=1).rungs[0], "tiny_max": (10_000,)},))
    outcome = shared.evaluate(broken).outcome
    assert isinstance(outcome, Faulted) and "[10000]" in outcome.reason
    after = scored(shared, make_job(stop=2))
    assert after.timing.merge_seconds > 0
    assert after.measurements == anew(make_job(stop=2))


def test_after_a_candidate_that_cannot_be_scored(shared, make_job, anew):
    measured(shared, make_job(stop=1))
    job = make_job(stop=1)
    overflowing = job.recipe.method.replace(weights=(1e38, 1e38, 1e38), scale=1e38)
    bad = job.replace(recipe=job.recipe.replace(method=overflowing))
    for _ in range(2):
        assert isinstance(shared.evaluate(bad).outcome, Infeasible)
    assert measured(shared, make_job(stop=1)) == anew(make_job(stop=1))


def test_sources_that_change_on_disk_are_noticed_by_a_job_that_goes_on(small_campaign, make_job, anew, tmp_path):
    _, setup, _ = small_campaign
    copies = tuple(
        checkpoint.replace(path=str(shutil.copytree(checkpoint.path, tmp_path / checkpoint.name)))
        for checkpoint in setup.pool.checkpoints
    )
    pool = Pool.model_validate({**dict(setup.pool), "checkpoints": copies})
    [weights] = Path(copies[0].path).glob("*.safetensors")
    evaluator = CandidateEvaluator(setup.replace(pool=pool))
    measured(evaluator, make_job(stop=1))
    status = weights.stat()
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    for point, stop in ((ONE, 2), (ONE, 1), (OTHER, 1)):
        outcome = evaluator.evaluate(make_job(point, stop)).outcome
        assert isinstance(outcome, Faulted) and "changed on disk" in outcome.reason
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = scored(evaluator, make_job(stop=2))
    assert after.timing.merge_seconds > 0
    assert after.measurements == anew(make_job(stop=2))
