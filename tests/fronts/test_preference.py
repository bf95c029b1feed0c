import math

import pytest

from campaigns.objectives import Objective
from fronts.preference import knee, preferred

OBJECTIVES = (
    Objective(task="sort", metric="acc", direction="maximize", weight=0.0),
    Objective(task="text", metric="ppl", direction="minimize"),
)


@pytest.fixture
def front_of(make_trial, measure):
    def make(*points, split="search"):
        return [
            make_trial(
                number,
                *(
                    measure(objective.name, (), split, value=value)
                    for objective, value in zip(OBJECTIVES, point, strict=True)
                ),
            )
            for number, point in enumerate(points)
        ]

    return make


def test_the_knee_is_farthest_from_the_line_through_the_ends(front_of):
    points = [(0.0, 10.0), (0.6, 14.0), (0.8, 19.0), (1.0, 30.0)]
    front = front_of(*points)
    (x0, y0), (x1, y1) = (0.0, 0.0), (1.0, 1.0)  # the ends, with the perplexity scaled by its range of 20
    distances = [
        abs((x1 - x0) * (y0 - (ppl - 10) / 20) - (x0 - acc) * (y1 - y0)) / math.hypot(x1 - x0, y1 - y0)
        for acc, ppl in points
    ]
    assert knee(front, OBJECTIVES).number == distances.index(max(distances)) == 1


def test_a_straight_front_has_its_first_trial_as_knee(front_of):
    assert knee(front_of((0.0, 10.0), (0.5, 20.0), (1.0, 30.0)), OBJECTIVES).number == 0
    assert knee(front_of((0.5, 10.0)), OBJECTIVES).number == 0


def test_the_split_that_is_asked_for_decides(front_of):
    search, holdout = front_of((0.2, 9.0), (0.9, 9.5)), front_of((0.9, 9.0), (0.2, 9.5), split="holdout")
    front = [a.replace(measurements=a.measurements + b.measurements) for a, b in zip(search, holdout, strict=True)]
    assert preferred(front, OBJECTIVES, {"sort/acc": 1.0}).number == 1
    assert preferred(front, OBJECTIVES, {"sort/acc": 1.0}, "holdout").number == 0
