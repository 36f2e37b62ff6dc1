"""Running statistics of what a seed has seen."""

import torch
from torch import Tensor, nn

# Below this variance an input counts as still.
EPSILON = 1e-8


class RunningStatistics(nn.Module):
    """Mean and variance of every column over the whole stream, per row: exact, whatever the batches were.

    Kept in float64; merged batch by batch (Chan, Golub and LeVeque, 1979).
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(rows, 1, columns, dtype=torch.float64))
        self.register_buffer("var", torch.ones(rows, 1, columns, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(rows, 1, 1, dtype=torch.float64))

    def update(self, x: Tensor) -> None:
        """Take in x [rows, n, columns]."""
        n = x.shape[1]
        var, mean = torch.var_mean(x.double(), 1, correction=0, keepdim=True)
        total = self.count + n
        delta = mean - self.mean
        squares = self.var * self.count + var * n + delta.square() * self.count * n / total
        self.mean += delta * n / total
        self.var.copy_(squares / total)
        self.count.copy_(total)

    def std(self) -> Tensor:
        """Standard deviation in float32, [rows, 1, columns]; 1 before anything was seen."""
        return (self.var + EPSILON).sqrt().float()

    def standardize(self, x: Tensor) -> Tensor:
        """(x - mean) / std in float32, as `policy.Standardize` computes it."""
        return (x - self.mean.float()) * (1 / self.std())
