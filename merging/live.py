"""The live model: one transformers model whose parameters are rewritten in place for every candidate."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from campaigns.errors import InvalidCheckpoint, field_error
from campaigns.pools import Dtype
from campaigns.recipe import Recipe
from merging.checkpoint import CheckpointFiles
from merging.dtypes import RECIPE_DTYPES
from merging.kernel import Kernel
from merging.pool_files import PoolFiles
from merging.runs import Run, Slot, plan_runs

ALIGNMENT_BYTES = 64
"""Parameters start where torch's own allocator would put them: some kernels' results depend on alignment."""
COMPILE_FROM_ELEMENTS = 64_000_000
"""From this size on, the seconds that compiling takes are won back within tens of candidates."""
SHOWN_NAMES = 5
LOADING_PROBLEMS = {
    "missing_keys": "the files lack tensors that the architecture needs",
    "unexpected_keys": "the files hold tensors that the architecture does not take",
    "mismatched_keys": "tensors have other shapes than the configuration says",
}
"""What transformers reports when it loads a checkpoint, in words."""


class LiveModel:
    """A model in evaluation mode and its tokenizer, built once from the pool's template; no code of checkpoints is run.

    The parameters are views of one buffer per type, laid out like the files, so that a candidate is written in a few
    passes over memory. Each has the value that loading the merged files as `dtype` would give; when a recipe's dtype is
    `dtype`, they are the files' bytes. Tensors that the files leave out because they are tied follow their twins. On
    another device than the CPU, the sources are kept there, too.
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
        self.model = _build(pool_files.template, RECIPE_DTYPES[dtype]).to(self.device)
        self.tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
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
        kernel = Kernel(recipe, self.compiled)
        for values, runs in self._buffers:
            for run in runs:
                kernel.merge_run(run, values[run.start : run.start + run.count])
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - started

    def _names_by_dtype(self) -> dict[torch.dtype, list[str]]:
        """Group the merged tensors that the model has by the type it has them in: some stay float32 by design."""
        groups: dict[torch.dtype, list[str]] = {}
        homeless = []
        for name in self.pool_files.template.merged_tensors:
            if (place := _find_place(self.model, name)) is not None:
                groups.setdefault(getattr(*place).dtype, []).append(name)
            elif not _is_ignored(self.model, name):
                homeless.append(name)
        _refuse(self.pool_files.template, {"the live model has no tensors of these names": homeless})
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
            _place(self.model, slot.name, values[slot.start : slot.start + slot.count], placed)
        return values, [run.to(self.device) for run in plan_runs(slots, self.pool_files.checkpoints)]


def _find_place(model: PreTrainedModel, name: str) -> tuple[nn.Module, str] | None:
    """Return the module and attribute of a file's tensor `name`, with or without the base model's prefix."""
    for path in (name, f"{model.base_model_prefix}.{name}", name.removeprefix(f"{model.base_model_prefix}.")):
        *parents, leaf = path.split(".")
        try:
            module = model.get_submodule(".".join(parents))
        except AttributeError:
            continue
        if isinstance(getattr(module, leaf, None), torch.Tensor):
            return module, leaf
    return None


def _place(model: PreTrainedModel, name: str, values: torch.Tensor, placed: set[int]) -> None:
    """Let the model's tensor `name` live in `values` (1-D), and note it in `placed`.

    Two tensors of the files that the model ties are untied: so does transformers when it loads them and they differ.
    """
    place = _find_place(model, name)
    assert place is not None
    tensor = getattr(*place)
    view = values.view(tensor.shape)
    if id(tensor) in placed:
        setattr(*place, nn.Parameter(view, requires_grad=False))
        return
    tensor.requires_grad_(False)
    tensor.data = view
    placed.add(id(tensor))


def _build(template: CheckpointFiles, dtype: torch.dtype) -> PreTrainedModel:
    with _without_progress_bars():
        model, report = AutoModelForCausalLM.from_pretrained(
            template.path,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    _refuse(template, {message: [str(n) for n in report[kind]] for kind, message in LOADING_PROBLEMS.items()})
    built: PreTrainedModel = model.eval()
    return built


def _refuse(template: CheckpointFiles, problems: Mapping[str, Sequence[str]]) -> None:
    errors = []
    for message, names in problems.items():
        if names:
            shown = ", ".join(sorted(names)[:SHOWN_NAMES]) + (", ..." if len(names) > SHOWN_NAMES else "")
            errors.append(field_error(template.field, shown, message))
    if errors:
        raise InvalidCheckpoint(errors)


def _is_ignored(model: PreTrainedModel, name: str) -> bool:
    """Whether transformers itself leaves this tensor of the files aside, as it does with computed buffers."""
    patterns = model._keys_to_ignore_on_load_unexpected or ()
    return any(re.search(pattern, name) for pattern in patterns)


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
