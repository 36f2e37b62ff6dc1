"""Adam on flat storage, and gradients in its layout."""

import copy
from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from trainers.nn.flat_storage import ROW_PADDING, Stacked, as_own_storage, row_views, storage_layout
from trainers.torch_compat import FUSED_ADAM_NUMBERS, FUSED_ADAM_TENSORS, fused_adam_


def row_gradient(loss: Tensor, network: Stacked, create_graph: bool = False, retain_graph: bool = False) -> Tensor:
    """Gradient of a sum of per-seed losses in the layout of the network's flat storage, [N, P].

    Args:
        loss: The sum.
        network: Whose parameters it is differentiated by, on flat storage.
        create_graph: Whether the gradient is differentiated again.
        retain_graph: Whether the loss is.
    """
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(
        loss, parameters, retain_graph=retain_graph or create_graph, create_graph=create_graph
    )
    row = torch.cat([storage_layout(gradient).flatten(1) for gradient in gradients], 1)
    return nn.functional.pad(row, (0, network.flat.shape[1] - row.shape[1]))


class FlatAdam:
    """Adam (arXiv 1412.6980) over the flat storage of a network, each row with a step count of its own."""

    def __init__(self, network: Stacked, lr: float) -> None:
        self.lr = torch.tensor(lr, dtype=torch.float64)
        flat = network.flatten()
        gradient = torch.zeros_like(flat)
        exp_avg = torch.zeros_like(flat)
        exp_avg_sq = torch.zeros_like(flat)
        self._bind(network, gradient, exp_avg, exp_avg_sq, flat.new_zeros(len(flat)))

    def _bind(self, network: Stacked, gradient: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, steps: Tensor) -> None:
        self.network = network
        self.flat = network.flat
        self.parameters = list(network.parameters())
        self.gradient = gradient
        self.exp_avg = exp_avg
        self.exp_avg_sq = exp_avg_sq
        self.steps = steps
        for parameter, view in zip(self.parameters, row_views(self.gradient, self.parameters), strict=True):
            parameter.grad = view
        rows, width = self.flat.shape
        piece = piece_width(rows, width) if self.flat.is_cuda else width
        pieces = -(-width // piece)
        self._pieces: list[list[Tensor]] = []
        for tensor in (self.flat, self.gradient, self.exp_avg, self.exp_avg_sq):
            self._pieces.append([part for row in tensor for part in row.split(piece)])
        self._pieces.append([step for step in self.steps for _ in range(pieces)])

    def rows_view(self, network: Stacked, rows: slice) -> "FlatAdam":
        """The optimiser of `network`, some rows of this one's, on the same storage."""
        view = copy.copy(self)
        tensors = (self.gradient, self.exp_avg, self.exp_avg_sq, self.steps)
        view._bind(network, *(as_own_storage(tensor[rows]) for tensor in tensors))  # noqa: SLF001 (of this class)
        return view

    def reset(self) -> None:
        """Forget all steps so far."""
        for tensor in self._state().values():
            tensor.zero_()

    def minimize(self, loss: Tensor) -> None:
        """One step on a sum of per-seed losses, for this network's parameters and no others."""
        self.differentiate(loss)
        self.step()

    def differentiate(self, loss: Tensor) -> None:
        """Put the gradient of a sum of per-seed losses into `gradient` [N, P]; 0 for what the loss does not use."""
        differentiate(loss, [self])

    def step(self, active: Tensor | None = None) -> None:
        """One step down `gradient`; rows that are not active [N] stay as they are, moments included."""
        if active is None:
            self._step()
            return
        changing = [self.flat, self.exp_avg, self.exp_avg_sq, self.steps]
        before = [tensor.clone() for tensor in changing]
        self._step()
        for tensor, old in zip(changing, before, strict=True):
            mask = active.view(-1, *[1] * (tensor.dim() - 1))
            tensor.copy_(torch.where(mask, tensor, old))

    def _step(self) -> None:
        self.steps += 1
        flat, gradient, exp_avg, exp_avg_sq, steps = self._pieces
        fused_adam_(flat, gradient, exp_avg, exp_avg_sq, steps, self.lr)

    def step_down(self, gradients: Sequence[Tensor]) -> None:
        """One step down the given gradient of each parameter."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            cast(Tensor, parameter.grad).copy_(gradient)
        self.step()

    def state(self, rows: slice) -> dict[str, Tensor]:
        """Moments and step counts of some rows, on the CPU."""
        return {name: tensor[rows].cpu().clone() for name, tensor in self._state().items()}

    def load_state(self, rows: slice, state: dict[str, Tensor]) -> None:
        """Put back what `state` gave."""
        for name, tensor in self._state().items():
            tensor[rows] = state[name].to(tensor.device)

    def _state(self) -> dict[str, Tensor]:
        return {"step": self.steps, "exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq}


def piece_width(rows: int, width: int) -> int:
    """Into pieces of how many numbers to cut rows of `width` for the fused kernel of a GPU.

    Whole rows keep few of its processors busy. Many small pieces make many calls, of which each takes as long as
    another 3,000 numbers.
    """

    def cost(piece: int) -> int:
        calls = -(-rows * -(-width // piece) // FUSED_ADAM_TENSORS)
        return calls * (min(piece, FUSED_ADAM_NUMBERS) + 3000)

    most = -(-width // ROW_PADDING)
    return min((-(-most // pieces) * ROW_PADDING for pieces in range(1, FUSED_ADAM_TENSORS + 1)), key=cost)


def differentiate(loss: Tensor, optimizers: Iterable[FlatAdam]) -> None:
    """As `FlatAdam.differentiate`, for several networks in one backward pass."""
    parameters: list[Tensor] = []
    for optimizer in optimizers:
        optimizer.gradient.zero_()
        optimizer.network.has_gradient = False
        parameters += optimizer.parameters
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            cast(Tensor, parameter.grad).copy_(gradient)


def clip_row_norms(gradients: Sequence[Tensor], limit: float) -> Tensor:
    """Scale gradients in place so that each row, over all of them, has at most the norm `limit`.

    Args:
        gradients: [N, P_k] each.
        limit: The largest Euclidean norm.

    Returns:
        The norms before, [N].
    """
    # Not vector_norm: its bits depend on the number of rows.
    squares = [gradient.square().sum(1) for gradient in gradients]
    norm = torch.stack(squares).sum(0).sqrt()
    scale = (limit / (norm + 1e-6)).clamp_(max=1).unsqueeze(1)
    for gradient in gradients:
        gradient *= scale
    return norm
