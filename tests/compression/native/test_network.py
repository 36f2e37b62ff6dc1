"""What is read from a policy: folded biases, scales in ONNX Runtime's order, and what is refused."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from compression.int8 import StaticQuantLinear
from compression.native.generate import numbers
from compression.native.network import float_literal, read_network
from tests.compression.native.builds import compressed, random_policy
from tests.helpers import spec
from trainers.errors import UserError
from trainers.policy import Policy


def quantized_layer(inputs: int, outputs: int, zero_point: int, scale: float = 0.1) -> StaticQuantLinear:
    weight = torch.full((outputs, inputs), -2, dtype=torch.int8)
    bias = torch.arange(outputs, dtype=torch.int32)
    scales = torch.linspace(0.01, 0.02, outputs)
    return StaticQuantLinear(weight, scales, bias, torch.tensor(scale), torch.tensor(zero_point, dtype=torch.uint8))


def quantized_policy(activation: nn.Module, zero_point: int) -> Policy:
    return Policy(spec(4, 3), [quantized_layer(4, 6, 10), activation, quantized_layer(6, 3, zero_point, 0.3)])


class TestIntegerLayers:
    def test_the_zero_point_is_in_the_bias(self) -> None:
        first, _ = read_network(quantized_policy(nn.ReLU(), 0)).layers
        assert first.bias.tolist() == [o - 10 * (-2 * 4) for o in range(6)]

    def test_a_relu_at_zero_point_0_becomes_the_clamp(self) -> None:
        first, last = read_network(quantized_policy(nn.ReLU(), 0)).layers
        expected = (np.float32(0.1) * np.linspace(0.01, 0.02, 6, dtype=np.float32)) / np.float32(0.3)
        assert first.fused
        assert first.scale is not None
        np.testing.assert_allclose(first.scale, expected, rtol=1e-6)
        assert not last.fused

    @pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh()], ids=["relu", "tanh"])
    def test_other_activations_are_computed(self, activation: nn.Module) -> None:
        first, _ = read_network(quantized_policy(activation, 7)).layers
        assert not first.fused

    def test_sums_that_may_not_fit_are_refused(self) -> None:
        policy = quantized_policy(nn.ReLU(), 0)
        layer = policy[0]
        assert isinstance(layer, StaticQuantLinear)
        layer.bias_int32.fill_(2**31 - 100)
        with pytest.raises(UserError, match="may not fit 32 bits"):
            read_network(policy)


class TestWhatIsRefused:
    def test_two_activations_between_layers(self) -> None:
        policy = Policy(spec(4, 3), [nn.Linear(4, 5), nn.ReLU(), nn.Tanh(), nn.Linear(5, 3)])
        with pytest.raises(UserError, match=r"ReLU\(\), Tanh\(\) between two layers; allowed: one of relu, tanh, elu"):
            read_network(policy)

    @pytest.mark.parametrize("activation", [nn.LeakyReLU(0.2), nn.ELU(0.5), nn.GELU("tanh")], ids=str)
    def test_activations_with_other_settings(self, activation: nn.Module) -> None:
        policy = Policy(spec(4, 3), [nn.Linear(4, 5), activation, nn.Linear(5, 3)])
        with pytest.raises(UserError, match=re.escape(f"{activation} between two layers; allowed")):
            read_network(policy)

    def test_float_and_integer_layers_together(self) -> None:
        policy = Policy(spec(4, 3), [nn.Linear(4, 6), nn.ReLU(), quantized_layer(6, 3, 0)])
        with pytest.raises(UserError, match="only some of the layers are int8"):
            read_network(policy)

    def test_a_stage_that_is_not_known(self) -> None:
        with pytest.raises(UserError, match="no C for a stage Sigmoid"):
            read_network(Policy(spec(4, 3), [nn.Linear(4, 3), nn.Sigmoid()]))


def test_counts_of_a_policy() -> None:
    network = read_network(random_policy("relu"))
    assert network.macs == 5 * 19 + 19 * 37 + 37 * 3
    assert not network.quantized
    assert network.fused == ["tanh"]
    assert network.varying == []
    assert read_network(compressed("ptsq", "tanh")[0]).quantized


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, 0.1, 1e-45, 3.4028235e38, -1 / 3])
def test_nine_digits_give_back_the_same_bits(value: float) -> None:
    number = np.float32(value)
    literal = float_literal(number)
    assert literal.endswith("f")
    assert np.float32(float(literal[:-1])).tobytes() == number.tobytes()
    assert numbers(np.array([number, number])) == f"{literal}, {literal}"
