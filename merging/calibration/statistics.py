"""The file that calibration statistics are kept in: float32 tensors in safetensors, and what they are of."""

import functools
import hashlib
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, ValidationError
from safetensors import safe_open
from safetensors.torch import save_file

from campaigns.errors import InvalidCheckpoint, field_error
from campaigns.methods import StatisticsKind
from campaigns.noun import Noun
from merging.calibration.settings import CalibrationSettings
from merging.inspection import stamp_of
from merging.mapping import map_file
from merging.safetensors_header import CorruptHeader, TensorInfo, read_header

METADATA_KEY = "mergefront.calibration"
ALLOWED = "a file that mergefront calibrate wrote"


class TensorStatistics(Noun):
    """Under which names the statistics of one tensor of the checkpoint are stored; tensors may share them."""

    inputs: str | None = None
    input_axis: Literal[0, 1] | None = None
    fisher: str | None = None


class Description(Noun):
    """What the statistics are of. `tensors` is by the tensors' names in the checkpoint's files."""

    version: Literal[1] = 1
    checkpoint_digest: str
    text_digest: str
    settings: CalibrationSettings
    tokens: int = Field(ge=1)
    device: str
    libraries: dict[str, str]
    tensors: dict[str, TensorStatistics]

    @property
    def stored(self) -> set[str]:
        """The names of all tensors that the file must hold."""
        kinds = [kind for kind in self.settings.kinds if kind != "fisher"]
        names = {f"{kind}/{tensor.inputs}" for tensor in self.tensors.values() for kind in kinds if tensor.inputs}
        return names | {f"fisher/{tensor.fisher}" for tensor in self.tensors.values() if tensor.fisher}


def write_statistics(file: Path, description: Description, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write `file`: under a temporary name first, so that it is there whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    text = json.dumps(description.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    try:
        save_file(dict(tensors), temporary, metadata={METADATA_KEY: text})  # one key: several have no fixed order
        temporary.chmod(0o644)  # safetensors lets only the owner read
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class CalibrationStatistics:
    """The statistics of one checkpoint, memory-mapped. Tensors are named as in the checkpoint's files.

    Values are views of the page cache; writing to them never reaches the file. A statistic that was not computed, or
    that has nothing for a tensor, is None. Raises `InvalidCheckpoint` with `field` for a file that is gone, corrupt, or
    of another origin or version.
    """

    def __init__(self, path: Path, field: str = "statistics") -> None:
        self.path = path
        self.field = field
        try:
            self.stamp = stamp_of({path.name: path})
            self._header = read_header(path)
            self._map = map_file(path)
        except CorruptHeader as error:
            raise InvalidCheckpoint([field_error(field, error.value, f"{path.name}: {error}", error.allowed)]) from None
        except OSError as error:
            message = f"the file cannot be read ({error.strerror})"
            raise InvalidCheckpoint([field_error(field, str(path), message, ALLOWED)]) from None
        self.description = self._read_description()

    @property
    def checkpoint_digest(self) -> str:
        """The content digest of the checkpoint that the statistics are of."""
        return self.description.checkpoint_digest

    @property
    def kinds(self) -> frozenset[StatisticsKind]:
        """What the file holds."""
        return frozenset(self.description.settings.kinds)

    @property
    def digest(self) -> str:
        """The sha256 (hex) of the file as it is now; it is read once in a process, and again when it has changed."""
        return _digest(self.path, stamp_of({self.path.name: self.path}))

    def gram_diagonal(self, tensor_name: str) -> torch.Tensor | None:
        """Return diag(X X^T) / n of a linear layer's weight, d_in float32: the mean square of each input."""
        return self._inputs("gram_diagonal", tensor_name)

    def gram(self, tensor_name: str) -> torch.Tensor | None:
        """Return G = X^T X / n of a linear layer's weight, d_in x d_in float32, symmetric up to rounding."""
        return self._inputs("gram", tensor_name)

    def fisher(self, tensor_name: str) -> torch.Tensor | None:
        """Return the diagonal Fisher information of a parameter, flat: as many float32 as the tensor has elements."""
        stored = self._tensor(tensor_name).fisher
        return None if stored is None else self._stored(f"fisher/{stored}")

    def input_axis(self, tensor_name: str) -> int | None:
        """Return the axis of a weight that inputs run along: 1 in `nn.Linear`, 0 in GPT-2's transposed `Conv1D`."""
        return self._tensor(tensor_name).input_axis

    def _inputs(self, kind: StatisticsKind, tensor_name: str) -> torch.Tensor | None:
        stored = self._tensor(tensor_name).inputs
        return None if stored is None or kind not in self.kinds else self._stored(f"{kind}/{stored}")

    def _tensor(self, name: str) -> TensorStatistics:
        return self.description.tensors.get(name, TensorStatistics())

    def _stored(self, name: str) -> torch.Tensor:
        found = self._header[name]
        return torch.frombuffer(self._map, dtype=torch.float32, offset=found.start, count=found.count).view(found.shape)

    def _read_description(self) -> Description:
        with safe_open(self.path, framework="pt") as opened:
            text = (opened.metadata() or {}).get(METADATA_KEY)
        if text is None:
            raise self._refusal("the file holds no calibration statistics")
        try:
            description = Description.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise self._refusal(f"corrupt or of another version ({where}: {first['msg']})") from None
        for name in sorted(description.stored):
            if not _is_float32(self._header.get(name)):
                raise self._refusal(f"corrupt: {name!r} is not there as float32")
        return description

    def _refusal(self, message: str) -> InvalidCheckpoint:
        return InvalidCheckpoint([field_error(self.field, str(self.path), message, ALLOWED)])


def _is_float32(tensor: TensorInfo | None) -> bool:
    return tensor is not None and tensor.dtype == "F32" and tensor.count > 0


@functools.lru_cache(maxsize=256)
def _digest(file: Path, stamp: str) -> str:
    """Return the sha256 (hex) of a file; the stamp is there to notice that it changed."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
