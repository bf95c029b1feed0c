"""Gram matrices of what linear layers get: G = X^T X / n, X the n rows of inputs (arXiv 2212.09849, section 3)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from merging.causal_model import Place


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer. `name` is its weight's in the files; inputs run along axis `input_axis` of that weight."""

    name: str
    module: nn.Module
    input_axis: int


class Moments:
    """Sums over the rows that `layers` get, which is the same tensor for all of them: query, key and value, say."""

    def __init__(self, layers: Sequence[LinearLayer], with_gram: bool) -> None:
        self.layers = tuple(layers)
        weight, axis = layers[0].module.weight, layers[0].input_axis
        assert isinstance(weight, torch.Tensor)
        width, device = weight.shape[axis], weight.device
        self.rows = 0
        self.squares = torch.zeros(width, dtype=torch.float64, device=device)
        self.products = torch.zeros(width, width, device=device) if with_gram else None

    @property
    def key(self) -> str:
        """The name under which the statistics are kept."""
        return self.layers[0].name

    def add(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        """Add the inputs (... x d_in) of a layer: a forward pre-hook."""
        inputs: torch.Tensor = arguments[0].detach()
        rows = inputs.reshape(-1, inputs.shape[-1]).float()
        self.rows += len(rows)
        self.squares += rows.square().sum(0, dtype=torch.float64)
        if self.products is not None:
            self.products.addmm_(rows.T, rows)

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield name and value of the means over rows, float32. Once only: the sums are divided in place."""
        yield f"gram_diagonal/{self.key}", (self.squares / self.rows).float()
        if self.products is not None:
            yield f"gram/{self.key}", self.products.div_(self.rows)


class LayerInputs:
    """Gathers the second moments of linear layers' inputs while the model runs inside `watch`.

    Linear layers are `nn.Linear` and GPT-2's `Conv1D`. A layer whose weight is also an embedding, a tied output layer,
    is left out. With `with_gram`, the sums take 4 * d_in^2 bytes per distinct input, on the model's device: for Llama 2
    7B 0.69 GB per layer (three inputs of 4096 and one of 11008), 22 GB in all. Diagonals alone take 8 * d_in bytes.
    """

    def __init__(self, model: PreTrainedModel, places: Mapping[str, Place], probe: torch.Tensor, with_gram: bool):
        groups = _group_by_input(model, linear_layers(places, model), probe)
        self._moments = [Moments(group, with_gram) for group in groups]

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Add up what the layers get while the block runs."""
        with _pre_hooks({moments.layers[0]: moments.add for moments in self._moments}):
            yield

    @property
    def moments(self) -> list[Moments]:
        """The moments of layers that were run: an expert that no token was routed to has none."""
        return [moments for moments in self._moments if moments.rows]


def linear_layers(places: Mapping[str, Place], model: PreTrainedModel) -> list[LinearLayer]:
    """Return the linear layers whose weights have a place, in the order of the files."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    layers = []
    for name, (module, leaf) in places.items():
        if leaf == "weight" and isinstance(module, nn.Linear | Conv1D) and id(module.weight) not in embeddings:
            layers.append(LinearLayer(name, module, 0 if isinstance(module, Conv1D) else 1))
    return layers


@torch.no_grad()
def _group_by_input(
    model: PreTrainedModel, layers: Sequence[LinearLayer], probe: torch.Tensor
) -> list[list[LinearLayer]]:
    """Group the layers that get the very same tensors when `model` runs on `probe`; those it does not run stay alone.

    A tensor counts with its version: one that is changed in place between two layers is not the same for both.
    """
    calls: dict[str, list[torch.Tensor]] = {layer.name: [] for layer in layers}
    versions: dict[str, list[tuple[int, int]]] = {layer.name: [] for layer in layers}

    def recorder(layer: LinearLayer) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def record(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            calls[layer.name].append(arguments[0])  # kept, so that its id stays its own
            versions[layer.name].append((id(arguments[0]), arguments[0]._version))

        return record

    with _pre_hooks({layer: recorder(layer) for layer in layers}):
        model(input_ids=probe, use_cache=False)
    groups: dict[object, list[LinearLayer]] = {}
    for layer in layers:
        groups.setdefault(tuple(versions[layer.name]) or layer.name, []).append(layer)
    return list(groups.values())


@contextmanager
def _pre_hooks(hooks: Mapping[LinearLayer, Callable[[nn.Module, tuple[Any, ...]], None]]) -> Iterator[None]:
    handles: list[RemovableHandle] = [layer.module.register_forward_pre_hook(hook) for layer, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
