"""What is particular to the strategies that ask Optuna's samplers."""

import logging
import statistics

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from campaigns import strategies as specs
from campaigns.strategies import GpSearch, RandomSearch, TpeSearch
from campaigns.trial import Point
from optimizer.strategies import Observation, SearchProblem, Strategy, build_strategy
from optimizer.strategies.optuna_gp import OptunaGp
from optimizer.strategies.optuna_study import OptunaSearch
from optimizer.strategies.optuna_tpe import OptunaTpe
from optimizer.strategies.sobol import SobolSequence

SPECS = {
    "tpe": TpeSearch(initial_points=4),
    "multivariate": TpeSearch(initial_points=4, multivariate=True),
    "gp": GpSearch(initial_points=4),
}
each = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
TARGET = np.array([0.3, 0.7, 0.2])


def build(spec: specs.Strategy, objectives: int = 2, constraints: int = 0, seed: int = 7) -> Strategy:
    return build_strategy(spec, SearchProblem(3, (1.0,) * objectives, seed, constraints))


def losses(point: Point, objectives: int = 2) -> tuple[float, ...]:
    return tuple(float(((np.array(point) - TARGET - 0.05 * k) ** 2).sum()) for k in range(objectives))


def told(strategy: Strategy, count: int, objectives: int = 2) -> list[Observation]:
    history = []
    for _ in range(count):
        point = strategy.ask(())
        history.append(Observation(point, losses(point, objectives)))
        strategy.tell(history[-1])
    return history


def study_of(strategy: Strategy, number: int = 0) -> optuna.Study:
    assert isinstance(strategy, OptunaSearch)
    return strategy._study(number)


@each
def test_the_design_is_sobol_then_the_sampler(spec: specs.Strategy) -> None:
    strategy, sequence = build(spec), SobolSequence(3, 7)
    strategy.tell(Observation((0.5, 0.5, 0.5), (1.0, 1.0)))
    assert [strategy.ask(()) for _ in range(4)] == [sequence.next() for _ in range(4)]
    assert strategy.ask(()) != sequence.next()


@each
def test_with_nothing_scored_the_design_goes_on(spec: specs.Strategy) -> None:
    strategy, sequence = build(spec), SobolSequence(3, 7)
    for _ in range(8):
        point = strategy.ask(())
        assert point == sequence.next()
        strategy.tell(Observation(point, None))


@pytest.mark.parametrize(("spec", "evaluations"), [(TpeSearch(), 80), (GpSearch(), 20)], ids=["tpe", "gp"])
def test_it_comes_nearer_than_random_search(spec: specs.Strategy, evaluations: int) -> None:
    def best(of: specs.Strategy, seed: int) -> float:
        history = told(build(of, objectives=1, seed=seed), evaluations, objectives=1)
        return min(observation.losses[0] for observation in history if observation.losses)

    searched = [best(spec, seed) for seed in range(3)]
    drawn = [best(RandomSearch(), seed) for seed in range(3)]
    assert statistics.median(searched) < 0.5 * statistics.median(drawn)


@each
def test_a_pending_point_moves_the_next_proposal(spec: specs.Strategy) -> None:
    first, second = build(spec), build(spec)
    for strategy in (first, second):
        told(strategy, 8)
    alone = first.ask(())
    assert np.abs(np.array(second.ask([alone])) - alone).max() > 1e-3


@each
def test_the_study_holds_what_was_told_in_that_order(spec: specs.Strategy) -> None:
    strategy = build(spec, constraints=2)
    points = [(0.1, 0.2, 0.3), (0.9, 0.2, 0.3), (0.4, 0.5, 0.6)]
    strategy.tell(Observation(points[0], (1.0, 5.0), (0.2, -1.0)))
    strategy.tell(Observation(points[1], (2.0, 4.0), (-0.3, -0.5)))
    strategy.tell(Observation(points[2], None))
    trials = study_of(strategy).get_trials()
    assert [tuple(trial.params.values()) for trial in trials] == points
    assert [trial.values for trial in trials[:2]] == [[1.0, 5.0], [2.0, 4.0]]
    assert [list(trial.constraints.values()) for trial in trials[:2]] == [[0.2, -1.0], [-0.3, -0.5]]


def test_to_tpe_a_point_without_losses_is_pruned_and_to_the_gp_as_bad_as_the_worst() -> None:
    tpe, gp = build(TpeSearch(), constraints=1), build(GpSearch(), constraints=1)
    for strategy in (tpe, gp):
        strategy.tell(Observation((0.1, 0.1, 0.1), (1.0, 5.0), (0.5,)))
        strategy.tell(Observation((0.5, 0.1, 0.1), (2.0, 4.0), (-0.5,)))
        strategy.tell(Observation((0.9, 0.1, 0.1), None))
    assert study_of(tpe).get_trials()[2].state == TrialState.PRUNED
    trial = study_of(gp).get_trials()[2]
    assert trial.values == [2.0, 5.0]
    assert list(trial.constraints.values()) == [0.5]


def test_the_gp_keeps_away_from_where_nothing_can_be_scored() -> None:
    """The loss falls towards x0 = 1, where merges break."""
    strategy = build(GpSearch(), objectives=1)
    broken = []
    for _ in range(24):
        point = strategy.ask(())
        broken.append(point[0] > 0.6)
        strategy.tell(Observation(point, None if broken[-1] else (-point[0],)))
    assert sum(broken[-8:]) <= 4


def test_beyond_three_objectives_the_gp_improves_one_number_by_weights_of_each_ask() -> None:
    strategy = build(GpSearch(), objectives=4)
    for x in (0.1, 0.5, 0.9):
        strategy.tell(Observation((x, x, x), (x, 1 - x, x**2, (1 - x) ** 2)))
    values = [[trial.value for trial in study_of(strategy, number).get_trials()] for number in (0, 1, 0)]
    assert values[0] == values[2] != values[1]
    assert len(study_of(build_with_three(), 0).directions) == 3


def build_with_three() -> Strategy:
    strategy = build(GpSearch(), objectives=3)
    strategy.tell(Observation((0.1, 0.1, 0.1), (1.0, 2.0, 3.0)))
    return strategy


@each
def test_a_taken_proposal_is_left_by_a_step(spec: specs.Strategy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sampler that insists on one corner, told and pending over and over."""
    strategy = build(spec)
    told(strategy, 4)
    corner = (0.0, 1.0, 0.0)
    kind = OptunaTpe if isinstance(spec, TpeSearch) else OptunaGp
    monkeypatch.setattr(kind, "_proposal", lambda *_: corner)
    asked: list[Point] = []
    for turn in range(30):
        asked.append(strategy.ask(asked))
        assert all(0.0 <= unit <= 1.0 for unit in asked[-1])
        if turn % 2:
            strategy.tell(Observation(asked.pop(), (1.0, 1.0)))
    assert asked[0] == corner
    assert len(set(asked)) == 15


def test_the_study_of_tpe_does_not_fill_up_with_trials_that_only_ran() -> None:
    strategy, fresh = build(TpeSearch(initial_points=1)), build(TpeSearch(initial_points=1))
    pending = [(0.01 * k, 0.5, 0.5) for k in range(60)]
    history = []
    for _ in range(12):
        point = strategy.ask(pending)
        history.append(Observation(point, losses(point)))
        strategy.tell(history[-1])
    assert len(study_of(strategy).get_trials(deepcopy=False)) < 200
    fresh.restore(strategy.state(), history)
    assert fresh.ask(pending) == strategy.ask(pending)


@each
def test_optuna_says_nothing_and_its_logger_is_left_as_it_was(
    spec: specs.Strategy, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("optuna")
    level = logger.level
    told(build(spec), 6)
    assert logger.level == level
    assert capfd.readouterr() == ("", "")
