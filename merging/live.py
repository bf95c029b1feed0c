"""The live model: one transformers model whose parameters are rewritten in place for every candidate."""

import math
import time
from collections.abc import Iterator

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from campaigns.pools import Dtype
from campaigns.recipe import Recipe
from merging.causal_model import Place, build_model, find_places
from merging.dtypes import RECIPE_DTYPES
from merging.kernel import COMPILE_FROM_ELEMENTS, DEVICE_BLOCK_ELEMENTS, Kernel, merging_threads
from merging.l1_distance import l1_parts
from merging.pool_files import PoolFiles
from merging.residence import residence_on
from merging.runs import Run, Slot, plan_runs
from merging.threads import spread

ALIGNMENT_BYTES = 64
"""Parameters start where torch's own allocator would put them: some kernels' results depend on alignment."""
CPU_WINDOW_ELEMENTS = 1 << 24
"""Elements that a thread merges before it takes the next: enough to make up for the call, few enough to share out."""


class LiveModel:
    """A model in evaluation mode and its tokenizer, built once from the pool's template; no code of checkpoints is run.

    The parameters are views of one buffer per type, laid out like the files, so that a candidate is written in a few
    passes over memory. Each has the value that loading the merged files as `dtype` would give; when a recipe's dtype is
    `dtype`, they are the files' bytes. Tensors that the files leave out because they are tied follow their twins. Where
    the sources stay is planned from their size (`merging.residence`).
    Raises `InvalidCheckpoint` when the architecture does not take exactly the tensors of the template.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def __init__(
        self, pool_files: PoolFiles, dtype: Dtype, device: str | torch.device = "cpu", compiled: bool | None = None
    ) -> None:
        self.pool_files = pool_files
        self.device = torch.device(device)
        self.compiled = pool_files.pool.parameter_count >= COMPILE_FROM_ELEMENTS if compiled is None else compiled
        path = pool_files.template.path
        self.model = build_model(pool_files.template, RECIPE_DTYPES[dtype], self.device)
        self._places = find_places(self.model, pool_files.template)
        self.tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
        self._residence = residence_on(self.device, _size_bytes(pool_files))
        self._window_elements = CPU_WINDOW_ELEMENTS if self.device.type == "cpu" else DEVICE_BLOCK_ELEMENTS
        self._buffers = [self._buffer(names, kind) for kind, names in self._names_by_dtype().items()]

    @torch.no_grad()
    def write(self, recipe: Recipe) -> float:
        """Write the merge that `recipe` describes into the live parameters; return the seconds it took.

        Always from the sources, never from what was there before. Raises `InvalidInput` for a recipe that this pool
        cannot make and `InvalidCheckpoint` when the sources changed on disk; the parameters are untouched then.
        """
        started = time.perf_counter()
        self.pool_files.check(recipe)
        self.pool_files.verify()
        kernel = Kernel(recipe, self.pool_files, self.compiled)
        threads = merging_threads(kernel) if self.device.type == "cpu" else 1

        def merge(window: tuple[torch.Tensor, Run, int]) -> None:
            kernel.merge_run(window[1], window[0], window[2])

        for _ in spread(lambda: torch.no_grad()(merge), self._windows(kernel), threads):
            pass
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - started

    def _windows(self, kernel: Kernel) -> Iterator[tuple[torch.Tensor, Run, int]]:
        """Yield parameters, the run that they are merged from, and the element of it where they begin."""
        for values, runs in self._buffers:
            for run in runs:
                for start, stop in kernel.windows(run, self._window_elements, self._window_elements):
                    yield values[run.start + start : run.start + stop], run, start

    @torch.no_grad()
    def delta_l1(self) -> float:
        """Return sum |theta - theta_0| over the tensors of the files: the L1 norm of the merged task vector.

        theta are the live parameters, theta_0 those of the pool's base, rounded to the type of theta. Any number of
        threads gives the same bits. Raises RuntimeError where the pool has no base.
        """
        base = self.pool_files.pool.base
        if base is None:
            raise RuntimeError("a pool without a base has no task vectors")
        return math.fsum(
            part
            for values, runs in self._buffers
            for run in runs
            for part in l1_parts(values[run.start : run.start + run.count], run.sources[base.digest])
        )

    def _names_by_dtype(self) -> dict[torch.dtype, list[str]]:
        """Group the merged tensors that the model has by the type it has them in: some stay float32 by design."""
        groups: dict[torch.dtype, list[str]] = {}
        for name, place in self._places.items():
            groups.setdefault(getattr(*place).dtype, []).append(name)
        return groups

    def _buffer(self, names: list[str], dtype: torch.dtype) -> tuple[torch.Tensor, list[Run]]:
        """Make the model's tensors views of one new buffer; return it with the runs that fill it."""
        slots: list[Slot] = []
        step = ALIGNMENT_BYTES // dtype.itemsize
        size = 0
        for name in names:
            slots.append(Slot(name, size, self.pool_files.template.tensors[name].count))
            size += -(-slots[-1].count // step) * step
        values = torch.zeros(size, dtype=dtype, device=self.device)
        placed: set[int] = set()
        for slot in slots:
            _place(self._places[slot.name], values[slot.start : slot.start + slot.count], placed)
        runs = plan_runs(slots, self.pool_files.checkpoints)
        return values, [run.kept(self._residence, self.device) for run in runs]


def _size_bytes(pool_files: PoolFiles) -> int:
    return sum(t.stop - t.start for files in pool_files.checkpoints.values() for t in files.tensors.values())


def _place(place: Place, values: torch.Tensor, placed: set[int]) -> None:
    """Let the model's tensor at `place` live in `values` (1-D), and note it in `placed`.

    Two tensors of the files that the model ties are untied: so does transformers when it loads them and they differ.
    """
    tensor = getattr(*place)
    view = values.view(tensor.shape)
    if id(tensor) in placed:
        setattr(*place, nn.Parameter(view, requires_grad=False))
        return
    tensor.requires_grad_(False)
    tensor.data = view
    placed.add(id(tensor))
