"""Who chooses the next candidate, as asked for. `optimizer.strategies` holds the algorithms."""

from typing import Annotated, Literal

from pydantic import Field

from campaigns.noun import Noun


class RandomSearch(Noun):
    """Uniform draws from the unit cube: the baseline that every strategy must beat."""

    kind: Literal["random"] = "random"


class SobolSearch(Noun):
    """A scrambled Sobol sequence: uniform draws without clumps."""

    kind: Literal["sobol"] = "sobol"


class Nsga2Search(Noun):
    """Asynchronous (steady-state) NSGA-II: SBX and polynomial mutation, rank and crowding survival."""

    kind: Literal["nsga2"] = "nsga2"
    population_size: int = Field(24, ge=4, le=1000)
    initial_points: int | None = Field(
        None, ge=1, le=1000, description="Sobol points first; default: half a population"
    )
    crossover_eta: float = Field(2.0, gt=0, description="Distribution index of simulated binary crossover")
    mutation_eta: float = Field(20.0, gt=0, description="Distribution index of polynomial mutation")


class CmaEsSearch(Noun):
    """CMA-ES on the macro-average of the objectives, as in checkpoint recycling (arXiv 2412.04144)."""

    kind: Literal["cma_es"] = "cma_es"
    sigma: float = Field(0.25, gt=0, le=1, description="Initial step size, in units of the unit cube's side")
    population_size: int | None = Field(None, ge=3, le=1000, description="Default: 4 + floor(3 ln n)")


Strategy = Annotated[RandomSearch | SobolSearch | Nsga2Search | CmaEsSearch, Field(discriminator="kind")]
