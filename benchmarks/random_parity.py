"""Whether methods that drop at random do so as their formulas say: how often, how much enlarged, which moments."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import reference_merges as reference
import torch
from mergekit_cases import SOURCES, Case, Tensors, Tools, load, weight

WATCHED = "model.layers.1.mlp.up_proj.weight"
SMALL = 1e-5
"""Differences from the base below this are lost in float32's rounding of the weights."""
Factor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Experiment:
    """One method on the float32 checkpoints: task vectors per source, and the merge by one tool with one seed."""

    case: Case
    tools: Tools
    base: Tensors
    deltas: list[Tensors]
    seeds: int

    def merged(self, tool: str, case: Case, seed: int) -> Tensors:
        """Return the merged task vectors in float64."""
        document = case.document(self.tools.folder / "float32", out_dtype="float32")
        merged = getattr(self.tools, tool)(document, seed)
        return {name: merged[name].double() - tensor.double() for name, tensor in self.base.items()}


def random_rows(tools: Tools, case: Case, seeds: int) -> list[dict[str, Any]]:
    """Return one row per tool."""
    folder = tools.folder / "float32"
    base = load(folder / "base")
    deltas = [{name: (tensor - base[name]).double() for name, tensor in load(folder / s).items()} for s in SOURCES]
    experiment = Experiment(case, tools, base, deltas, seeds)
    rows = []
    for tool, factor in (("mergekit", l1_factor), ("mergefront", inverse_probability)):
        row: dict[str, Any] = {"case": case.name, "tool": tool}
        try:
            row |= kept_alone(experiment, tool) | moments(experiment, tool, factor)
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {error}"
        rows.append(row)
    return rows


def kept_alone(experiment: Experiment, tool: str) -> dict[str, float]:
    """Merge the first source with weight 1, the others with 0; return how often elements are kept, and enlarged.

    `kept_by_two_seeds` is the density squared where seeds are independent.
    """
    case = experiment.case
    alone = replace(case, own=case.own | weight(1.0, 0.0, 0.0), shared=case.shared | {"normalize": False})
    delta = experiment.deltas[0][WATCHED]
    large, rank = delta.abs() > SMALL, row_ranks(delta)
    merged = [experiment.merged(tool, alone, seed)[WATCHED] for seed in range(experiment.seeds)]
    masks = [found.abs() > delta.abs() / 2 for found in merged]

    def share(where: torch.Tensor) -> float:
        return float(np.mean([mask[where & large].double().mean() for mask in masks]))

    kept = share(large)
    both = [(a & b)[large].double().mean() for a, b in itertools.pairwise(masks)]
    enlarged = [
        found[large & mask].abs().sum() / delta[large & mask].abs().sum()
        for found, mask in zip(merged, masks, strict=True)
    ]
    return {
        "kept": kept,
        "kept_error": float(np.sqrt(kept * (1 - kept) / (int(large.sum()) * experiment.seeds))),
        "kept_of_smallest_tenth": share(rank < 0.1),
        "kept_of_largest_tenth": share(rank > 0.9),
        "kept_by_two_seeds": float(np.mean(both)),
        "enlarged": float(np.mean(enlarged)),
    }


def row_ranks(delta: torch.Tensor) -> torch.Tensor:
    """Return the rank of each magnitude within its row, from 0 to 1; a 1-D tensor is one row."""
    rows = delta.abs().reshape(-1, delta.shape[-1])
    return (rows.argsort(1).argsort(1).double() / (rows.shape[1] - 1)).reshape(delta.shape)


def probabilities(case: Case, delta: torch.Tensor, index: int) -> torch.Tensor:
    """Return the probability that each element of source `index` is kept."""
    density = case.own["density"][index]
    if not case.method.startswith("della"):
        return torch.full_like(delta, density)
    epsilon = case.shared.get("epsilon", 0.15)
    return density - epsilon + 2 * epsilon * row_ranks(delta)


def l1_factor(delta: torch.Tensor, probability: torch.Tensor) -> torch.Tensor:
    """mergekit's: what is kept gets the L1 norm of the whole, in the mean over masks."""
    return (delta.abs().sum() / (probability * delta.abs()).sum()).expand_as(delta)


def inverse_probability(delta: torch.Tensor, probability: torch.Tensor) -> torch.Tensor:
    """The papers', and Mergefront's."""
    return 1 / probability


def moments(experiment: Experiment, tool: str, factor: Factor) -> dict[str, float]:
    """Return the slope of the mean over seeds against what is to be expected (1), and its standard error.

    `scatter` is the mean of the squared deviations from the expectation over those to be expected (1).
    """
    total = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in experiment.base.items()}
    for seed in range(experiment.seeds):
        merged = experiment.merged(tool, experiment.case, seed)
        total = {name: total[name] + merged[name] for name in total}
    fit = square = error = scatter = count = 0.0
    for name, summed in total.items():
        if summed.ndim < 2:  # mergekit's factor varies with the mask where elements are few
            continue
        expected, variance = expectation(experiment.case, [d[name] for d in experiment.deltas], factor)
        mean, variance = summed / experiment.seeds, variance / experiment.seeds
        fit += float((mean * expected).sum())
        square += float(expected.square().sum())
        error += float((expected.square() * variance).sum())
        known = variance > SMALL**4  # below, the rounding of float32 counts
        scatter += float(((mean - expected).square() / variance)[known].sum())
        count += int(known.sum())
    return {"slope": fit / square, "slope_error": error**0.5 / square, "scatter": scatter / count}


def expectation(case: Case, deltas: list[torch.Tensor], factor: Factor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and variance of a tensor's merged task vector over all 2^K outcomes of keeping and dropping."""
    keep = [probabilities(case, delta, index) for index, delta in enumerate(deltas)]
    is_rescaled = case.shared.get("rescale", True)
    enlarged = [d * factor(d, p) if is_rescaled else d for d, p in zip(deltas, keep, strict=True)]
    mean, square = torch.zeros_like(deltas[0]), torch.zeros_like(deltas[0])
    for outcome in itertools.product((0.0, 1.0), repeat=len(deltas)):
        chance = torch.ones_like(deltas[0])
        for is_kept, p in zip(outcome, keep, strict=True):
            chance = chance * (p if is_kept else 1 - p)
        merged = combined(case, [is_kept * delta for is_kept, delta in zip(outcome, enlarged, strict=True)])
        mean += chance * merged
        square += chance * merged.square()
    return mean, square - mean.square()


def combined(case: Case, deltas: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return the merged task vector of what was kept."""
    arrays, weights = [delta.numpy() for delta in deltas], case.own["weight"]
    zero = np.zeros_like(arrays[0])
    if case.method in ("dare_linear", "della_linear"):
        return torch.from_numpy(reference.task_arithmetic(arrays, zero, weights))
    normalize = case.shared.get("normalize", case.method == "della")
    return torch.from_numpy(reference.ties(arrays, zero, weights, [1.0] * len(arrays), normalize=normalize))
