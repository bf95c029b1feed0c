"""One pass of a checkpoint over a text: run the model, gather the statistics, write the file."""

import hashlib
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedModel

from campaigns.errors import InvalidCheckpoint, InvalidInput, field_error
from campaigns.noun import canonical_digest
from merging.calibration.documents import text_digest
from merging.calibration.fisher import DiagonalFisher
from merging.calibration.layer_inputs import LayerInputs
from merging.calibration.sequences import read_sequences
from merging.calibration.settings import CalibrationSettings
from merging.calibration.statistics import CalibrationStatistics, Description, TensorStatistics, write_statistics
from merging.causal_model import build_model, find_places, refuse_names
from merging.checkpoint import CheckpointFiles
from merging.dtypes import RECIPE_DTYPES
from merging.inspection import Progress, stamp_of
from merging.pool_report import template_errors

FORMAT = "mergefront calibration 1"
NAMED_DIGITS = 16
PROBED_TOKENS = 2


def calibrate(  # noqa: PLR0913  the files, what to do with them, where and how
    files: CheckpointFiles,
    checkpoint_digest: str,
    texts: Path,
    directory: Path,
    settings: CalibrationSettings,
    progress: Progress | None = None,
    device: str | torch.device = "cpu",
) -> Path:
    """Return the file in `directory` with the statistics of a checkpoint on `texts`; made unless it is there already.

    Its name is made of the digests of the checkpoint, and of settings and text: `<16 hex>-<16 hex>.safetensors`.
    `checkpoint_digest` is what inspection found for `files`. `progress` is called with (tokens done, tokens in all).
    On the CPU of one machine, with as many threads, the same arguments give the same bytes.

    Memory is that of the model, of one batch (its activations and logits) and of the sums, however long the text is:
    see `LayerInputs` and `DiagonalFisher`. Sums are on the model's device, and once more in host memory when written
    from another. Fisher and Gram matrices of one call share the pass.

    Raises `InvalidInput` for text that cannot be used and sequences longer than the model takes, `InvalidCheckpoint`
    for a checkpoint that is no causal language model, has no tokenizer, changes meanwhile or gives numbers that are not
    finite.
    """
    text = text_digest(texts)
    file = directory / _file_name(checkpoint_digest, text, settings)
    if file.exists():
        return CalibrationStatistics(file, "directory").path
    if errors := [*template_errors(files)]:
        raise InvalidCheckpoint(errors)
    before = stamp_of(files.files)
    sequences = _sequences(files, texts, settings)
    model = build_model(files, RECIPE_DTYPES[settings.dtype], device)
    tensors, stored = _gather(model, files, sequences.to(device), settings, progress)
    _refuse_infinite(files, tensors)
    if stamp_of(files.files) != before:
        raise InvalidCheckpoint([field_error(files.field, str(files.path), "the files changed while they were read")])
    description = Description(
        checkpoint_digest=checkpoint_digest,
        text_digest=text,
        settings=settings,
        tokens=settings.tokens,
        device=str(model.device.type),
        libraries={name: version(name) for name in ("mergefront", "tokenizers", "torch", "transformers")},
        tensors=stored,
    )
    write_statistics(file, description, tensors)
    return file


def _file_name(checkpoint_digest: str, text: str, settings: CalibrationSettings) -> str:
    asked = hashlib.sha256(f"{FORMAT}\0{canonical_digest(settings)}\0{text}".encode()).hexdigest()
    return f"{checkpoint_digest[:NAMED_DIGITS]}-{asked[:NAMED_DIGITS]}.safetensors"


def _sequences(files: CheckpointFiles, texts: Path, settings: CalibrationSettings) -> torch.Tensor:
    config = AutoConfig.from_pretrained(files.path, trust_remote_code=False, local_files_only=True).get_text_config()
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and settings.sequence_length > longest:
        message, allowed = "sequences are longer than the model takes", f"at most {longest} tokens"
        raise InvalidInput([field_error("settings.sequence_length", settings.sequence_length, message, allowed)])
    sequences = read_sequences(files.path, texts, settings)
    if (largest := int(sequences.max())) >= config.vocab_size:
        message = "the tokenizer makes tokens that the model does not have"
        raise InvalidCheckpoint([field_error(files.field, largest, message, f"ids below {config.vocab_size}")])
    return sequences


def _gather(
    model: PreTrainedModel,
    files: CheckpointFiles,
    sequences: torch.Tensor,
    settings: CalibrationSettings,
    progress: Progress | None,
) -> tuple[dict[str, torch.Tensor], dict[str, TensorStatistics]]:
    """Run all sequences; return the tensors to store, on the CPU, and what each tensor of the files finds in them."""
    places = find_places(model, files)
    with_inputs, with_fisher = "gram_diagonal" in settings.kinds, "fisher" in settings.kinds
    inputs = (
        LayerInputs(model, places, sequences[:1, :PROBED_TOKENS], "gram" in settings.kinds) if with_inputs else None
    )
    fisher = DiagonalFisher(model, places) if with_fisher else None
    with ExitStack() as stack:
        if inputs:
            stack.enter_context(inputs.watch())
        if fisher:
            stack.enter_context(fisher.watch())
        done = 0
        for batch in torch.split(sequences, 1 if fisher else settings.batch_size):
            if fisher:
                fisher.add(batch)
            else:
                with torch.no_grad():
                    model(input_ids=batch, use_cache=False)
            done += batch.numel()
            if progress:
                progress(done, settings.tokens)
    return _collect(inputs, fisher)


def _collect(
    inputs: LayerInputs | None, fisher: DiagonalFisher | None
) -> tuple[dict[str, torch.Tensor], dict[str, TensorStatistics]]:
    tensors: dict[str, torch.Tensor] = {}
    stored: dict[str, TensorStatistics] = {}
    for moments in inputs.moments if inputs else ():
        tensors |= moments.tensors()
        for layer in moments.layers:
            stored[layer.name] = TensorStatistics(inputs=moments.key, input_axis=layer.input_axis)
    if fisher:
        tensors |= fisher.tensors()
        for squares in fisher.squares:
            for name in squares.names:
                stored[name] = stored.get(name, TensorStatistics()).replace(fisher=squares.key)
    return {name: tensor.cpu() for name, tensor in tensors.items()}, stored


def _refuse_infinite(files: CheckpointFiles, tensors: dict[str, torch.Tensor]) -> None:
    """Refuse sums that are not finite; minimum and maximum carry NaN and infinity."""
    bad = [name for name, tensor in tensors.items() if not all(bound.isfinite() for bound in tensor.aminmax())]
    refuse_names(files, {"the model's activations or gradients are NaN or infinite": bad})
