"""Properties of the integer grids, over random ranges: error, clamping, and a zero that is exact."""

import numpy as np
import pytest
import torch

from compression.int8 import (
    ACTIVATION_LEVELS,
    activation_qparams,
    quantize_centered,
    static_quant_linear,
    weight_levels,
    weight_scale,
)

SAMPLES = range(15)
# Of a step: what float32 adds to the rounding itself.
ROUNDING = 1e-3


def random_range(sample: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A range of activations: of any size, on both sides of zero, on one side of it or empty."""
    generator = np.random.default_rng((3, sample))
    size = 10.0 ** generator.uniform(-4, 4)
    low, high = np.sort(generator.uniform(-size, size, 2))
    if sample % 5 == 0:
        low = 0.0
    if sample % 7 == 0:
        high = low
    return torch.tensor(low, dtype=torch.float32), torch.tensor(high, dtype=torch.float32)


def dequantized(x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor) -> torch.Tensor:
    return quantize_centered(x, scale, zero_point) * scale.double()


@pytest.mark.parametrize("sample", SAMPLES)
class TestActivations:
    def test_inside_the_range_the_error_is_half_a_step(self, sample: int) -> None:
        low, high = random_range(sample)
        scale, zero_point = activation_qparams(low, high)
        x = torch.lerp(low.clamp(max=0), high.clamp(min=0), torch.linspace(0, 1, 2001))
        error = (dequantized(x, scale, zero_point) - x.double()).abs()
        assert (error <= (0.5 + ROUNDING) * scale.double()).all()

    def test_outside_the_range_it_is_clamped_to_its_ends(self, sample: int) -> None:
        low, high = random_range(sample)
        scale, zero_point = activation_qparams(low, high)
        width = (high.clamp(min=0) - low.clamp(max=0)).clamp(min=1e-3)
        far = torch.stack([low.clamp(max=0) - width, high.clamp(min=0) + width])
        ends = torch.stack([-zero_point, ACTIVATION_LEVELS - zero_point]).double()
        assert torch.equal(quantize_centered(far, scale, zero_point), ends)

    def test_zero_is_exact_and_levels_are_bytes(self, sample: int) -> None:
        scale, zero_point = activation_qparams(*random_range(sample))
        assert dequantized(torch.zeros(1), scale, zero_point).item() == 0
        assert zero_point == zero_point.round()
        assert 0 <= zero_point <= ACTIVATION_LEVELS

    def test_to_quantise_twice_is_to_quantise_once(self, sample: int) -> None:
        low, high = random_range(sample)
        scale, zero_point = activation_qparams(low, high)
        x = torch.linspace(-3, 3, 501) * (high - low + 1)
        once = quantize_centered(x, scale, zero_point)
        assert torch.equal(quantize_centered(once.float() * scale, scale, zero_point), once)


@pytest.mark.parametrize("reduce_range", [False, True])
@pytest.mark.parametrize("sample", SAMPLES)
class TestWeights:
    def random_weight(self, sample: int) -> torch.Tensor:
        """A matrix whose channels have sizes of their own."""
        generator = torch.Generator().manual_seed(sample)
        size = 10 ** (6 * torch.rand(7, 1, generator=generator) - 3)
        return torch.randn(7, 11, generator=generator) * size

    def test_the_error_is_half_a_step_and_nothing_is_clipped(self, sample: int, reduce_range: bool) -> None:
        weight = self.random_weight(sample)
        levels = weight_levels(reduce_range)
        scale = weight_scale(weight, levels)
        integers = torch.round(weight / scale)
        assert torch.equal(integers.abs().amax(1), torch.full((7,), float(levels)))
        assert ((integers * scale - weight).abs() <= (0.5 + ROUNDING) * scale).all()
        assert (integers[weight == 0] == 0).all()

    def test_a_layer_is_its_float_layer_but_for_both_roundings(self, sample: int, reduce_range: bool) -> None:
        weight = self.random_weight(sample)
        bias = weight[:, 0]
        scale, zero_point = activation_qparams(torch.tensor(-2.0), torch.tensor(3.0))
        layer = static_quant_linear(weight, bias, scale, zero_point, weight_levels(reduce_range))
        x = torch.rand(50, 11, generator=torch.Generator().manual_seed(sample)) * 5 - 2
        exact = x.double() @ weight.double().T + bias.double()
        steps = layer.weight_scale.double()
        # Half a step of the input for each weight, and half a step of the weight for each input of at most 3.
        bound = 0.5 * scale * weight.double().abs().sum(1) + 0.5 * steps * 11 * (3 + scale) + scale * steps
        assert ((layer(x) - exact).abs() <= bound * (1 + ROUNDING)).all()
