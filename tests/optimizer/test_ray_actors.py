"""Real actors: a trial goes on where its last job ran, and on any other actor it measures the same."""

import shutil
import time

import pytest
import ray

from campaigns.errors import InvalidCheckpoint
from optimizer.candidate_evaluator import CandidateEvaluator
from optimizer.executors.ray_actors import RayExecutor, choose_actor, cluster_nodes, connect
from optimizer.jobs import Job, Scored

SETUP_SECONDS = 240


@pytest.mark.parametrize(
    ("idle", "last_trials", "chosen"),
    [
        ([0, 1, 2], ["a", "b", "a"], 1),
        ([0, 2], ["a", "b", "a"], 0),
        ([1, 2], [None, None, "b"], 2),
        ([2], ["b", "b", None], 2),
        ([1, 2], [None, None, None], 1),
    ],
)
def test_the_actor_that_ran_the_trial_last_is_chosen_if_it_is_idle(idle, last_trials, chosen):
    assert choose_actor(idle, last_trials, "b") == chosen


@pytest.fixture(scope="module")
def cluster():
    connect(None)
    yield
    ray.shutdown()


@pytest.fixture
def executor(cluster, small_campaign):
    spec, setup, _ = small_campaign
    made = RayExecutor(setup, spec.resources)
    wait_for_slots(made, spec.resources.actors)
    yield made
    made.close()


def wait_for_slots(executor, count):
    """Wait until `count` actors are idle, and no more: `wait` comes back for each that is set up, or was dropped."""
    deadline = time.monotonic() + SETUP_SECONDS
    while executor.free_slots != count:
        assert time.monotonic() < deadline, f"{executor.free_slots} idle actors instead of {count}"
        assert executor.wait(1.0) == []


def finished(executor, count):
    """Return the next `count` jobs' evaluations by trial."""
    found = {}
    while len(found) < count:
        for result in executor.wait(60.0):
            assert isinstance(result.outcome, Scored), result.outcome
            found[result.job.trial_id] = result.outcome.evaluated
    return found


@pytest.mark.service
@pytest.mark.timeout(600)
def test_trials_go_on_where_they_were_and_measure_the_same_elsewhere(executor, small_campaign, rungs):
    _, setup, space = small_campaign
    recipes = {"a": space.candidate((0.4, 0.2, 0.3)).recipe, "b": space.candidate((0.1, 0.6, 0.2)).recipe}

    def job(trial, stop):
        return Job(trial_id=trial, recipe=recipes[trial], split="search", rungs=tuple(rungs[:stop]))

    places = {trial: executor.submit(job(trial, 1)) for trial in ("a", "b")}
    assert len(set(places.values())) == 2
    assert all(evaluated.timing.merge_seconds > 0 for evaluated in finished(executor, 2).values())
    assert {trial: executor.submit(job(trial, 2)) for trial in ("b", "a")} == places
    assert all(evaluated.timing.merge_seconds == 0 for evaluated in finished(executor, 2).values())
    swapped = [executor.submit(job(trial, 3).replace(trial_id=new)) for trial, new in (("b", "c"), ("a", "d"))]
    assert swapped == [places["a"], places["b"]]
    moved = finished(executor, 2)
    assert all(evaluated.timing.merge_seconds > 0 for evaluated in moved.values())
    here = CandidateEvaluator(setup)
    for trial, new in (("b", "c"), ("a", "d")):
        assert moved[new].measurements == here.evaluate(job(trial, 3)).outcome.evaluated.measurements


@pytest.mark.service
@pytest.mark.timeout(600)
def test_actors_come_and_go_while_jobs_run_and_every_job_comes_back(executor, small_campaign):
    _, _, space = small_campaign
    recipes = [space.candidate(point).recipe for point in ((0.4, 0.2, 0.3), (0.1, 0.6, 0.2), (0.5, 0.1, 0.1))]
    jobs = [Job(trial_id=str(index), recipe=recipe, split="search") for index, recipe in enumerate(recipes)]
    for job in jobs[:2]:
        executor.submit(job)
    executor.resize(1)
    assert executor.free_slots == 0
    assert set(finished(executor, 2)) == {"0", "1"}
    assert executor.free_slots == 1, "two are idle for a moment, and one of them is about to go"
    wait_for_slots(executor, 1)
    executor.submit(jobs[2])
    assert executor.free_slots == 0
    executor.resize(500)  # the spec's two at most
    assert set(finished(executor, 1)) == {"2"}
    wait_for_slots(executor, 2)


@pytest.mark.service
@pytest.mark.timeout(600)
def test_actors_without_a_place_wait_for_it_and_say_so(cluster, small_campaign):
    spec, setup, _ = small_campaign
    [node] = cluster_nodes()
    whole = spec.resources.replace(actors=1, cpus_per_actor=int(node.cpus))
    first = RayExecutor(setup, whole)
    wait_for_slots(first, 1)
    second = RayExecutor(setup, whole)
    assert not second.ready(0.1)
    assert second.seconds_without_place > 0 == first.seconds_without_place
    first.close()
    wait_for_slots(second, 1)
    assert second.seconds_without_place == 0
    second.close()


@pytest.mark.service
@pytest.mark.timeout(600)
def test_a_checkpoint_that_is_another_one_on_its_node_is_named_with_the_node(cluster, small_campaign, tmp_path):
    spec, setup, _ = small_campaign
    first, *others = setup.pool.checkpoints
    copy = shutil.copytree(first.path, tmp_path / "copy")
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    changed = first.replace(path=str(copy))
    pool = setup.pool.replace(checkpoints=(changed, *others))
    executor = RayExecutor(setup.replace(pool=pool), spec.resources.replace(actors=1))
    with pytest.raises(InvalidCheckpoint, match=f"on node .*{changed.name!r} changed on disk") as caught:
        while not executor.ready(SETUP_SECONDS):
            pass
    assert [error.field for error in caught.value.errors] == ["pool.checkpoints.0.path"]
    executor.close()
