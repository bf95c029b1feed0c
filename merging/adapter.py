"""LoRA adapters (arXiv 2106.09685) as peft saves them: members of a pool by what they make of its base.

theta = theta_0 + s B A, with A (rank x d_in) and B (d_out x rank) of one module, s = alpha / rank, or
alpha / sqrt(rank) with rsLoRA (arXiv 2312.03732). A and B are never merged apart: the product is not linear in them.
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import regex  # type: ignore[import-untyped]
import torch

from campaigns.errors import FieldError, InvalidCheckpoint, field_error
from merging.checkpoint import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    INDEX,
    SINGLE,
    CheckpointFiles,
    read_json,
)
from merging.dtypes import MERGED
from merging.image_layout import PlacedTensor, header_of
from merging.safetensors_header import CorruptHeader, TensorInfo, read_header
from merging.vocabulary import OUTPUT_EMBEDDINGS
from merging.whole_file import locked, replace_file

PREFIX = "base_model.model."
LOW_RANK = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.(?:[^.]+\.)?weight")
REPLACED = re.compile(r"\.modules_to_save(?:\.default)?(?=\.)")
CONV1D_TYPES = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
CONV1D_MODULES = ("c_attn", "c_proj", "c_fc", "q_attn")
"""The layers that transformers keeps as d_in x d_out."""
OTHER_PRODUCTS = (
    "use_dora",
    "lora_bias",
    "target_parameters",
    "trainable_token_indices",
    "layer_replication",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
)
"""Settings with which an adapter is more than theta_0 + s B A."""
KEPT_BASE = (None, True, False, "gaussian", "eva", "orthogonal", "mica")
"""Initialisations that leave the base as it is; the others (PiSSA, OLoRA, LoftQ, ...) belong to a changed base."""
BLOCK_ELEMENTS = 1 << 15
"""Elements that are added up at once: their intermediates stay in the cache."""
SHOWN_NAMES = 3
MATCH_SECONDS = 1.0
"""How long one regular expression of an adapter may try one name: some would try for years."""


@dataclass(frozen=True)
class LowRank:
    """What an adapter adds to the base's tensor `name`: `scale` times `b` times `a`, transposed for d_in x d_out."""

    name: str
    a: TensorInfo
    b: TensorInfo
    scale: float
    is_transposed: bool


def is_adapter(path: Path) -> bool:
    """Say whether a directory holds an adapter and no whole model."""
    return (path / ADAPTER_CONFIG).is_file() and not any((path / name).is_file() for name in (SINGLE, INDEX))


class LoraAdapter:
    """A directory with adapter_config.json and adapter_model.safetensors, over `base`.

    `stored` are the tensors of the adapter's own file, `files` all files that determine the member, by name.
    Raises `InvalidCheckpoint`, with `field` and everything that is wrong: pickled weights, another kind of adapter than
    plain LoRA (DoRA, adapted embeddings, biases, initialisations that change the base, ...), settings that are missing
    or do not go with the tensors, and modules that the base lacks or has in another shape.
    """

    def __init__(self, path: Path, base: CheckpointFiles, field: str = "path") -> None:
        self.path = path
        self.field = field
        self.base = base
        self._errors: list[FieldError] = []
        self._config = read_json(path, ADAPTER_CONFIG, field, self._errors)
        self._check_kind()
        self.stored = self._read_weights()
        self._full_names = {name.partition(".")[2]: name for name in base.tensors}
        self._products: dict[str, LowRank] = {}
        self._replacements: dict[str, TensorInfo] = {}
        if not self._errors:
            self._sort_tensors()
        if self._errors:
            raise InvalidCheckpoint(self._errors)
        self._view = base.with_tensors({})
        self._view.path, self._view.field, self._view.shards = path, field, [path / ADAPTER_WEIGHTS]

    @property
    def files(self) -> dict[str, Path]:
        """The adapter's weights and settings and its tokenizer files, by name, sorted."""
        return self._view.files

    def merged(self, file: Path) -> CheckpointFiles:
        """Return base and adapter as one checkpoint: what the adapter changes lies in `file`, as float32.

        `file` is written unless it is there: the same bytes on any machine. Untouched tensors are the base's own.
        Raises `InvalidCheckpoint` when `file` cannot be written, or when the sum is not finite in float32.
        """
        placed = self._layout()
        if placed:
            self._provide(file, placed)
        touched = read_header(file) if placed else {}
        view = self._view.with_tensors({**self.base.tensors, **self._replacements, **touched})
        for tensor in [*touched.values()][:1]:
            view.flat(tensor.file, tensor.dtype, tensor.start, tensor.count)  # open now, should it be removed later
        return view

    def _check_kind(self) -> None:
        config = self._config
        if not config:
            return
        if config.get("peft_type") != "LORA":
            self._refuse("peft_type", "adapters of this type cannot be merged", "LORA")
        if config.get("bias", "none") != "none":
            self._refuse("bias", "adapters that train biases cannot be merged", "none")
        if config.get("init_lora_weights") not in KEPT_BASE:
            self._refuse(
                "init_lora_weights", "the adapter belongs to a base changed by its initialisation", "plain LoRA"
            )
        for key in OTHER_PRODUCTS:
            if config.get(key):
                self._refuse(key, "adapters with this setting cannot be merged", "plain LoRA")
        for key in ("rank_pattern", "alpha_pattern"):
            if not _is_pattern_table(config.get(key) or {}):
                self._refuse(key, "not numbers by regular expression", "positive numbers")
        if not _are_targets(config.get("target_modules")):
            self._refuse("target_modules", "not names of modules or a regular expression")

    def _refuse(self, key: str, message: str, allowed: str | None = None) -> None:
        named = f"{ADAPTER_CONFIG}: {key}: {message}"
        self._errors.append(field_error(self.field, self._config.get(key), named, allowed))

    def _read_weights(self) -> dict[str, TensorInfo]:
        file = self.path / ADAPTER_WEIGHTS
        try:
            return read_header(file)
        except FileNotFoundError:
            message = f"the adapter has no {ADAPTER_WEIGHTS}"
            pickles = sorted(found.name for found in self.path.glob("adapter_model.*"))
            if pickles:
                message += f"; its weights are pickled, which can run code when they are loaded: {', '.join(pickles)}"
            self._errors.append(field_error(self.field, str(self.path), message))
        except CorruptHeader as error:
            self._errors.append(field_error(self.field, error.value, f"{file.name}: {error}", error.allowed))
        except OSError as error:
            self._errors.append(field_error(self.field, str(file), f"{file.name} cannot be read ({error.strerror})"))
        return {}

    def _sort_tensors(self) -> None:
        """Tell low-rank pairs from tensors that replace the base's; note what is neither."""
        pairs: dict[str, dict[str, TensorInfo]] = {}
        unknown, unmergeable = [], []
        for key, tensor in self.stored.items():
            name = key.removeprefix(PREFIX)
            if tensor.dtype not in MERGED:
                unmergeable.append(f"{key} {tensor.dtype}")
            elif found := LOW_RANK.fullmatch(name):
                pairs.setdefault(found["module"], {})[found["side"]] = tensor
            elif (replaced := self._base_name(REPLACED.sub("", name))) is not None:
                self._replacements[replaced] = tensor
            else:
                unknown.append(key)
        self._refuse_tensors(unmergeable, "tensors of these types cannot be merged", ", ".join(MERGED))
        self._refuse_tensors(unknown, "neither low-rank pairs of linear layers nor tensors of the base")
        halves = [module for module, sides in pairs.items() if len(sides) == 1]
        self._refuse_tensors(halves, "lora_A without lora_B, or the other way round")
        for module, sides in pairs.items():
            try:
                if len(sides) == 2:
                    self._add_pair(module, sides["A"], sides["B"])
            except TimeoutError:
                message = f"{ADAPTER_CONFIG}: a regular expression takes more than {MATCH_SECONDS:g} s on this name"
                self._errors.append(field_error(self.field, module, message, "one without nested repetitions"))
                break
        if not self.stored:
            self._refuse_tensors([str(self.path)], "the adapter has no tensors")

    def _refuse_tensors(self, names: list[str], message: str, allowed: str | None = None) -> None:
        if names:
            shown = ", ".join(names[:SHOWN_NAMES]) + (", ..." if len(names) > SHOWN_NAMES else "")
            self._errors.append(field_error(self.field, shown, message, allowed))

    def _base_name(self, name: str) -> str | None:
        """Return the base's tensor of this name, with or without the base model's prefix (`model.`, `transformer.`).

        An output embedding that the base does not store, as it is tied, goes by its own name.
        """
        short = name.partition(".")[2]
        candidates = (name, self._full_names.get(name), short if short in self.base.tensors else None)
        found = next((candidate for candidate in candidates if candidate in self.base.tensors), None)
        return name if found is None and name.endswith(OUTPUT_EMBEDDINGS) else found

    def _add_pair(self, module: str, a: TensorInfo, b: TensorInfo) -> None:
        name = self._base_name(f"{module}.weight") or ""
        rank = _of_module(self._config, "r", "rank_pattern", module)
        alpha = _of_module(self._config, "lora_alpha", "alpha_pattern", module)
        problem = self._pair_problem(module, self.base.tensors.get(name), (a, b), (rank, alpha))
        if problem is not None:
            self._errors.append(problem)
            return
        is_transposed = self._is_transposed(module, (b.shape[0], a.shape[1]), self.base.tensors[name].shape)
        scale = alpha / (math.sqrt(rank) if self._config.get("use_rslora") else rank)
        self._products[name] = LowRank(name, a, b, scale, is_transposed)

    def _pair_problem(
        self, module: str, origin: TensorInfo | None, pair: tuple[TensorInfo, TensorInfo], numbers: tuple[Any, Any]
    ) -> FieldError | None:
        """Return what keeps A and B of `module` with these rank and alpha from being merged into `origin`."""
        if origin is None or origin.dtype not in MERGED:
            return field_error(self.field, module, "the base has no weights to merge this module into")
        if not _is_target(module, self._config.get("target_modules")):
            return field_error(self.field, module, f"{ADAPTER_CONFIG}: target_modules does not name this module")
        rank, alpha = numbers
        if not (_is_positive(rank) and _is_positive(alpha)):
            value = f"{module}: r {rank!r}, lora_alpha {alpha!r}"
            return field_error(self.field, value, f"{ADAPTER_CONFIG}: no usable rank and scale", "numbers above 0")
        a, b = (tensor.shape for tensor in pair)
        if not (len(a) == len(b) == 2 and a[0] == b[1] == rank):
            value = f"{module}: A {list(a)}, B {list(b)}"
            return field_error(self.field, value, "not a pair of matrices of the module's rank", f"rank {rank}")
        if origin.shape not in ((b[0], a[1]), (a[1], b[0])):
            value = f"{module}: B A {[b[0], a[1]]}"
            return field_error(self.field, value, "shape differs from that of the base", f"{list(origin.shape)}")
        return None

    def _is_transposed(self, module: str, shape: tuple[int, ...], stored: tuple[int, ...]) -> bool:
        """Say whether the base keeps the module's weights as d_in x d_out.

        The layers tell; peft's fan_in_fan_out is one flag for all of them and tells about the last one only.
        """
        if shape[0] != shape[1]:
            return stored == shape[::-1]
        return self.base.config.get("model_type") in CONV1D_TYPES and module.endswith(CONV1D_MODULES)

    def _layout(self) -> list[PlacedTensor]:
        placed = []
        end = 0
        for name in self._products:
            origin = self.base.tensors[name]
            placed.append(PlacedTensor(name, "F32", origin.shape, end, end := end + 4 * origin.count))
        return placed

    def _provide(self, file: Path, placed: list[PlacedTensor]) -> None:
        """Write `file` unless it is there, whole."""
        if _holds(file, placed):
            return
        try:
            with locked(file):
                if not _holds(file, placed):
                    replace_file(file, self._content(placed))
        except OSError as error:
            message = f"base and adapter cannot be written as one ({error.strerror})"
            needed = f"{placed[-1].stop} bytes of space"
            raise InvalidCheckpoint([field_error(self.field, str(file), message, needed)]) from error

    def _content(self, placed: list[PlacedTensor]) -> Iterator[bytes | memoryview]:
        yield header_of(placed)
        for product in self._products.values():
            for block in self._blocks(product):
                if not block.isfinite().all():
                    message = f"base and adapter together are not finite in {product.name}"
                    raise InvalidCheckpoint([field_error(self.field, str(self.path), message, "finite numbers")])
                yield block.numpy().data.cast("B")

    @torch.no_grad()
    def _blocks(self, product: LowRank) -> Iterator[torch.Tensor]:
        """Yield theta_0 + s B A in float32 by blocks of rows.

        The product is summed up over the rank in order, as the bits of a matrix multiplication depend on the machine.
        """
        a, b = (self._factor(tensor) for tensor in (product.a, product.b))
        left, right = (a.T, b.T) if product.is_transposed else (b, a)
        origin = self.base.tensor(product.name)
        rows = max(1, BLOCK_ELEMENTS // right.shape[1])
        for start in range(0, len(left), rows):
            block = left[start : start + rows]
            total = block[:, :1] * right[:1]
            term = torch.empty_like(total)
            for index in range(1, len(right)):
                torch.mul(block[:, index : index + 1], right[index : index + 1], out=term)
                total += term
            yield origin[start : start + rows].float() + total * product.scale

    def _factor(self, tensor: TensorInfo) -> torch.Tensor:
        return self.base.flat(tensor.file, tensor.dtype, tensor.start, tensor.count).view(tensor.shape).float()


def _holds(file: Path, placed: list[PlacedTensor]) -> bool:
    """Say whether `file` is a whole safetensors file of these tensors."""
    try:
        found = read_header(file)
    except (OSError, CorruptHeader):
        return False
    return {name: (t.dtype, t.shape) for name, t in found.items()} == {t.name: (t.dtype, t.shape) for t in placed}


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _is_pattern_table(table: Any) -> bool:
    return isinstance(table, dict) and all(_compiles(p) and _is_positive(number) for p, number in table.items())


def _are_targets(targets: Any) -> bool:
    if isinstance(targets, list):
        return all(isinstance(target, str) for target in targets)
    return targets is None or (isinstance(targets, str) and _compiles(targets))


def _compiles(pattern: str) -> bool:
    try:
        regex.compile(pattern)
    except (regex.error, RecursionError):
        return False
    return True


def _of_module(config: dict[str, Any], key: str, patterns: str, module: str) -> Any:
    """Return a module's rank or alpha: of the first pattern that matches the end of its name, else the usual one."""
    table = config.get(patterns) or {}
    found = next((p for p in table if _matches(rf"(.*\.)?({p})", module)), None)
    return config.get(key) if found is None else table[found]


def _is_target(module: str, targets: str | Iterable[str] | None) -> bool:
    if targets is None or targets == "all-linear":
        return True
    if isinstance(targets, str):
        return _matches(targets, module)
    return any(module == target or module.endswith(f".{target}") for target in targets)


def _matches(pattern: str, name: str) -> bool:
    """Say whether the whole name matches; other threads go on meanwhile. Raises TimeoutError after `MATCH_SECONDS`."""
    return regex.fullmatch(pattern, name, timeout=MATCH_SECONDS, concurrent=True) is not None
