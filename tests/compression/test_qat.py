"""Fake quantisation: values, gradients, and when ranges move."""

import pytest
import torch

from compression.int8 import StaticQuantLinear, activation_qparams, static_quant_linear
from compression.qat import QATLinear, fake_quantize, fake_quantize_weight, prepare_qat
from tests.helpers import batches, make_sac, spec
from trainers.nn.stacked import StackedMLP
from trainers.policy import Policy, Standardize


def qat_network(standardize: bool = True) -> tuple[StackedMLP, StackedMLP]:
    """The same two-seed network twice: in float and quantised."""
    plain, quantized = (
        StackedMLP((4, 16, 3), "relu", [torch.Generator().manual_seed(n) for n in range(2)]) for _ in range(2)
    )
    prepare_qat(quantized, standardize_input=standardize, reduce_range=False)
    return plain, quantized


def test_activation_grid_holds_zero_and_both_ends() -> None:
    scale, zero_point = activation_qparams(torch.tensor([-1.0, 2.0, -3.0]), torch.tensor([1.55, 5.1, -1.0]))
    torch.testing.assert_close(scale, torch.tensor([0.01, 0.02, 3 / 255]))
    assert zero_point.tolist() == [100, 0, 255]


def test_quantised_values_and_straight_through_gradient() -> None:
    x = torch.tensor([-0.4, 0.0, 0.24, 0.26, 9.0], requires_grad=True)
    y = fake_quantize(x, torch.tensor(0.5), torch.tensor(0.0), 0, 4)
    assert y.tolist() == [0.0, 0.0, 0.0, 0.5, 2.0]
    y.sum().backward()
    # -0.4 and 9.0 lie beyond the grid [0, 2]: -0.4 rounds to level -1.
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_straight_through_gradient_can_be_differentiated_again() -> None:
    x = torch.tensor([0.3, 0.9], requires_grad=True)
    y = fake_quantize(x, torch.tensor(0.5), torch.tensor(0.0), 0, 4)
    (gradient,) = torch.autograd.grad((y**3).sum(), x, create_graph=True)
    gradient.sum().backward()
    # y = (0.5, 1.0); with dy/dx = 1 the second derivative of y^3 is 6 y.
    assert x.grad is not None
    assert x.grad.tolist() == [3.0, 6.0]


def test_weights_are_quantised_per_output_channel() -> None:
    weight = torch.tensor([[[1.27, 0.004, -0.006], [127.0, 0.4, -63.6]]])
    expected = torch.tensor([[[1.27, 0.0, -0.01], [127.0, 0.0, -64.0]]])
    torch.testing.assert_close(fake_quantize_weight(weight, 127), expected)


def test_without_ranges_inputs_pass_unquantised_and_a_cut_is_refused() -> None:
    plain, quantized = qat_network()
    x = torch.randn(2, 9, 4)
    torch.testing.assert_close(quantized(x), plain(x), atol=2e-2, rtol=0)  # int8 weights, float inputs
    with pytest.raises(ValueError, match="never updated"):
        quantized.extract(0, 3)


def test_standardisation_keeps_inputs_of_mixed_scale() -> None:
    """The quantised network stays near the float one; without standardisation small inputs are lost."""
    plain, standardized = qat_network(standardize=True)
    _, raw = qat_network(standardize=False)
    scale = torch.tensor([100.0, 1.0, 0.01, 1.0])
    offset = torch.tensor([5.0, 0.0, 0.03, -2.0])
    for network in (plain, standardized, raw):
        # Every input matters equally in its own units.
        network.linears[0].weight.data /= scale
    x = torch.randn(2, 512, 4, generator=torch.Generator().manual_seed(0)) * scale + offset
    errors = []
    for network in (standardized, raw):
        network(x, update_ranges=True)
        errors.append((network(x) - plain(x)).square().mean().sqrt().item())
    assert errors[0] < 0.01
    assert errors[1] > 10 * errors[0]


def test_ranges_move_only_when_told_and_per_seed() -> None:
    _, network = qat_network()
    first = network.layers[0]
    assert isinstance(first, QATLinear)
    x = torch.randn(2, 64, 4)
    network(x, update_ranges=True)
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network(100 * x)
    assert all(torch.equal(before[name], buffer) for name, buffer in network.named_buffers())
    second_seed_only = torch.stack([x[0], 100 * x[1]])
    network(second_seed_only, update_ranges=True)
    assert torch.equal(first.running_mean[0], before["layers.0.running_mean"][0])
    assert not torch.equal(first.running_mean[1], before["layers.0.running_mean"][1])


def test_running_statistics_average_first_and_follow_later() -> None:
    _, network = qat_network(standardize=False)
    first = network.layers[0]
    assert isinstance(first, QATLinear)
    for top in (1.0, 3.0, 5.0):
        network(torch.full((2, 3, 4), top), update_ranges=True)
    torch.testing.assert_close(first.running_hi, torch.full((2, 1, 1), 3.0))
    first.batches.fill_(10_000)
    network(torch.full((2, 3, 4), 103.0), update_ranges=True)
    torch.testing.assert_close(first.running_hi, torch.full((2, 1, 1), 4.0))


def test_acting_policy_and_targets_leave_ranges_alone() -> None:
    of = spec()
    agent, draw = make_sac(of, [0, 1], qat=True), batches(of, [0, 1], 64)
    agent.update(draw())
    before = {name: buffer.clone() for name, buffer in agent.actor.named_buffers()}
    agent.act(100 * draw().obs.numpy())
    agent.policy(0)(100 * draw().obs[0])
    assert all(torch.equal(before[name], buffer) for name, buffer in agent.actor.named_buffers())
    agent.update(draw())
    first = agent.actor.layers[0]
    assert isinstance(first, QATLinear)
    assert first.batches.eq(2).all()  # once per update, though the actor ran twice


def test_critics_stay_float() -> None:
    agent = make_sac(spec(), [0], qat=True)
    assert all(isinstance(layer, QATLinear) for layer in agent.actor.layers)
    assert not any(isinstance(layer, QATLinear) for layer in agent.critics.layers)


def test_optimiser_holds_the_quantised_parameters() -> None:
    of = spec()
    agent, draw = make_sac(of, [0], qat=True), batches(of, [0], 64)
    before = agent.actor.linears[0].weight.clone()
    agent.update(draw())
    assert not torch.equal(agent.actor.linears[0].weight, before)


def test_cut_policy_computes_what_was_trained() -> None:
    of = spec(17, 6)
    agent, draw = make_sac(of, [0, 1], qat=True, hidden=[64, 64]), batches(of, [0, 1], 256)
    for _ in range(30):
        agent.update(draw())
    obs = draw().obs
    trained = 0.4 * torch.tanh(agent.actor(obs)[1, :, :6])
    policy = agent.policy(1)
    assert isinstance(policy, Policy)
    assert [type(stage) for stage in policy][:2] == [Standardize, StaticQuantLinear]
    difference = (policy(obs[1]) - trained).abs() / 0.4
    # The cut rounds biases to 32-bit integers and its arithmetic is exact: a level flips now and then.
    assert difference.mean() < 1e-3
    assert difference.quantile(0.99) < 5e-3


def test_bias_of_a_dead_channel_fits_in_32_bits() -> None:
    weight, bias = torch.zeros(2, 3), torch.tensor([5.0, -0.5])
    layer = static_quant_linear(weight, bias, torch.tensor(1e-6), torch.tensor(0.0), 127)
    torch.testing.assert_close(layer(torch.zeros(1, 3))[0], bias)
