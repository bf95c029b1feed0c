"""A checkpoint directory, opened lazily: headers are read and checked, tensors are views of the page cache."""

import copy
import json
import mmap
from pathlib import Path
from typing import Any

import torch

from campaigns.errors import FieldError, InvalidCheckpoint, field_error
from merging.dtypes import COPIED, MERGED, TORCH_DTYPES
from merging.mapping import map_file
from merging.safetensors_header import CorruptHeader, TensorInfo, read_header

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
)
MAX_DOCUMENT_BYTES = 256 << 20
"""How long a configuration, index or tokenizer file may be; all of it is read at once."""
CODE_SETTINGS = ("attn_implementation", "experts_implementation", "transformers_weights")
"""Settings of config.json by which transformers fetches kernels, which are code, or reads other weights."""
COMPANIONS = ("generation_config.json", *TOKENIZER_FILES)
"""What a merge takes from its template beside the configuration."""


class CheckpointFiles:
    """The files of one checkpoint.

    `tensors` maps every tensor's name to where it lies, in the order of the shards and of the bytes in them; `shards`
    are the safetensors files, `files` all files that determine the model, by name. Inside a pool, a checkpoint's
    tensors are what its pool makes of them (`merging.vocabulary`): some may be shorter, or lie in files of others.
    Raises `InvalidCheckpoint`, with `field` and everything that is wrong, for a directory without safetensors (pickles
    are named as such), a missing or unreadable configuration, missing shards, truncated or corrupt files, tensors of
    types that cannot be merged, configurations that name code or weights of others, and for a directory that holds an
    adapter as well, as transformers would load that.
    """

    def __init__(self, path: Path, field: str = "path") -> None:
        self.path = path
        self.field = field
        self.tensors: dict[str, TensorInfo] = {}
        self.shards: list[Path] = []
        self._maps: dict[Path, mmap.mmap] = {}
        errors: list[FieldError] = []
        if not path.is_dir():
            raise InvalidCheckpoint([field_error(field, str(path), "there is no such directory", "a model directory")])
        self.config = read_json(path, CONFIG, field, errors)
        if (path / ADAPTER_CONFIG).is_file():
            message = f"the directory holds a whole model and an adapter ({ADAPTER_CONFIG})"
            errors.append(field_error(field, str(path), message, "one of the two"))
        if "quantization_config" in self.config:
            allowed = "unquantized checkpoints"
            value = self.config["quantization_config"]
            errors.append(field_error(field, value, f"{path.name} is quantized and cannot be merged", allowed))
        self._refuse_settings(errors)
        self._check_companions(errors)
        promised = self._promised_tensors(errors)
        self.shards = sorted(self.path / name for name in promised)
        for shard in self.shards:
            self._add_shard(shard, promised[shard.name], errors)
        if errors:
            raise InvalidCheckpoint(errors)

    @property
    def files(self) -> dict[str, Path]:
        """The weight, configuration and tokenizer files that are there, by name, sorted."""
        try:
            present = {file.name for file in self.path.iterdir()}
        except FileNotFoundError:
            return {}
        wanted = {CONFIG, ADAPTER_CONFIG, INDEX, *COMPANIONS, *(shard.name for shard in self.shards)}
        return {name: self.path / name for name in sorted(wanted & present)}

    @property
    def merged_tensors(self) -> dict[str, TensorInfo]:
        """The tensors that are merged: those of a floating type."""
        return {name: tensor for name, tensor in self.tensors.items() if tensor.dtype in MERGED}

    @property
    def stored(self) -> dict[str, TensorInfo]:
        """The tensors that lie in this checkpoint's own files."""
        return {name: tensor for name, tensor in self.tensors.items() if tensor.file in self.shards}

    def with_tensors(self, tensors: dict[str, TensorInfo]) -> "CheckpointFiles":
        """Return the same checkpoint with other tensors, wherever they lie. Open files are shared."""
        view = copy.copy(self)
        view.tensors = tensors
        return view

    def tensor(self, name: str) -> torch.Tensor:
        """Return a tensor as a view of the page cache, without a copy. Writing to it never reaches the file."""
        found = self.tensors[name]
        return self.flat(found.file, found.dtype, found.start, found.count).view(found.shape)

    def flat(self, file: Path, dtype: str, start: int, count: int) -> torch.Tensor:
        """Return `count` elements from byte `start` of `file` as a 1-D view of the page cache."""
        if count == 0:
            return torch.empty(0, dtype=TORCH_DTYPES[dtype])
        return torch.frombuffer(self._map(file), dtype=TORCH_DTYPES[dtype], offset=start, count=count)

    def _refuse_settings(self, errors: list[FieldError]) -> None:
        """Refuse settings that name code of others, in the configuration and in those inside of it."""
        pending = [self.config]
        while pending:
            for key, value in pending.pop().items():
                if key.lstrip("_") not in CODE_SETTINGS:
                    pending += [value] if isinstance(value, dict) else []
                elif "/" in str(value) or key == "transformers_weights":
                    message = f"{CONFIG}: {key} names code or weights from elsewhere, which are never loaded"
                    errors.append(field_error(self.field, value, message, "a configuration without it"))

    def _check_companions(self, errors: list[FieldError]) -> None:
        for name, file in self.files.items():
            if name not in COMPANIONS:
                continue
            if not _is_file(file):
                errors.append(field_error(self.field, str(file), f"{name} is no file that can be read"))
            elif file.stat().st_size > MAX_DOCUMENT_BYTES:
                allowed = f"at most {MAX_DOCUMENT_BYTES} bytes"
                errors.append(field_error(self.field, file.stat().st_size, f"{name} has too many bytes", allowed))

    def _map(self, file: Path) -> mmap.mmap:
        if file not in self._maps:
            self._maps[file] = map_file(file)
        return self._maps[file]

    def _promised_tensors(self, errors: list[FieldError]) -> dict[str, set[str]]:
        """Return the names of the tensors that each shard must hold; a single file need not promise any."""
        if (self.path / SINGLE).is_file():
            return {SINGLE: set()}
        if (self.path / INDEX).is_file():
            return self._read_index(errors)
        pickles = sorted(file.name for pattern in PICKLES for file in self.path.glob(pattern))
        message = "the directory has no weights"
        if pickles:
            message = f"weights are pickled, which can run code when they are loaded: {', '.join(pickles)}"
        allowed = f"{SINGLE}, or {INDEX} and its shards"
        errors.append(field_error(self.field, str(self.path), message, allowed))
        return {}

    def _read_index(self, errors: list[FieldError]) -> dict[str, set[str]]:
        weight_map = read_json(self.path, INDEX, self.field, errors).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            errors.append(
                field_error(self.field, weight_map, f"{INDEX} has no weight_map", "file names by tensor name")
            )
            return {}
        promised: dict[str, set[str]] = {}
        for tensor, shard in weight_map.items():
            promised.setdefault(str(shard), set()).add(tensor)
        return {name: tensors for name, tensors in promised.items() if self._is_shard(name, errors)}

    def _is_shard(self, name: str, errors: list[FieldError]) -> bool:
        file = self.path / name
        if Path(name).name != name or file.suffix != ".safetensors":
            allowed = "names of .safetensors files in the same directory"
            errors.append(field_error(self.field, name, f"{INDEX} names a file that is not allowed", allowed))
            return False
        if not _is_file(file):
            errors.append(field_error(self.field, str(file), "a shard that the index names is missing"))
            return False
        return True

    def _add_shard(self, shard: Path, promised: set[str], errors: list[FieldError]) -> None:
        try:
            header = read_header(shard)
        except CorruptHeader as error:
            errors.append(field_error(self.field, error.value, f"{shard.name}: {error}", error.allowed))
            return
        except OSError as error:
            errors.append(field_error(self.field, str(shard), f"{shard.name} cannot be read ({error.strerror})"))
            return
        for name, tensor in header.items():
            if name in self.tensors:
                errors.append(field_error(self.field, name, f"{shard.name}: tensor is in an earlier shard, too"))
            if tensor.dtype not in MERGED and tensor.dtype not in COPIED:
                allowed = f"{', '.join(MERGED)}, and whole numbers for buffers"
                message = f"{shard.name}: tensors of the type of {name!r} cannot be merged"
                errors.append(field_error(self.field, tensor.dtype, message, allowed))
            self.tensors[name] = tensor
        for name in sorted(promised - set(header)):
            errors.append(field_error(self.field, name, f"{shard.name}: the index promises a tensor that is not there"))


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:  # a name that is too long
        return False


def read_json(path: Path, name: str, field: str, errors: list[FieldError]) -> dict[str, Any]:
    """Return the JSON object in file `name` of directory `path`; {} and a new error when there is none."""
    try:
        if (path / name).stat().st_size > MAX_DOCUMENT_BYTES:
            raise ValueError(f"longer than {MAX_DOCUMENT_BYTES} bytes")
        document = json.loads((path / name).read_bytes())
        json.dumps(document, ensure_ascii=False).encode()  # JSON can spell halves of characters, which no file can hold
    except FileNotFoundError:
        errors.append(field_error(field, str(path), f"the directory has no {name}"))
        return {}
    except (OSError, ValueError, RecursionError) as error:
        errors.append(field_error(field, str(path / name), f"{name} cannot be read as JSON ({error})"))
        return {}
    if not isinstance(document, dict):
        errors.append(field_error(field, str(path / name), f"{name} does not hold a JSON object"))
        return {}
    return document
