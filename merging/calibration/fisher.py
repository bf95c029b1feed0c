"""The diagonal of the empirical Fisher information (arXiv 2111.09832, section 3.2)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from merging.causal_model import Place


class SquaredGradients:
    """The sum of one parameter's squared gradients, elementwise in float32. Tied tensors have several `names`."""

    def __init__(self, parameter: nn.Parameter) -> None:
        self.names: list[str] = []
        self.parameter = parameter
        self.total = torch.zeros_like(parameter, dtype=torch.float32)

    @property
    def key(self) -> str:
        """The name under which the statistics are kept."""
        return self.names[0]

    def add(self, parameter: torch.Tensor) -> None:
        """Add the gradient that is complete now, and let go of it: a hook of the parameter's."""
        assert parameter.grad is not None
        gradient = parameter.grad.float()
        self.total.addcmul_(gradient, gradient)
        parameter.grad = None


class DiagonalFisher:
    """F = mean over sequences x of (d log p(x) / d theta)^2, elementwise, with log p(x) = sum_t log p(x_t | x_<t).

    One example is one sequence: its gradient is summed over its tokens first and squared then, so products of different
    tokens' gradients are in it (they vanish in expectation over text of the model's own). Empirical: the tokens are
    those of the text, not drawn from the model, so nothing is random.

    No more than one parameter's gradient is kept at a time. The sums take 4 bytes per parameter on the model's device
    (Llama 2 7B: 27 GB, as much as the float32 model itself); the activations of one sequence come on top.
    """

    def __init__(self, model: PreTrainedModel, places: Mapping[str, Place]) -> None:
        self._model = model
        self._sequences = 0
        found: dict[int, SquaredGradients] = {}
        for name, (module, leaf) in places.items():
            tensor = getattr(module, leaf)
            if isinstance(tensor, nn.Parameter):
                found.setdefault(id(tensor), SquaredGradients(tensor)).names.append(name)
        self.squares = list(found.values())

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Take gradients of the files' parameters, and of nothing else, while the block runs."""
        self._model.requires_grad_(False)
        handles = []
        for squares in self.squares:
            squares.parameter.requires_grad_(True)
            hook = squares.parameter.register_post_accumulate_grad_hook(squares.add)  # type: ignore[no-untyped-call]
            handles.append(hook)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._model.requires_grad_(False)

    def add(self, sequence: torch.Tensor) -> None:
        """Run the model and its gradient on one sequence of token ids, 1 x length, inside `watch`."""
        logits = self._model(input_ids=sequence, use_cache=False).logits[0, :-1].float()
        cross_entropy(logits, sequence[0, 1:], reduction="sum").backward()  # type: ignore[no-untyped-call]
        self._sequences += 1

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield name and value (1-D float32) of what is stored. Once only: the sums are divided in place."""
        for squares in self.squares:
            yield f"fisher/{squares.key}", squares.total.div_(self._sequences).flatten()
