"""The lease: a worker's claim on a campaign, good until it expires and somebody else takes it over."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Lease:
    """Proof that `worker_id` holds the campaign. `token` is new at every taking, so an old lease never fits again."""

    campaign_id: str
    worker_id: str
    token: str
