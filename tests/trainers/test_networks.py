"""The seed axis: S networks in one must behave as S networks."""

from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from trainers.nn.activations import ACTIVATIONS, activation_name
from trainers.nn.optimizer import FlatAdam, clip_row_norms
from trainers.nn.stacked import StackedLinear, StackedMLP, orthogonal_
from trainers.nn.targets import make_target, polyak_update
from trainers.settings import ActivationName


def stacked(rows: int, sizes: tuple[int, ...] = (4, 16, 3)) -> StackedMLP:
    return StackedMLP(sizes, "tanh", [torch.Generator().manual_seed(n) for n in range(rows)])


def plain(network: StackedMLP, row: int) -> nn.Sequential:
    outputs = network.linears[-1].weight.shape[1]
    return nn.Sequential(*network.extract(row, outputs)).requires_grad_(True)


def test_forward_equals_separate_networks() -> None:
    network, x = stacked(3), torch.randn(3, 7, 4)
    expected = torch.stack([plain(network, n)(x[n]) for n in range(3)])
    torch.testing.assert_close(network(x), expected)


def test_width_one_output_equals_separate_networks() -> None:
    network, x = stacked(3, (4, 16, 1)), torch.randn(3, 7, 4)
    expected = torch.stack([plain(network, n)(x[n]) for n in range(3)])
    torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize("sizes", [(17, 64, 64, 1), (11, 256, 6), (33, 17, 3), (376, 256, 34), (27, 179, 16)])
@pytest.mark.parametrize("rows", [1, 4, 256])
def test_a_row_alone_and_among_others_gives_the_same_bits(sizes: tuple[int, ...], rows: int) -> None:
    """Forward and backward; a value head (width 1) and acting on one observation are the hard cases."""
    network = stacked(3, sizes)
    alone = stacked(1, sizes)
    x = torch.randn(3, rows, sizes[0], generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(x)[0], alone(x[:1])[0])
    assert torch.equal(gradients(network, x)[0], gradients(alone, x[:1])[0])


needs_bf16 = pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="a CPU without bfloat16")


@needs_bf16
@pytest.mark.parametrize("sizes", [(17, 256, 256, 1), (23, 64, 64, 12)])
def test_bfloat16_products(sizes: tuple[int, ...]) -> None:
    """Gradients within 2 % of those of float32, outputs that are not rounded, and a row alone as among others."""
    network, alone, exact = stacked(3, sizes), stacked(1, sizes), stacked(3, sizes)
    network.dtype = alone.dtype = torch.bfloat16
    x = torch.randn(3, 256, sizes[0], generator=torch.Generator().manual_seed(0))
    output = network(x)
    assert (output.bfloat16().float() != output).any()
    assert torch.equal(output[0], alone(x[:1])[0])
    rounded, expected = gradients(network, x), gradients(exact, x)
    assert ((rounded - expected).norm(dim=1) < 0.02 * expected.norm(dim=1)).all()
    assert torch.equal(rounded[0], gradients(alone, x[:1])[0])


def gradients(network: StackedMLP, x: torch.Tensor) -> torch.Tensor:
    optimizer = FlatAdam(network, 1e-3)
    optimizer.differentiate(network(x).square().sum())
    return optimizer.gradient


def test_initial_weights_belong_to_the_generator_not_the_place() -> None:
    alone = StackedMLP((4, 16, 3), "relu", [torch.Generator().manual_seed(2)])
    assert torch.equal(alone.linears[0].weight[0], stacked(3).linears[0].weight[2])
    assert alone.linears[0].weight.abs().max() <= 0.5
    assert not torch.equal(stacked(2).linears[1].bias[0], stacked(2).linears[1].bias[1])


def test_flat_adam_equals_separate_torch_adams() -> None:
    network = stacked(3)
    singles = [plain(network, n) for n in range(3)]
    optimizers = [torch.optim.Adam(single.parameters(), lr=1e-2) for single in singles]
    flat = FlatAdam(network, lr=1e-2)
    for step in range(20):
        x = torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(step))
        flat.minimize(network(x).square().mean((1, 2)).sum())
        for n, (single, optimizer) in enumerate(zip(singles, optimizers, strict=True)):
            optimizer.zero_grad()
            single(x[n]).square().mean().backward()
            optimizer.step()
    for n, single in enumerate(singles):
        for ours, theirs in zip(plain(network, n).parameters(), single.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_minimize_changes_no_other_network() -> None:
    first, second = stacked(2, (4, 8, 4)), stacked(2, (4, 8, 1))
    optimizer, _ = FlatAdam(first, 1e-2), FlatAdam(second, 1e-2)
    before = second.flat.clone()
    optimizer.minimize(second(first(torch.randn(2, 5, 4))).mean())
    assert torch.equal(second.flat, before)
    assert (optimizer.gradient != 0).any()


def test_flat_rows_are_padded_and_shared_with_the_parameters() -> None:
    network = stacked(2)
    network.flatten()
    assert network.flat.shape == (2, 192)  # 4*16 + 16 + 16*3 + 3 = 131
    network.flat.zero_()
    assert all((p == 0).all() for p in network.parameters())


def test_polyak_moves_parameters_and_copies_buffers() -> None:
    online = stacked(2)
    online.register_buffer("running_hi", torch.zeros(2, 1, 1))
    online.flatten()
    target = make_target(online)
    start = target.flat.clone()
    online.flat.add_(1.0)
    online.get_buffer("running_hi").fill_(7.0)
    polyak_update(target, online, tau=0.25)
    used = 131
    torch.testing.assert_close(target.flat[:, :used], start[:, :used] + 0.25)
    assert torch.equal(target.get_buffer("running_hi"), torch.full((2, 1, 1), 7.0))
    assert not any(p.requires_grad for p in target.parameters())


def test_polyak_refuses_networks_with_different_buffers() -> None:
    online = stacked(2)
    online.flatten()
    target = make_target(online)
    online.register_buffer("running_hi", torch.zeros(2, 1, 1))
    with pytest.raises(ValueError, match="longer than"):
        polyak_update(target, online, 0.5)


def test_gradients_are_clipped_per_seed_over_all_networks() -> None:
    actor, critic = torch.tensor([[3.0, 0.0], [0.3, 0.0]]), torch.tensor([[0.0, 4.0, 0.0], [0.0, 0.4, 0.0]])
    torch.testing.assert_close(clip_row_norms([actor, critic], 1.0), torch.tensor([5.0, 0.5]))
    torch.testing.assert_close(actor, torch.tensor([[0.6, 0.0], [0.3, 0.0]]))
    torch.testing.assert_close(critic, torch.tensor([[0.0, 0.8, 0.0], [0.0, 0.4, 0.0]]))


def test_a_row_that_is_not_active_stays_with_its_moments() -> None:
    """As if the batches of its pause had not been."""
    network, paused = stacked(2), stacked(2)
    steady, stopping = FlatAdam(network, 1e-2), FlatAdam(paused, 1e-2)
    xs = [torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(k)) for k in range(9)]
    for k, x in enumerate(xs):
        stopping.differentiate(paused(x).square().sum())
        stopping.step(torch.tensor([True, k % 3 != 1]))
        if k % 3 != 1:
            steady.minimize(network(x).square().sum())
    assert torch.equal(network.flat[1], paused.flat[1])
    assert not torch.equal(network.flat[0], paused.flat[0])


def test_a_restored_optimiser_goes_on_to_the_bit() -> None:
    network, other = stacked(3), stacked(3)
    first, second = FlatAdam(network, 1e-2), FlatAdam(other, 1e-2)
    for k in range(6):
        x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(k))
        first.minimize(network(x).square().sum())
        if k == 2:
            other.flat.data.copy_(network.flat)
            for row in (slice(0, 1), slice(1, 3)):
                second.load_state(row, first.state(row))
        elif k > 2:
            second.minimize(other(x).square().sum())
    assert torch.equal(network.flat, other.flat)


def test_orthogonal_layers() -> None:
    network = stacked(2, (4, 16, 16, 3))
    orthogonal_(network, [torch.Generator().manual_seed(n) for n in range(2)], head_gain=0.01)
    middle, head = network.linears[1].weight.data, network.linears[2].weight.data
    torch.testing.assert_close(middle @ middle.mT, 2 * torch.eye(16).expand(2, 16, 16), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(head @ head.mT, 1e-4 * torch.eye(3).expand(2, 3, 3), rtol=1e-4, atol=1e-7)
    assert all((layer.bias == 0).all() for layer in network.linears)
    assert not torch.equal(middle[0], middle[1])


@pytest.mark.parametrize("sizes", [(17, 64, 64, 6), (17, 50, 50, 6), (11, 256, 256, 3)])
@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_acting_on_a_few_observations_gives_the_same_bits_alone_and_in_a_pack(
    sizes: tuple[int, ...], rows: int
) -> None:
    x = torch.randn(3, rows, sizes[0], generator=torch.Generator().manual_seed(0))
    for pack in (2, 3):
        together, alone = stacked(pack, sizes).numpy_fn()(x[:pack].numpy()), stacked(1, sizes).numpy_fn()(x[:1].numpy())
        assert np.array_equal(together[0], alone[0])
    torch.testing.assert_close(torch.from_numpy(stacked(3, sizes).numpy_fn()(x.numpy())), stacked(3, sizes)(x))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_acting_in_numpy_is_the_network(activation: str) -> None:
    network = StackedMLP((7, 64, 64, 5), activation, [torch.Generator().manual_seed(n) for n in range(2)])
    x = 30 * torch.randn(2, 9, 7)
    torch.testing.assert_close(torch.from_numpy(network.numpy_fn()(x.numpy())), network(x), rtol=1e-5, atol=1e-5)
    assert network.numpy_fn()(x.numpy()).dtype == np.float32
    alone = network.extract(1)
    torch.testing.assert_close(torch.nn.Sequential(*alone)(x[1]), network(x)[1], rtol=1e-5, atol=1e-5)
    assert activation_name(alone[1]) == activation


NAMES = get_args(ActivationName)


def test_an_activation_with_other_settings_has_no_name() -> None:
    others = (torch.nn.LeakyReLU(0.2), torch.nn.ELU(0.5), torch.nn.GELU("tanh"), torch.nn.Mish())
    assert [activation_name(other) for other in others] == [None] * 4
    assert [activation_name(kind()) for kind in ACTIVATIONS.values()] == list(ACTIVATIONS) == list(NAMES)


@pytest.mark.parametrize("activation", ["elu", "gelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_activations_train_without_the_fused_node(activation: str, dtype: torch.dtype) -> None:
    """Gradients of parameters and of the last inputs are those of plain torch modules."""
    network = StackedMLP((7, 16, 16, 1), activation, [torch.Generator().manual_seed(n) for n in range(3)])
    optimizer, x = FlatAdam(network, 1e-3), torch.randn(3, 9, 7, requires_grad=True)
    network.dtype = dtype
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    optimizer.differentiate(network(x).square().sum())
    row = torch.nn.Sequential(*network.extract(1)).requires_grad_(True)
    row(x[1]).square().sum().backward()
    (of_x,) = torch.autograd.grad(network.with_frozen_params(num_grad_inputs=3)(x).square().sum(), [x])
    (whole,) = torch.autograd.grad(row(x[1]).square().sum(), [x])
    expected = whole[1]
    torch.testing.assert_close(of_x[1], expected, rtol=tolerance, atol=tolerance)
    first = network.layers[0]
    assert isinstance(first, StackedLinear)
    assert first.weight.grad is not None
    torch.testing.assert_close(first.weight.grad[1], row[0].weight.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("outputs", [1, 5])
def test_the_gradients_written_out_are_those_of_autograd(activation: str, outputs: int) -> None:
    """Of parameters and inputs; and none of the parameters of a detached network."""
    network = StackedMLP((7, 16, 16, outputs), activation, [torch.Generator().manual_seed(n) for n in range(3)])
    optimizer, x = FlatAdam(network, 1e-3), torch.randn(3, 9, 7, requires_grad=True)

    def found() -> list[torch.Tensor]:
        loss = network(x).square().sum()
        (of_x,) = torch.autograd.grad(loss, [x], retain_graph=True)
        optimizer.differentiate(loss)
        return [of_x, optimizer.gradient.clone()]

    ours = found()
    network.fused = False
    for gradient, expected in zip(ours, found(), strict=True):
        torch.testing.assert_close(gradient, expected)
    network.fused = True
    optimizer.gradient.zero_()
    some = network.with_frozen_params(num_grad_inputs=3, rows=slice(None, None, 2))(x[::2]).square().sum()
    first, *none = torch.autograd.grad(some, [x, *network.parameters()], allow_unused=True)
    torch.testing.assert_close(first[::2, :, -3:], ours[0][::2, :, -3:])
    assert (first[..., :-3] == 0).all()
    assert none == [None] * len(none)
    assert (optimizer.gradient == 0).all()
