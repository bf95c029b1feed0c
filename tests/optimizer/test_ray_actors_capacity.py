"""What does not fit into the cluster is refused by field before an actor is asked for."""

import pytest

from campaigns.errors import InvalidSpec
from campaigns.spec import Resources
from optimizer.executors.ray_actors import check_capacity


def test_what_fits_passes():
    check_capacity(Resources(actors=2, cpus_per_actor=1), {"CPU": 2.0})


@pytest.mark.parametrize(
    ("resources", "field"),
    [
        (Resources(actors=3, cpus_per_actor=1), "resources.cpus_per_actor"),
        (Resources(actors=2, gpus_per_actor=0.5), "resources.gpus_per_actor"),
    ],
)
def test_what_does_not_fit_is_named(resources, field):
    with pytest.raises(InvalidSpec, match="do not fit into the cluster") as caught:
        check_capacity(resources, {"CPU": 2.0})
    assert [error.field for error in caught.value.errors] == [field]
