"""What a search has learnt, over HTTP."""

import numpy as np
import pytest
from starlette.testclient import TestClient

from campaigns.campaign import SearchSummary


def test_importance_and_contributions_of_a_stored_search(client: TestClient, campaign_id: str, search) -> None:
    """Accuracy is the share of math, perplexity 10 without it and 8 with nothing else."""
    shares = [1.0, *np.random.default_rng(0).uniform(0.1, 0.9, 24).tolist()]
    for number, share in enumerate(shares):
        front = (f"{campaign_id}-1",) if number else ()
        summary = SearchSummary(front=front, reference_point=(0.1, 10.2))
        search.run(search.candidate(share, "candidate" if number else "parent", None), share, 10 - 2 * share, summary)
    found = client.get(f"/v1/campaigns/{campaign_id}/understanding").json()
    assert found["trials"] == 25
    assert min(found["r_squared"].values()) > 0.999
    assert set(found["importance"]["sums/acc"]) == {"weight.math", "weight.code"}
    assert set(found["contributions"]) == {"math", "code"}
    without_math = 0.1 * 0.2 / ((shares[1] + 0.1) * (2 * shares[1] + 0.2))
    assert found["contributions"]["math"]["hypervolume_loss"] == pytest.approx(1 - without_math, abs=1e-3)
    assert found["contributions"]["code"]["hypervolume_loss"] < 0  # these scores want math alone


def test_before_there_is_enough_to_learn_from(client: TestClient, campaign_id: str, search) -> None:
    search.three_trials()
    found = client.get(f"/v1/campaigns/{campaign_id}/understanding").json()
    assert found == {"trials": 3, "r_squared": None, "importance": None, "contributions": None}
    assert client.get("/v1/campaigns/none/understanding").status_code == 404
