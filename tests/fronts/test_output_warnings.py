import pytest

from campaigns.objectives import Objective
from fronts.output_warnings import output_warnings

OBJECTIVES = (
    Objective(task="maths", metric="exact_match", direction="maximize"),
    Objective(task="maths", metric="f1", direction="maximize"),
    Objective(task="sort", metric="acc", direction="maximize"),
)


@pytest.fixture
def generating(make_trial, measure):
    def make(number, truncation, tokens, items=100):
        outputs = {"items": items, "truncation_rate": truncation, "output_tokens": tokens}
        return make_trial(
            number,
            measure("maths/exact_match", (), **outputs),
            measure("maths/f1", (), **outputs),
            measure("sort/acc", (1, 0)),
        )

    return make


@pytest.fixture
def parents(generating):
    return [generating(0, 0.0, 80.0), generating(1, 0.10, 120.0)]


@pytest.mark.parametrize(
    ("truncation", "items", "warns"),
    [
        (0.10, 100, False),
        (0.19, 100, False),  # 9 points more, but 2 standard errors are 2 sqrt((0.09 + 0.1539) / 100) = 9.9 points
        (0.21, 100, True),  # 11 points against 10.1
        (0.115, 10**6, False),  # certain, and less than 2 points
        (0.125, 10**6, True),
        (0.0, 100, False),
    ],
)
def test_truncation_beyond_the_parents_worst(generating, parents, truncation, items, warns):
    found = output_warnings(OBJECTIVES, generating(2, truncation, 100.0, items), parents, "search")
    assert len(found) == warns
    if warns:
        assert found[0].startswith("maths: ")
        assert "at the length limit, 10% at most among the parents" in found[0]


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        (180.0, None),
        (181.0, "maths: the mean output has 181 tokens, 120 at most among the parents"),
        (40.0, None),
        (39.0, "maths: the mean output has 39 tokens, 80 at least among the parents"),
    ],
)
def test_lengths_far_from_the_parents(generating, parents, tokens, told):
    found = output_warnings(OBJECTIVES, generating(2, 0.05, tokens), parents, "search")
    assert found == (() if told is None else (told,))  # once for the two objectives of the task


def test_both_reasons_are_told(generating, parents):
    assert len(output_warnings(OBJECTIVES, generating(2, 0.9, 512.0), parents, "search")) == 2


def test_without_parents_or_on_the_other_split_there_is_nothing_to_say(generating, parents):
    trial = generating(2, 0.9, 512.0)
    assert output_warnings(OBJECTIVES, trial, [], "search") == ()
    assert output_warnings(OBJECTIVES, trial, parents, "holdout") == ()
