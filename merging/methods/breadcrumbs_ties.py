"""The masks of model breadcrumbs with the sign election of TIES (arXiv 2312.06795, 2306.01708)."""

from typing import ClassVar

import torch

from campaigns.methods import BreadcrumbsTiesMerge, Method
from merging.methods.breadcrumbs import breadcrumb_cuts, breadcrumbs_of
from merging.methods.method import Block, Numbers, base_if_unmoved
from merging.methods.sign_election import elected_sum, election_flags
from merging.tensor_facts import TensorFacts


class BreadcrumbsTies:
    """theta = theta_0 + scale * (weighted mean of the breadcrumbs m_i tau_i that have the elected sign)."""

    per_tensor: ClassVar[bool] = True
    skips_zero_weights: ClassVar[bool] = False

    def numbers(self, method: Method, facts: TensorFacts) -> Numbers:
        """Return K weights, K upper and K lower thresholds, scale; K upper and K lower positions."""
        assert isinstance(method, BreadcrumbsTiesMerge)
        thresholds, positions = breadcrumb_cuts(method.densities, method.gamma, facts)
        return Numbers(
            [*method.weights, *thresholds, method.scale],
            positions,
            flags=election_flags(method.weights, method.normalize),
        )

    def formula(self, block: Block) -> torch.Tensor:
        """Return theta_0 + scale * merged, in float32."""
        count = len(block.sources)
        merged = elected_sum(breadcrumbs_of(block), block.floats, block.flags)
        return block.origin() + merged * block.floats[3 * count]

    def verbatim(self, method: Method) -> int | None:
        """Return -1, the base, when nothing is added to it."""
        assert isinstance(method, BreadcrumbsTiesMerge)
        return base_if_unmoved(method.scale, method.weights, method.densities)
