"""Complete trials with outcomes per item, as the store gives them back."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from campaigns.methods import LinearMerge
from campaigns.objectives import Measurement, Split
from campaigns.recipe import Recipe
from campaigns.states import TrialState
from campaigns.trial import Candidate, Kind, Trial

MakeTrial = Callable[..., Trial]


@pytest.fixture
def measure() -> Callable[..., Measurement]:
    """Measure an objective: the value is the mean outcome unless one is given."""

    def make(objective: str, outcomes: Sequence[float], split: Split = "search", **changes: Any) -> Measurement:
        fields = {
            "value": float(np.mean(outcomes)) if len(outcomes) else 0.0,
            "standard_error": 0.1,
            "items": max(1, len(outcomes)),
            "item_ids": tuple(range(len(outcomes))),
            "protocol": "p",
        }
        return Measurement(objective=objective, split=split, outcomes=tuple(outcomes), **{**fields, **changes})

    return make


@pytest.fixture
def make_trial() -> MakeTrial:
    def make(number: int, *measurements: Measurement, kind: Kind = "candidate", label: str | None = None) -> Trial:
        recipe = Recipe(method=LinearMerge(weights=(1.0,)), sources=("a",), template="a", dtype="float32")
        return Trial(
            id=f"c-{number}",
            campaign_id="c",
            number=number,
            candidate=Candidate(kind=kind, label=label, point=(0.5,), parameters={}, recipe=recipe),
            state=TrialState.COMPLETE,
            created_at=datetime.now(UTC),
            measurements=measurements,
        )

    return make
