"""Properties of flat storage, over random networks: what goes in comes out, and nothing else is touched."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from trainers.nn.flat_storage import ROW_PADDING, row_views
from trainers.nn.optimizer import FlatAdam, piece_width, row_gradient
from trainers.nn.stacked import GaussianMLP, StackedMLP

SAMPLES = range(12)


def random_network(sample: int) -> StackedMLP:
    """A network of random widths, depth and number of rows, with or without a standard deviation beside it."""
    generator = np.random.default_rng((1, sample))
    sizes = generator.integers(1, 40, generator.integers(2, 5)).tolist()
    streams = [torch.Generator().manual_seed(row) for row in range(generator.integers(1, 6))]
    activation = str(generator.choice(["relu", "tanh"]))
    if generator.integers(2):
        return GaussianMLP(sizes, activation, streams, log_std=-0.5)
    return StackedMLP(sizes, activation, streams)


def copies(network: StackedMLP) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def random_gradients(optimizer: FlatAdam, seed: int) -> Iterator[None]:
    """Fill the gradients of a network's parameters with noise, over and over."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for parameter in optimizer.parameters:
            assert parameter.grad is not None
            parameter.grad.copy_(torch.randn(parameter.shape, generator=generator))
        yield


@pytest.mark.parametrize("sample", SAMPLES)
class TestFlatten:
    def test_parameters_keep_their_values_and_share_the_storage(self, sample: int) -> None:
        network = random_network(sample)
        before = copies(network)
        flat = network.flatten()
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, before[name])
        flat.fill_(7.0)
        assert all((tensor == 7.0).all() for tensor in network.state_dict().values())

    def test_rows_are_padded_with_zeros_that_no_parameter_covers(self, sample: int) -> None:
        network = random_network(sample)
        flat = network.flatten()
        numbers = sum(parameter[0].numel() for parameter in network.parameters())
        assert flat.shape[1] % ROW_PADDING == 0
        assert 0 <= flat.shape[1] - numbers < ROW_PADDING
        assert (flat[:, numbers:] == 0).all()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(7.0)
        assert (flat[:, :numbers] == 7.0).all()
        assert (flat[:, numbers:] == 0).all()

    def test_views_of_a_flat_tensor_cover_it_once(self, sample: int) -> None:
        network = random_network(sample)
        parameters = list(network.parameters())
        flat = torch.arange(network.flatten().numel()).view_as(network.flat)
        views = row_views(flat, parameters)
        assert [view.shape for view in views] == [parameter.shape for parameter in parameters]
        numbers = torch.cat([view.flatten() for view in views])
        assert len(numbers.unique()) == len(numbers)

    def test_gradients_lie_as_parameters_do(self, sample: int) -> None:
        network = random_network(sample)
        network.flatten()
        weights = [torch.randn(p.shape, generator=torch.Generator().manual_seed(0)) for p in network.parameters()]
        products = [(p * weight).sum() for p, weight in zip(network.parameters(), weights, strict=True)]
        gradient = row_gradient(torch.stack(products).sum(), network)
        for view, weight in zip(row_views(gradient, list(network.parameters())), weights, strict=True):
            assert torch.equal(view, weight)


@pytest.mark.parametrize("sample", SAMPLES)
class TestRowsView:
    def test_some_rows_are_a_network_on_the_same_memory(self, sample: int) -> None:
        network = random_network(sample)
        network.flatten()
        row = len(network.flat) - 1
        view = network.rows_view(slice(row, row + 1))
        before = copies(network)
        for name, tensor in view.state_dict().items():
            assert torch.equal(tensor[0], before[name][row])
        view.flat.fill_(7.0)
        for name, tensor in network.state_dict().items():
            assert (tensor[row] == 7.0).all()
            assert torch.equal(tensor[:row], before[name][:row])


@pytest.mark.parametrize("sample", SAMPLES)
class TestOptimizerState:
    def test_each_row_goes_on_from_its_own_state(self, sample: int) -> None:
        """Two optimisers that stood at different places take the same steps, once one has the other's state."""
        networks = [random_network(sample) for _ in range(2)]
        optimizers = [FlatAdam(network, 1e-2) for network in networks]
        for optimizer, steps in zip(optimizers, (3, 5), strict=True):
            gradients = random_gradients(optimizer, seed=steps)
            for _ in range(steps):
                next(gradients)
                optimizer.step()
        networks[1].load_state_dict(networks[0].state_dict())
        for row in range(len(networks[0].flat)):
            rows = slice(row, row + 1)
            optimizers[1].load_state(rows, optimizers[0].state(rows))

        for optimizer in optimizers:
            gradients = random_gradients(optimizer, seed=0)
            for _ in range(2):
                next(gradients)
                optimizer.step()
        assert torch.equal(networks[0].flat, networks[1].flat)

    def test_rows_that_are_not_active_stay(self, sample: int) -> None:
        network = random_network(sample)
        optimizer = FlatAdam(network, 1e-2)
        next(random_gradients(optimizer, seed=0))
        active = torch.arange(len(network.flat)) % 2 == 0
        before = network.flat.clone()
        optimizer.step(active)
        moved = (network.flat != before).any(1)
        assert torch.equal(moved, active)
        assert torch.equal(optimizer.steps, active.float())


@pytest.mark.parametrize("width", [64, 73728])
def test_a_gpu_gets_rows_in_pieces_while_that_keeps_more_of_it_busy(width: int) -> None:
    widths = [piece_width(rows, width) for rows in (1, 10, 64, 1000)]
    assert all(piece % ROW_PADDING == 0 for piece in widths)
    assert widths == sorted(widths)
    assert widths[-1] == width
    # one row: as many pieces as go in one call
    assert -(-width // widths[0]) == min(36, width // ROW_PADDING)
