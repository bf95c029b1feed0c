"""The float64 formulas that the parity benchmark judges by, against values worked out by hand."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "reference_merges.py"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference_merges", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = load_script()
BASE = np.array([1.0, 1.0, 1.0, 1.0])


def moved(*task_vector: float) -> np.ndarray:
    return BASE + np.array(task_vector)


FIRST = moved(4.0, -3.0, 2.0, 1.0)
SECOND = moved(-1.0, -4.0, 3.0, -2.0)


def test_ties_trims_elects_and_divides_by_the_weights_that_agree():
    merged = reference.ties([FIRST, SECOND], BASE, weight=[1.0, 3.0], density=[0.5, 0.75])
    # Kept: [4, -3, 0, 0] and [0, -4, 3, -2]; signs +, -, +, -; weighted means of what agrees: 4, -15/4, 3, -2.
    np.testing.assert_allclose(merged - BASE, [4.0, -3.75, 3.0, -2.0])


def test_a_negative_weight_turns_the_sign_that_an_entry_votes_with():
    merged = reference.ties([FIRST, SECOND], BASE, weight=[1.0, -1.0], density=[1.0, 1.0], normalize=False)
    # Weighted: [4, -3, 2, 1] and [1, 4, -3, 2]; sums 5, 1, -1, 3; agreeing entries add up to 5, 4, -3, 3.
    np.testing.assert_allclose(merged - BASE, [5.0, 4.0, -3.0, 3.0])


def test_breadcrumbs_drops_the_largest_first_then_the_smallest():
    kept = reference.breadcrumbs([FIRST], BASE, weight=[1.0], density=[0.5], gamma=0.25) - BASE
    np.testing.assert_allclose(kept, [0.0, -3.0, 2.0, 0.0])


def test_breadcrumbs_drops_fewer_of_the_largest_where_not_enough_would_be_left():
    kept = reference.breadcrumbs([FIRST], BASE, weight=[1.0], density=[0.75], gamma=0.5) - BASE
    np.testing.assert_allclose(kept, [0.0, -3.0, 2.0, 1.0])


def test_sce_weighs_by_energy_what_varies_most():
    merged = reference.sce([FIRST, SECOND], BASE, select_topk=0.25)
    # Variances are 6.25, 0.25, 0.25, 2.25: the first is kept, with energies 16 and 1; the sum of signs is positive.
    np.testing.assert_allclose(merged - BASE, [4.0, 0.0, 0.0, 0.0])


def test_model_stock_goes_as_far_as_the_cosine_says():
    merged = reference.model_stock([moved(1.0, 0, 0, 0), moved(1.0, 1.0, 0, 0)], BASE)
    cosine = 1 / np.sqrt(2)
    np.testing.assert_allclose(merged - BASE, 2 * cosine / (1 + cosine) * np.array([1.0, 0.5, 0, 0]))


@pytest.mark.parametrize("t", [0.0, 0.25, 1.0])
def test_slerp_keeps_the_norm_of_vectors_of_one_length(t):
    base, source = np.array([3.0, 0.0]), np.array([0.0, 3.0])
    angle = t * np.pi / 2
    np.testing.assert_allclose(
        reference.slerp([source], base, t), 3 * np.array([np.cos(angle), np.sin(angle)]), atol=1e-12
    )


def test_the_spherical_means_of_two_orthogonal_vectors_lie_half_way():
    sources = [np.array([2.0, 0.0]), np.array([0.0, 4.0])]
    half_way = 3 * np.array([1.0, 1.0]) / np.sqrt(2)
    np.testing.assert_allclose(reference.karcher(sources, None), half_way)
    np.testing.assert_allclose(reference.multislerp(sources, None, weight=[1.0, 1.0]), half_way)


def test_elements_that_equal_those_across_the_cut_are_undetermined():
    source = moved(2.0, -1.0, 1.0, 0.5)
    parameters = {"weight": [1.0], "density": [0.5]}
    at_cut, _ = reference.undetermined("ties", [source], BASE, parameters)
    assert at_cut.tolist() == [False, True, True, False]
    at_cut, _ = reference.undetermined("ties", [source], BASE, {**parameters, "density": [0.75]})
    assert not at_cut.any()


def test_sums_that_cancel_have_an_undetermined_sign():
    _, at_zero = reference.undetermined(
        "ties", [moved(1.0, 1.0, 0, 0), moved(-1.0, 1.0, 0, 0)], BASE, {"weight": [0.3, 0.3], "density": [1.0, 1.0]}
    )
    assert at_zero.tolist() == [True, False, False, False]
