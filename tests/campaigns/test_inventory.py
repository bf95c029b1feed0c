"""Resolving a spec against what workers offer."""

import pytest

from campaigns.errors import InvalidSpec
from campaigns.inventory import Inventory, MetricOffer, TaskOffer, resolve
from campaigns.spec import parse_spec

INVENTORY = Inventory(
    tasks={
        "sort": TaskOffer(name="sort", output_type="generate_until", metrics=(MetricOffer(metric="exact_match"),)),
        "text": TaskOffer(
            name="text",
            output_type="loglikelihood_rolling",
            metrics=(MetricOffer(metric="bits_per_byte", higher_is_better=False),),
        ),
    },
    methods=("linear",),
    strategies=("random", "nsga2", "gp_hypervolume"),
)


def spec(*objectives, **changes):
    document = {
        "name": "n",
        "pool": {"checkpoints": [{"name": "a", "path": "/a"}, {"name": "b", "path": "/b"}]},
        "objectives": list(objectives),
        "budget": {"evaluations": 1},
    }
    return parse_spec(document | changes)


def errors_of(wanted):
    with pytest.raises(InvalidSpec) as caught:
        resolve(wanted, INVENTORY)
    return caught.value.errors


def test_directions_come_from_the_tasks():
    resolved = resolve(
        spec({"task": "sort", "metric": "exact_match"}, {"task": "text", "metric": "bits_per_byte"}), INVENTORY
    )
    assert [objective.direction for objective in resolved.objectives] == ["maximize", "minimize"]


def test_a_direction_that_was_given_stays():
    wanted = spec({"task": "sort", "metric": "exact_match", "direction": "minimize"})
    assert resolve(wanted, INVENTORY) == wanted


def test_an_unknown_task_gets_a_suggestion():
    [error] = errors_of(spec({"task": "sorts", "metric": "exact_match"}))
    assert error.field == "objectives.0.task"
    assert "did you mean 'sort'" in error.message
    assert error.allowed == "sort, text"


def test_an_unknown_metric_gets_a_suggestion():
    [error] = errors_of(spec({"task": "sort", "metric": "exact_matches"}))
    assert error.field == "objectives.0.metric"
    assert "did you mean 'exact_match'" in error.message


def test_an_unknown_filter_method_and_strategy_are_named_together():
    wanted = spec(
        {"task": "sort", "metric": "exact_match", "filter": "strict"},
        strategy={"kind": "sobol"},
        space={"kind": "task_arithmetic"},
        pool={
            "checkpoints": [{"name": "a", "path": "/a"}, {"name": "b", "path": "/b"}],
            "base": {"name": "base", "path": "/base"},
        },
    )
    assert {e.field for e in errors_of(wanted)} == {"objectives.0.filter", "strategy.kind", "space.kind"}
