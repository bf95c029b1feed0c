"""The recorded evaluations of the tiny zoo, and how near the surrogate comes to them."""

import gzip
import json

import numpy as np
import pytest
from record_zoo import KINDS, METRICS, PointSource, write_table
from search_problems import checkpoint_pool
from search_surrogate import (
    ACCURACIES,
    OBJECTIVES,
    Recorded,
    ZooSurrogate,
    cross_validated,
    error_table,
    read_table,
)

from campaigns.spaces import LinearSpace
from search_spaces import MethodMap

PARENTS = 8


@pytest.fixture(scope="module")
def recorded():
    return read_table()


def test_at_least_two_thousand_different_merges_are_on_record(recorded):
    assert len(np.unique(recorded.weights.round(6), axis=0)) == len(recorded.weights) >= 2000
    np.testing.assert_allclose(recorded.weights.sum(axis=1), 1.0)
    assert set(recorded.kinds) == {"baseline", *KINDS}


def test_accuracies_are_shares_of_the_items_and_their_errors_follow(recorded):
    for index, name in enumerate(OBJECTIVES):
        if name in ACCURACIES:
            right = -recorded.losses[:, index] * recorded.items
            np.testing.assert_allclose(right, right.round(), atol=1e-3)
            share = -recorded.losses[:, index]
            expected = np.sqrt(share * (1 - share) / (recorded.items - 1))
            np.testing.assert_allclose(recorded.standard_errors[:, index], expected, atol=1e-4)


def test_every_parent_and_the_uniform_soup_are_on_record(recorded):
    baselines = recorded.weights[recorded.kinds == "baseline"]
    for wanted in (*np.eye(PARENTS), np.full(PARENTS, 1 / PARENTS)):
        assert np.abs(baselines - wanted).max(axis=1).min() < 1e-9


def test_the_surrogate_reproduces_what_is_on_record(recorded):
    error = ZooSurrogate(recorded).losses(recorded.weights) - recorded.losses
    assert (np.sqrt((error**2).mean(axis=0)) < recorded.standard_errors.mean(axis=0)).all()


def test_where_it_has_not_seen_a_merge_it_is_as_near_as_the_items_are(recorded):
    predicted = cross_validated(recorded, folds=3)
    accuracies = [index for index, name in enumerate(OBJECTIVES) if name in ACCURACIES]
    score = recorded.losses[:, accuracies].mean(axis=1)
    good = score <= np.median(score)
    error = np.sqrt(((predicted - recorded.losses)[good] ** 2).mean(axis=0))
    assert (error < recorded.standard_errors.mean(axis=0)).all()


def smooth(count=120):
    """A table made of functions that the spline can learn."""
    weights = np.random.default_rng(1).dirichlet(np.ones(PARENTS), count)
    losses = -np.stack([1 - (weights[:, index] - 0.2) ** 2 for index in range(5)], axis=1)
    return Recorded(np.array(["sobol"] * count), weights, losses, np.full_like(losses, 0.01), 100)


def test_predictions_of_a_fold_come_from_the_others():
    table = smooth()
    changed = Recorded(table.kinds, table.weights, table.losses.copy(), table.standard_errors, table.items)
    changed.losses[0] = -0.5  # an outlier, whose own prediction must not know of it
    before, after = (cross_validated(found, folds=4)[0] for found in (table, changed))
    np.testing.assert_allclose(after, before, atol=1e-6)
    assert np.abs(ZooSurrogate(changed).losses(table.weights[:1])[0] - before).max() > 0.01


def test_accuracies_stay_shares_however_far_the_spline_goes():
    table = smooth()
    steep = Recorded(table.kinds, table.weights, -table.weights[:, :5] * 3, table.standard_errors, table.items)
    found = ZooSurrogate(steep).losses(np.eye(PARENTS))
    accuracies = [index for index, name in enumerate(OBJECTIVES) if name in ACCURACIES]
    assert found[:, accuracies].min() == -1.0
    assert found[:, accuracies].max() <= 0.0


def test_the_table_of_errors_has_a_row_for_each_objective():
    table = smooth()
    lines = error_table(table, table.losses + 0.01)
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == list(OBJECTIVES)
    assert all("| 0.0100 | 0.0100 | 0.0100 |" in line for line in lines[2:])  # by items, all over, in the good half


# How they were recorded


def fake_losses(point):
    return tuple(float((unit - 0.3) ** 2 + index) for index, unit in enumerate(point[: len(METRICS)]))


def taken(source, count):
    found = []
    for _ in range(count):
        kind, point = source.next()
        found.append((kind, point))
        source.tell(kind, point, fake_losses(point))
    return found


def test_points_take_turns_and_a_shard_that_starts_again_goes_on():
    space = MethodMap(LinearSpace(), checkpoint_pool(PARENTS))
    first = taken(PointSource(space, PARENTS, shard=0), 60)
    assert [kind for kind, _ in first[: PARENTS + 1]] == ["baseline"] * (PARENTS + 1)
    assert [kind for kind, _ in first[PARENTS + 1 : PARENTS + 5]] == list(KINDS)
    assert len({point for _, point in first}) == 59  # NSGA-II, too, begins with the first Sobol point
    again = PointSource(space, PARENTS, shard=0)
    for kind, point in first[:40]:
        assert again.next() == (kind, point)
        again.tell(kind, point, fake_losses(point))
    assert taken(again, 20) == first[40:]
    other = taken(PointSource(space, PARENTS, shard=1), 60)
    assert not {point for _, point in first[9:]} & {point for _, point in other[9:]}


def test_shards_become_one_table(tmp_path):
    line = {"kind": "sobol", "losses": [-0.5, -0.25, -1, 0, 0.7], "standard_errors": [0.05] * 5, "items": 100}
    for shard, units in enumerate((0.25, 0.75)):
        lines = [{**line, "point": [units] + [0.0] * 7}, {**line, "point": [1.0] * 8}]
        (tmp_path / f"shard{shard}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    write_table(tmp_path, tmp_path / "table.csv.gz")
    assert len(gzip.decompress((tmp_path / "table.csv.gz").read_bytes()).splitlines()) == 1 + 3
    table = read_table(tmp_path / "table.csv.gz")
    assert len(table.weights) == 2  # the two multiples of the first parent are one merge
    np.testing.assert_allclose(table.losses[0], line["losses"])
