"""Spherical linear interpolation of two checkpoints (Shoemake, "Animating rotation with quaternion curves", 1985)."""

from typing import ClassVar

import torch

from campaigns.methods import Method, SlerpMerge
from merging.methods.method import Block, Numbers, weighted_sum
from merging.methods.spherical import slerp_weights
from merging.tensor_facts import TensorFacts

MIN_SINE = 0.0316187  # |cos a| above 0.9995: interpolated along the chord, as merge tools commonly do


class Slerp:
    """theta = sin((1 - t) a) / sin a theta_0' + sin(t a) / sin a theta_1', a their angle; tensors taken as vectors."""

    per_tensor: ClassVar[bool] = True
    skips_zero_weights: ClassVar[bool] = False

    def numbers(self, method: Method, facts: TensorFacts) -> Numbers:
        """Return the weights of the two sources."""
        assert isinstance(method, SlerpMerge)
        return Numbers(slerp_weights(facts.dot_products(), method.t, MIN_SINE))

    def formula(self, block: Block) -> torch.Tensor:
        """Return the weighted sum in float32."""
        return weighted_sum(block.sources, block)

    def verbatim(self, method: Method) -> int | None:
        """Return the first source for t = 0, the second for t = 1."""
        assert isinstance(method, SlerpMerge)
        return {0.0: 0, 1.0: 1}.get(method.t)
