"""The exception tree: drawn at the top of its file, and true to the drawing."""

import pickle
import re

import pytest

from campaigns import errors
from campaigns.errors import FieldError, InvalidSpec, MergefrontError, field_error, unknown_name


def tree():
    return {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, MergefrontError)
    }


def test_the_drawing_names_every_error_with_its_status():
    drawn = dict(re.findall(r"(\w+) +(\d{3}|-)(?= |\n)", errors.__doc__))
    assert set(drawn) == set(tree())
    for name, status in drawn.items():
        if status != "-":
            assert tree()[name].status == int(status)


def test_every_error_says_when_it_is_raised():
    assert all(kind.__doc__ for kind in tree().values())


def test_an_error_crosses_process_borders_whole():
    error = InvalidSpec([field_error("seed", -1, "must not be negative", "0 and up")])
    copy = pickle.loads(pickle.dumps(error))
    assert copy.errors == error.errors
    assert str(copy) == "seed: must not be negative; got -1 (allowed: 0 and up)"


def test_a_long_value_is_cut():
    assert len(field_error("f", "x" * 10_000, "m").value) < 200


@pytest.mark.parametrize(("value", "hint"), [("exact_mach", "did you mean 'exact_match'"), ("zzz", "no such metric")])
def test_near_names_are_suggested(value, hint):
    error = unknown_name("objectives.0.metric", value, ["exact_match", "acc"], "metric")
    assert isinstance(error, FieldError)
    assert hint in error.message
    assert error.allowed == "acc, exact_match"
