"""Sharing a cluster: a few shares that can be checked by hand, and what must hold of all."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaigns.spec import Resources
from optimizer.sharing import Node, divide, fits, misfit
from storage import Claim


def claim(name, sequence=0, priority=10, **resources):
    return Claim(name, sequence, priority, Resources(**{"actors": 1024, **resources}))


SIZES = st.sampled_from([(1, 0.0), (2, 0.0), (5, 0.0), (1, 0.25), (1, 0.5), (2, 1.0), (4, 2.0)])
NODES = st.lists(st.builds(Node, st.sampled_from([0.0, 1.0, 4.0, 16.0]), st.integers(0, 3)), min_size=1, max_size=4)


@st.composite
def claims_of(draw, sizes=SIZES):
    found = []
    for sequence in range(draw(st.integers(1, 6))):
        cpus, gpus = draw(sizes)
        resources = Resources(actors=draw(st.integers(1, 12)), cpus_per_actor=cpus, gpus_per_actor=gpus)
        found.append(Claim(f"c{sequence}", sequence, draw(st.integers(1, 100)), resources))
    return found


def used(claims, shares, field):
    return sum(shares[c.campaign_id] * getattr(c.resources, field) for c in claims)


@pytest.mark.parametrize(
    ("cpus", "claims", "shares"),
    [
        (8, [claim("a")], {"a": 8}),
        (8, [claim("a", actors=3)], {"a": 3}),
        (8, [claim("a"), claim("b", 1)], {"a": 4, "b": 4}),
        (9, [claim("a"), claim("b", 1)], {"a": 5, "b": 4}),
        (8, [claim("a", actors=2), claim("b", 1)], {"a": 2, "b": 6}),
        (8, [claim("a", priority=10), claim("b", 1, priority=30)], {"a": 2, "b": 6}),
        (4, [claim("a", priority=1), claim("b", 1, priority=100)], {"a": 1, "b": 3}),
        (8, [claim("a", cpus_per_actor=2), claim("b", 1)], {"a": 2, "b": 4}),
        (2, [claim("a"), claim("b", 1), claim("c", 2, priority=11)], {"a": 1, "b": 0, "c": 1}),
        (3, [claim("a", cpus_per_actor=4), claim("b", 1)], {"a": 0, "b": 3}),
        (0, [claim("a")], {"a": 0}),
    ],
)
def test_shares_that_can_be_checked_by_hand(cpus, claims, shares):
    assert divide([Node(cpus)], claims) == shares


@pytest.mark.parametrize(
    ("nodes", "gpus_per_actor", "actors"),
    [
        ([Node(64, 2)], 0.5, 4),
        ([Node(64, 2)], 0.4, 4),  # two on each device: the fifth would lie across two
        ([Node(64, 2)], 0.6, 2),
        ([Node(64, 1)], 0.1, 10),
        ([Node(64, 3), Node(64, 3)], 2.0, 2),
        ([Node(64, 1), Node(64, 1)], 2.0, 0),
    ],
)
def test_a_share_of_a_gpu_lies_on_one_device_and_whole_ones_on_one_machine(nodes, gpus_per_actor, actors):
    assert divide(nodes, [claim("a", gpus_per_actor=gpus_per_actor)]) == {"a": actors}


def test_machines_with_gpus_are_left_to_those_who_need_them():
    claims = [claim("cpu", cpus_per_actor=4, actors=1), claim("gpu", 1, cpus_per_actor=4, gpus_per_actor=1.0)]
    assert divide([Node(4, 1), Node(4)], claims) == {"cpu": 1, "gpu": 1}


@given(NODES, claims_of())
def test_never_more_than_there_is_or_than_is_wanted(nodes, claims):
    shares = divide(nodes, claims)
    assert used(claims, shares, "cpus_per_actor") <= sum(node.cpus for node in nodes)
    assert used(claims, shares, "gpus_per_actor") <= sum(node.gpus for node in nodes) + 1e-9
    assert all(0 <= shares[c.campaign_id] <= c.resources.actors for c in claims)


@given(st.integers(0, 40), claims_of(st.sampled_from([(1, 0.0), (2, 0.0), (5, 0.0)])))
def test_nothing_lies_idle_that_somebody_wants(cpus, claims):
    shares = divide([Node(cpus)], claims)
    left = cpus - used(claims, shares, "cpus_per_actor")
    wanting = [c for c in claims if shares[c.campaign_id] < c.resources.actors]
    assert all(c.resources.cpus_per_actor > left for c in wanting)


@given(st.integers(0, 40), claims_of(st.just((1, 0.0))), st.integers(0, 5), st.integers(1, 100))
def test_a_higher_priority_never_gets_fewer_actors(cpus, claims, index, raised):
    index %= len(claims)
    before = claims[index]
    more = [*claims[:index], before._replace(priority=max(raised, before.priority)), *claims[index + 1 :]]
    name = before.campaign_id
    assert divide([Node(cpus)], more)[name] >= divide([Node(cpus)], claims)[name]


@given(st.integers(0, 40), claims_of(st.just((1, 0.0))))
def test_of_equal_claims_the_higher_priority_then_the_older_has_no_less(cpus, claims):
    same = [c._replace(resources=claims[0].resources) for c in claims]
    shares = divide([Node(cpus)], same)
    order = sorted(same, key=lambda c: (-c.priority, c.sequence))
    assert all(shares[first.campaign_id] >= shares[second.campaign_id] for first, second in pairwise(order))


@given(NODES, claims_of())
def test_a_campaign_that_fits_has_an_actor_and_costs_nobody_the_last(nodes, claims):
    *held, newcomer = claims
    assert fits(nodes, newcomer, held) == (min(divide(nodes, claims).values()) >= 1)


@given(NODES, claims_of())
def test_what_never_fits_is_what_gets_nothing_alone(nodes, claims):
    alone = claims[0]
    assert (misfit(nodes, alone.resources) is not None) == (divide(nodes, [alone])[alone.campaign_id] == 0)


@pytest.mark.parametrize(
    ("resources", "field"),
    [
        ({"cpus_per_actor": 3}, "resources.cpus_per_actor"),
        ({"gpus_per_actor": 2.0}, "resources.gpus_per_actor"),
        ({"cpus_per_actor": 2, "gpus_per_actor": 1.0}, "resources"),
    ],
)
def test_what_never_fits_is_named(resources, field):
    error = misfit([Node(2), Node(1, 1)], Resources(**resources))
    assert error is not None
    assert [each.field for each in error.errors] == [field]
