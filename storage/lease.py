"""The lease: a worker's hold on a campaign, good until it expires and somebody else takes it over."""

from dataclasses import dataclass
from typing import NamedTuple

from campaigns.spec import Resources


@dataclass(frozen=True)
class Lease:
    """Proof that `worker_id` holds the campaign. `token` is new at every taking, so an old lease never fits again."""

    campaign_id: str
    worker_id: str
    token: str


class Claim(NamedTuple):
    """What a campaign asks of a cluster. Of equal priority, the one with the lower `sequence` is older."""

    campaign_id: str
    sequence: int
    priority: int
    resources: Resources
