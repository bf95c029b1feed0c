"""Who chooses the next candidate, as asked for. `optimizer.strategies` holds the algorithms."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from campaigns.noun import Noun, wrong


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


class Nsga3Search(Noun):
    """Asynchronous (steady-state) NSGA-III: as NSGA-II, with reference directions; for four objectives and more."""

    kind: Literal["nsga3"] = "nsga3"
    population_size: int = Field(24, ge=4, le=1000, description="Also how many reference directions there are at most")
    initial_points: int | None = Field(
        None, ge=1, le=1000, description="Sobol points first; default: half a population"
    )
    crossover_eta: float = Field(2.0, gt=0, description="Distribution index of simulated binary crossover")
    mutation_eta: float = Field(20.0, gt=0, description="Distribution index of polynomial mutation")


class TpeSearch(Noun):
    """Tree-structured Parzen estimator by Optuna, multi-objective."""

    kind: Literal["tpe"] = "tpe"
    initial_points: int = Field(10, ge=1, le=1000, description="Sobol points first")
    candidates: int = Field(24, ge=1, le=10_000, description="Draws from the good points' density to choose from")
    multivariate: bool = Field(False, description="One density over all coordinates, not one for each")


class GpSearch(Noun):
    """Gaussian processes by Optuna: expected hypervolume improvement; beyond three objectives, random scalarizations.

    For hundreds of evaluations: what an ask costs grows with their cube, to seconds at a thousand.
    """

    kind: Literal["gp"] = "gp"
    initial_points: int = Field(10, ge=1, le=1000, description="Sobol points first")


class CmaEsSearch(Noun):
    """CMA-ES on one number per candidate, the objectives' own weights in it: checkpoint recycling (arXiv 2412.04144).

    The number is the macro-average, or the augmented Tchebycheff distance from the best losses seen, each loss in units
    of the range seen: it reaches the balanced points of a front that bulges inwards, which no average prefers.
    """

    kind: Literal["cma_es"] = "cma_es"
    sigma: float = Field(0.25, gt=0, le=1, description="Initial step size, in units of the unit cube's side")
    population_size: int | None = Field(None, ge=3, le=1000, description="Default: 4 + floor(3 ln n)")
    scalarization: Literal["mean", "tchebycheff"] = "mean"
    start: Literal["best", "center", "uniform"] = Field(
        "best", description="The best baseline, the unit cube's center, or 1/n in each of its n coordinates"
    )


class GpHypervolumeSearch(Noun):
    """Bayesian search: a Gaussian process per loss, expected hypervolume improvement by random scalarizations.

    Scalarizations: arXiv 2006.04655. Made for short searches with many workers; long ones end as NSGA-II.
    """

    kind: Literal["gp_hypervolume"] = "gp_hypervolume"
    initial_points: int | None = Field(
        None, ge=1, le=1000, description="Sobol points first, less what is known already; default: 2n, from 8 to 16"
    )
    model_observations: int = Field(
        200, ge=10, le=1000, description="With more than this, NSGA-II goes on: what a model costs grows with its cube"
    )


class QnehviSearch(Noun):
    """Bayesian search: a Gaussian process per objective, noisy expected hypervolume improvement (arXiv 2105.08195)."""

    kind: Literal["qnehvi"] = "qnehvi"
    initial_points: int | None = Field(None, ge=1, le=1000, description="Sobol points first; default: 2 (n + 1)")
    samples: int = Field(64, ge=1, le=128, description="Monte Carlo samples; fewer where objectives are many")
    scanned_points: int = Field(64, ge=2, le=10_000, description="Points that climbs may start from")
    climbs: int = Field(4, ge=1, le=64, description="Gradient ascents per proposal")


class MmMoSearch(Noun):
    """MM-MO: Bayesian batches moved towards the best configurations and screened by Fisher (arXiv 2407.00487)."""

    kind: Literal["mm_mo"] = "mm_mo"
    initial_points: int = Field(10, ge=1, le=1000, description="Random points first")
    proposals: int = Field(10, ge=1, le=100, description="Points that a batch is screened from")
    batch_size: int = Field(5, ge=1, le=100, description="Points of a batch, at most `proposals`")
    samples: int = Field(64, ge=1, le=128, description="Monte Carlo samples; fewer where objectives are many")
    scanned_points: int = Field(64, ge=2, le=10_000, description="Points that climbs may start from")
    climbs: int = Field(4, ge=1, le=64, description="Gradient ascents per proposal")

    @model_validator(mode="after")
    def _batch_from_proposals(self) -> "MmMoSearch":
        if self.batch_size > self.proposals:
            allowed = f"at most {self.proposals}"
            raise wrong("batch_size", self.batch_size, "more points than there are proposals", allowed)
        return self


Strategy = Annotated[
    RandomSearch
    | SobolSearch
    | Nsga2Search
    | Nsga3Search
    | CmaEsSearch
    | TpeSearch
    | GpSearch
    | GpHypervolumeSearch
    | QnehviSearch
    | MmMoSearch,
    Field(discriminator="kind"),
]
