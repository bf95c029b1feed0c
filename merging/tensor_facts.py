"""What a merge method may ask about one tensor of the pool before it merges it."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from campaigns.recipe import Recipe
from merging.calibration import CalibrationStatistics
from merging.magnitudes import Magnitudes, Saliencies, TaskMagnitudes, members_of_rows
from merging.mapping import unmap
from merging.masks import random_keys
from merging.pool_files import PoolFiles
from merging.selection import Cut, Look, MagnitudeTable

UNMAPPED_FROM_ELEMENTS = 1 << 23
"""Sources of longer tensors are unmapped at once: mapping them again costs less than the memory of all of them."""


@dataclass(frozen=True)
class TensorFacts:
    """One tensor of a recipe's sources and base: whole, 1-D, on the device where it is merged.

    `compiled` is whether long passes may be compiled, `frugal` whether sources are unmapped after them, `loaded`
    whether they lie in buffers instead of mapped files, as what else there is of the tensor should.
    """

    name: str
    shape: tuple[int, ...]
    sources: Sequence[torch.Tensor]
    base: torch.Tensor | None
    recipe: Recipe
    pool_files: PoolFiles
    compiled: bool = False
    frugal: bool = False
    loaded: bool = False

    @property
    def count(self) -> int:
        """The number of elements."""
        return len(self.sources[0])

    @property
    def device(self) -> torch.device:
        """Where the tensor is merged."""
        return self.sources[0].device

    def dot_products(self, base: str | None = None) -> npt.NDArray[np.float64]:
        """Return <x_i, x_j> over the sources, or over their task vectors from a base; float64, square."""
        return self.pool_files.lookups.dot_products(self.recipe.sources, base, self.name)

    def random_keys(self) -> list[int]:
        """Return the two keys of each source's chances (`merging.masks.chances`), one source after the other."""
        return [key for source in self.recipe.sources for key in random_keys(self.recipe.seed, self.name, source)]

    def row_ranks(self, index: int) -> torch.Tensor:
        """Return the level, 0 to 255, of each |tau| of source `index` within its row; uint8, 1-D."""
        source = self.recipe.sources[index]
        ranks = self.pool_files.lookups.row_ranks(source, self._base, self.name, copied=self.loaded)
        return ranks.to(self.device)

    def largest(self, counts: Sequence[int]) -> list[Cut]:
        """Return for each count the cut that has so many of the largest |tau| before it, of equals the first.

        Counts are for one source after the other, once or several times around: one pass finds them all.
        """
        lookups = self.pool_files.lookups
        rounds = len(counts) // len(self.sources)
        is_large = self.frugal and self.count >= UNMAPPED_FROM_ELEMENTS
        tables = [lookups.magnitudes(source, self._base, self.name) for source in self.recipe.sources] * rounds
        sources = [*self.sources] * rounds
        found = [table.look(count) for table, count in zip(tables, counts, strict=True)]
        if self.frugal or self.loaded:
            unmap(torch.from_numpy(numbers) for table in tables for numbers in (table.prefixes, table.upto))
        rows: Sequence[torch.Tensor | None] = [None] * len(found)
        if self.compiled and self.device.type == "cpu" and any(isinstance(look, Look) for look in found):
            limits = [(look.lower, look.upper) if isinstance(look, Look) else (math.inf, math.inf) for look in found]
            rows = [*members_of_rows(sources, self._origin, limits, is_large)]
        cuts = []
        for look, source, members in zip(found, sources, rows, strict=True):
            cuts.append(look if isinstance(look, Cut) else look.into(TaskMagnitudes(source, self._origin, members)))
            if is_large:
                unmap([source])
        return cuts

    def largest_of_model(self, index: int, density: float) -> Cut:
        """Return what the cut of source `index` over all tensors, with `density` of them before it, is in this one."""
        return self.pool_files.lookups.model_cut(self.recipe.sources[index], self._base, density, self.name)

    def most_salient(self, index: int, count: int) -> Cut:
        """Return the cut that has the `count` largest saliencies of source `index` before it."""
        saliencies = self.saliencies(index)
        return MagnitudeTable.of(saliencies).largest(count, saliencies)

    def saliencies(self, index: int, free: torch.Tensor | None = None) -> Magnitudes:
        """Return tau^2 * diag(X X^T) of source `index`, the diagonal by columns (arXiv 2502.12217).

        Elements that are not `free` (boolean, 1-D) count as 0.
        """
        return Saliencies(self.sources[index], self._origin, self.input_energies(index), free)

    def input_energies(self, index: int) -> torch.Tensor:
        """Return diag(X X^T) / n of source `index` by column, or by element where inputs run along the rows; float32.

        Tensors that multiply no input have just a 1.
        """
        statistics = self.statistics(index)
        energies = statistics.gram_diagonal(self.name)
        if energies is None:
            return torch.ones(1, device=self.device)
        if statistics.input_axis(self.name) == 0:
            energies = energies.repeat_interleave(self.count // len(energies))
        return energies.to(self.device)

    def statistics(self, index: int) -> CalibrationStatistics:
        """Return the calibration statistics of source `index`; recipes without are refused before."""
        return self.pool_files.statistics[self.recipe.sources[index]]

    def task_vector(self, index: int, elements: slice | torch.Tensor) -> torch.Tensor:
        """Return tau of source `index`, of the chosen elements; float32."""
        return self.sources[index][elements].float() - self._origin[elements].float()

    def task_vectors(self, elements: slice | torch.Tensor) -> list[torch.Tensor]:
        """Return tau_i of the chosen elements for each source; float32."""
        return [self.task_vector(index, elements) for index in range(len(self.sources))]

    def all_tensors(self) -> Iterator["TensorFacts"]:
        """Yield these facts for every merged tensor of the pool, from the page cache."""
        for name, tensor in self.pool_files.template.merged_tensors.items():
            sources = [self._whole(digest, name) for digest in self.recipe.sources]
            base = None if self.recipe.base is None else self._whole(self.recipe.base, name)
            yield replace(self, name=name, shape=tensor.shape, sources=sources, base=base)
            unmap([*sources, *([] if base is None else [base])])

    def remembered(self, what: str, find: Callable[["TensorFacts"], list[float]]) -> list[float]:
        """Return numbers of the whole model, found once for the recipe's sources, base and statistics."""
        key = (what, self.recipe.sources, self.recipe.base, self.recipe.statistics)
        return self.pool_files.lookups.remembered(key, lambda: find(self))

    def _whole(self, digest: str, name: str) -> torch.Tensor:
        return self.pool_files.checkpoints[digest].tensor(name).view(-1)

    @property
    def _base(self) -> str:
        assert self.recipe.base is not None
        return self.recipe.base

    @property
    def _origin(self) -> torch.Tensor:
        assert self.base is not None
        return self.base
