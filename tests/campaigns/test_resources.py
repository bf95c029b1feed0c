"""What a campaign may ask of the cluster."""

import pytest

from campaigns.errors import InvalidSpec
from campaigns.spec import parse_spec

DOCUMENT = {
    "name": "n",
    "pool": {"checkpoints": [{"name": name, "path": f"/models/{name}"} for name in "ab"]},
    "objectives": [{"task": "t", "metric": "acc"}],
    "budget": {"evaluations": 1},
}


@pytest.mark.parametrize("gpus", [0, 0.01, 0.5, 1, 2, 16])
def test_shares_of_a_gpu_and_whole_ones_are_taken(gpus):
    assert parse_spec({**DOCUMENT, "resources": {"gpus_per_actor": gpus}}).resources.gpus_per_actor == gpus


@pytest.mark.parametrize("gpus", [0.001, 1.5, 2.01])
def test_other_numbers_of_gpus_are_refused_by_field(gpus):
    with pytest.raises(InvalidSpec, match="a share of one GPU, or whole ones") as caught:
        parse_spec({**DOCUMENT, "resources": {"gpus_per_actor": gpus}})
    assert [(each.field, each.value) for each in caught.value.errors] == [("resources.gpus_per_actor", str(gpus))]


def test_the_priority_has_a_default_and_bounds():
    assert parse_spec(DOCUMENT).priority == 10
    for wrong in (0, 101, 1.5):
        with pytest.raises(InvalidSpec) as caught:
            parse_spec({**DOCUMENT, "priority": wrong})
        assert [each.field for each in caught.value.errors] == ["priority"]
