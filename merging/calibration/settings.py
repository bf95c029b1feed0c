"""What is computed about a checkpoint, and on how much text."""

from typing import Literal

from pydantic import Field, field_validator

from campaigns.methods import StatisticsKind
from campaigns.noun import Noun


class CalibrationSettings(Noun):
    """Which statistics, of how many tokens: Gram matrices of linear layers' inputs, their diagonals, diagonal Fisher.

    `dtype` is the type that the model computes in, whatever the files hold; statistics are float32 in any case. The
    default float32 makes them the model's own: in bfloat16, activations have 8 bits, and what one rounding moves in a
    layer moves all that follow. bfloat16 halves the memory of the weights, for models that do not fit otherwise.
    float16 is not offered: gradients underflow in it.
    """

    kinds: tuple[StatisticsKind, ...] = Field(("gram_diagonal",), min_length=1)
    sequences: int = Field(128, ge=1)
    sequence_length: int = Field(512, ge=2, description="Tokens per sequence")
    batch_size: int = Field(4, ge=1, description="Sequences at once; with fisher it is always one")
    dtype: Literal["float32", "bfloat16"] = "float32"

    @field_validator("kinds")
    @classmethod
    def _sort(cls, kinds: tuple[StatisticsKind, ...]) -> tuple[StatisticsKind, ...]:
        """Let equal sets be equal settings. A Gram matrix brings its diagonal along."""
        return tuple(sorted({*kinds, "gram_diagonal"} if "gram" in kinds else {*kinds}))

    @property
    def tokens(self) -> int:
        """The number of tokens of all sequences."""
        return self.sequences * self.sequence_length
