"""Fewer than eight bits: packing, learned steps, what is trained, written and run."""

import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch

from compression.artifact import INTEGER_KERNELS, check_artifact, load_policy, save_artifact
from compression.lowbit import (
    WIDTHS,
    Bits,
    LowBitLinear,
    activation_levels,
    compact,
    eleven_bits,
    largest_level,
    least_squares_scale,
    low_bit_layers,
    pack,
    tensor_bytes,
    unpack,
)
from compression.lsq import LowBitQATLinear, learned_quantize, prepare_low_bit_qat
from compression.onnx_export import onnx_bytes
from compression.ptsq import quantize_static_policy
from compression.runtime import OnnxPolicy, optimized_operators, weight_bytes
from rlc.compress import compress
from tests.helpers import FEW_BITS, POLICIES, batches, make_off_policy, make_on_policy, spec
from trainers.nn.stacked import StackedMLP
from trainers.policy import Policy, Standardize

OF = spec(17, 6)


def qat_network(bits: Bits, activation: str = "relu", standardize: bool = True) -> StackedMLP:
    network = StackedMLP((4, 16, 3), activation, [torch.Generator().manual_seed(n) for n in range(2)])
    prepare_low_bit_qat(network, bits=bits, standardize_input=standardize, reduce_range=False)
    return network


def trained(bits: str, activation: str = "relu") -> Policy:
    agent, draw = make_off_policy("sac", OF, [0], bits, hidden="[64,64]", activation=activation), batches(OF, [0], 64)
    for _ in range(20):
        agent.update(draw())
    return agent.policy(0)


class TestPacking:
    @pytest.mark.parametrize("bits", WIDTHS)
    @pytest.mark.parametrize("inputs", [1, 3, 8, 17])
    def test_every_level_comes_back(self, bits: int, inputs: int) -> None:
        largest = largest_level(bits)
        levels = torch.randint(-largest, largest + 1, (50, inputs), generator=torch.Generator().manual_seed(0))
        packed = pack(levels.to(torch.int8), bits)
        assert packed.dtype == torch.uint8
        assert packed.shape == (50, math.ceil(inputs * bits / 8))
        assert torch.equal(unpack(packed, bits, inputs), levels.to(torch.int8))

    def test_the_first_input_lies_in_the_lowest_bits(self) -> None:
        assert pack(torch.tensor([[1, -1, 7]]), 4).tolist() == [[0xF1, 0x07]]
        assert pack(torch.tensor([[1, -1, 0, 1]]), 2).tolist() == [[0b01_00_11_01]]
        assert pack(torch.tensor([[3, -1, -3]]), 3).tolist() == [[0b01_111_011, 0b1]]

    @pytest.mark.parametrize("bits", WIDTHS)
    def test_a_layer_is_its_state(self, bits: int) -> None:
        weight, bias = torch.randn(6, 5), torch.randn(6)
        grid = torch.tensor(0.1), torch.tensor(3.0)
        layer = LowBitLinear.from_float(weight, bias, least_squares_scale(weight, bits), *grid, bits, 4)
        state = layer.state_dict()
        assert state["weight_packed"].nbytes == 6 * math.ceil(5 * bits / 8)
        again = LowBitLinear.from_state(state)
        x = torch.randn(30, 5)
        assert torch.equal(again(x), layer(x))

    def test_biases_take_two_bytes_where_they_fit(self) -> None:
        grid = torch.tensor(0.1), torch.tensor(0.0)
        for bias, dtype in ((3.0, torch.int16), (3e4, torch.int32)):
            layer = LowBitLinear.from_float(torch.ones(1, 2), torch.tensor([bias]), torch.ones(1, 1), *grid, 2, 8)
            assert layer.bias_stored.dtype == dtype
            assert layer(torch.zeros(1, 2)).item() == pytest.approx(bias)

    def test_scales_take_two_bytes_where_they_fit(self) -> None:
        grid = torch.tensor(0.1), torch.tensor(0.0)
        for scale, dtype in ((0.3, torch.float16), (1e-7, torch.float32), (1e5, torch.float32)):
            weight = torch.full((1, 2), 3 * scale)
            layer = LowBitLinear.from_float(weight, torch.zeros(1), torch.full((1, 1), scale), *grid, 4, 8)
            assert layer.weight_scale.dtype == dtype
            assert layer.weight_int8.tolist() == [[3, 3]]
            assert layer(torch.ones(1, 2)).item() == pytest.approx(6 * scale, rel=2**-11)

    def test_eleven_bits_are_those_of_a_float16(self) -> None:
        x = torch.rand(1000) + 0.001
        assert torch.equal(eleven_bits(x), x.half().float())
        assert torch.equal(eleven_bits(-x), -eleven_bits(x))
        assert torch.equal(eleven_bits(x * 2.0**-40), eleven_bits(x) * 2.0**-40)

    def test_a_layer_of_an_earlier_version_keeps_its_wider_scale(self) -> None:
        grid = torch.tensor(0.1), torch.tensor(3.0)
        state = LowBitLinear.from_float(torch.randn(6, 5), torch.randn(6), torch.ones(6, 1), *grid, 4, 8).state_dict()
        earlier = state | {"weight_scale": torch.rand(6) + 0.1, "layout": state["layout"].int()}
        again = LowBitLinear.from_state(earlier).state_dict()
        assert safetensors.torch.save(dict(again)) == safetensors.torch.save(dict(earlier))

    def test_a_compact_policy_acts_alike_in_fewer_bytes(self) -> None:
        policy = make_on_policy("ppo", OF, [0], hidden="[8,8]").policy(0)
        obs = torch.randn(50, 17)
        small = compact(policy)
        torch.testing.assert_close(small(obs), policy(obs), rtol=0, atol=5e-3)
        # Mean and 1/std of 17 numbers in two bytes each, and one bound of six.
        assert tensor_bytes(policy) - tensor_bytes(small) == 2 * 17 * 2 + 4 * 5 * 4


class TestQuantizers:
    def test_levels_of_each_width(self) -> None:
        assert [largest_level(bits) for bits in WIDTHS] == [127, 31, 7, 3, 1]
        assert [activation_levels(bits) for bits in WIDTHS] == [255, 63, 15, 7, 3]

    def test_ternary_weights_change_at_half_a_step(self) -> None:
        weight = torch.tensor([[[-9.0, -0.51, -0.5, 0.49, 0.5, 0.51, 1.49, 2.0]]])
        levels = learned_quantize(weight, torch.ones(1, 1, 1), -1, 1)
        assert levels.tolist() == [[[-1.0, -1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]]]

    def test_gradient_of_the_step_is_that_of_the_frozen_rounding_error(self) -> None:
        """y = step * clip(x / step + r) with r = round(x / step) - x / step as it is now: smooth between the clips."""
        x = torch.tensor([-3.3, -0.8, 0.05, 0.62, 1.7, 5.0], dtype=torch.float64).view(1, 2, 3)
        weights = torch.tensor([1.0, -2.0, 3.0, 0.5, -1.0, 2.0], dtype=torch.float64).view(1, 2, 3)
        step = torch.tensor(0.7, dtype=torch.float64).view(1, 1, 1).requires_grad_()
        x.requires_grad_()
        (weights * learned_quantize(x, step, -3, 3)).sum().backward()
        error = (x / step).round().detach() - (x / step).detach()

        def frozen(of: torch.Tensor, at: float) -> float:
            return float((weights * at * (of / at + error).clamp(-3, 3)).sum())

        with torch.no_grad():
            numeric = (frozen(x, 0.7 + 1e-6) - frozen(x, 0.7 - 1e-6)) / 2e-6
            assert step.grad is not None
            assert step.grad.item() == pytest.approx(numeric, rel=1e-6)
            assert x.grad is not None
            assert x.grad.flatten().tolist() == [0.0, -2.0, 3.0, 0.5, -1.0, 0.0]

    def test_where_all_is_clipped_the_gradient_is_the_functions_own(self) -> None:
        x = torch.tensor([[[5.0, -4.0, 9.0]]], dtype=torch.float64)
        step = torch.full((1, 1, 1), 0.5, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda s: learned_quantize(x, s, -2, 3), (step,))

    def test_each_channel_and_each_seed_has_a_step(self) -> None:
        x, step = torch.randn(2, 3, 8), torch.rand(2, 3, 1) + 0.1
        step.requires_grad_()
        learned_quantize(x, step, -3, 3)[1, 2].sum().backward()
        assert step.grad is not None
        changed = step.grad[..., 0] != 0
        assert changed.tolist() == [[False] * 3, [False, False, True]]

    def test_least_squares_is_no_worse_than_any_scale_near_it(self) -> None:
        weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
        for bits in (2, 3, 4):
            largest = largest_level(bits)

            def loss(scale: torch.Tensor, largest: int = largest) -> torch.Tensor:
                return (weight - (weight / scale).round().clamp(-largest, largest) * scale).square().sum(-1)

            best = least_squares_scale(weight, bits)
            assert (loss(best) <= loss(weight.abs().amax(-1, keepdim=True) / largest)).all()
            for factor in (0.6, 0.9, 0.98, 1.02, 1.1, 1.5):
                assert (loss(best) <= 1.01 * loss(best * factor)).all()


class TestTraining:
    def test_steps_begin_as_in_the_paper_and_follow_the_standardisation(self) -> None:
        network = qat_network(Bits(weight=4))
        first = network.layers[0]
        assert isinstance(first, LowBitQATLinear)
        network(torch.randn(2, 64, 4) * torch.tensor([100.0, 1.0, 0.01, 1.0]), update_ranges=True)
        folded = first.weight * first.running_var**0.5
        expected = 2 * folded.abs().mean(-1, keepdim=True) / math.sqrt(7)
        torch.testing.assert_close(first.weight_step(folded), eleven_bits(expected))

    def test_only_what_has_fewer_bits_learns_a_step(self) -> None:
        names = {name for name, _ in qat_network(Bits(weight=4)).named_parameters() if "step" in name}
        assert names == {"layers.0.log_weight_step", "layers.1.log_weight_step"}
        names = {name for name, _ in qat_network(Bits(activation=4)).named_parameters() if "step" in name}
        assert names == {"layers.1.log_input_step"}

    @pytest.mark.parametrize(("activation", "zero_points"), [("relu", [32, 0]), ("tanh", [32, 8])])
    def test_grids_are_signed_but_behind_a_relu(self, activation: str, zero_points: list[int]) -> None:
        network = qat_network(Bits(4, 4, 6), activation)
        network(torch.randn(2, 64, 4), update_ranges=True)
        layers = [layer for layer in network.extract(0) if isinstance(layer, LowBitLinear)]
        assert [int(layer.input_zero_point) for layer in layers] == zero_points
        assert [layer.input_levels for layer in layers] == [63, 15]

    def test_with_rounding_held_outputs_follow_the_gradient_of_learning(self) -> None:
        """Rounded weights and biases as functions of all parameters, against central differences in float64."""
        network = qat_network(Bits(weight=3), standardize=False).double()
        layer = network.layers[1]
        assert isinstance(layer, LowBitQATLinear)
        network(torch.randn(2, 64, 4).double(), update_ranges=True)
        generator = torch.Generator().manual_seed(0)
        parameters = [layer.weight, layer.bias, layer.log_weight_step]
        directions = [torch.randn(p.shape, generator=generator).double() for p in parameters]
        probe = torch.randn(layer.weight.shape, generator=generator).double()

        def value() -> torch.Tensor:
            bias = layer.quantized_bias(layer.bias, layer.weight)
            return (layer.quantized_weight(layer.weight) * probe).sum() + bias.sum()

        def moved(by: float) -> float:
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.data += by * direction
            result = value().item()
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.data -= by * direction
            return result

        rounded = value()
        gradients = torch.autograd.grad(rounded, parameters)
        slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
        with network.held_rounding():
            assert value().item() == pytest.approx(rounded.item(), rel=1e-12)
            numeric = (moved(1e-6) - moved(-1e-6)) / 2e-6
        assert numeric == pytest.approx(float(slope), rel=1e-6)
        assert (moved(1e-6) - moved(-1e-6)) / 2e-6 != pytest.approx(float(slope), rel=0.05)

    def test_ranges_and_steps_stay_without_an_update(self) -> None:
        agent, draw = make_off_policy("sac", OF, [0, 1], FEW_BITS, hidden="[16]"), batches(OF, [0, 1], 32)
        agent.update(draw())
        before = agent.state(0)
        agent.act(100 * draw().obs.numpy())
        agent.policy(0)(100 * draw().obs[0])
        after = agent.state(0)
        assert all(torch.equal(before[name], after[name]) for name in before)
        agent.update(draw())
        moved = {name for name, tensor in agent.state(0).items() if not torch.equal(tensor, before[name])}
        assert {"actor.layers.0.log_weight_step", "actor.layers.1.log_input_step"} <= moved

    @pytest.mark.parametrize("algo", ["ddpg", "td3", "sac"])
    def test_seeds_agree_to_the_bit_alone_and_in_lockstep(self, algo: str) -> None:
        """Those of on-policy algorithms: tests/trainers/test_on_policy.py."""

        def train(seeds: list[int]) -> dict[str, torch.Tensor]:
            agent, draw = make_off_policy(algo, OF, seeds, FEW_BITS, hidden="[64,64]"), batches(OF, seeds, 64)
            for _ in range(20):
                agent.update(draw())
            return agent.state(seeds.index(1))

        alone, pack_of_three = train([1]), train([5, 1, 7])
        for name, tensor in alone.items():
            assert torch.equal(tensor, pack_of_three[name]), name

    def test_the_policy_computes_what_was_trained(self) -> None:
        agent, draw = make_off_policy("sac", OF, [0, 1], FEW_BITS, hidden="[64,64]"), batches(OF, [0, 1], 256)
        for _ in range(30):
            agent.update(draw())
        obs = draw().obs
        expected = 0.4 * torch.tanh(agent.actor(obs)[1, :, :6])
        policy = agent.policy(1)
        assert [type(stage) for stage in policy][:2] == [Standardize, LowBitLinear]
        difference = (policy(obs[1]) - expected).abs() / 0.4
        # A level of three bits that flips moves an action further than one of eight, and more rarely.
        assert difference.median() < 1e-3
        assert (difference > 5e-3).float().mean() < 0.02


class TestArtifact:
    @pytest.mark.parametrize("activation", ["relu", "tanh"])
    @pytest.mark.parametrize(
        "bits",
        [
            "compress.weight_bits=4",
            "compress.weight_bits=2 compress.activation_bits=2 compress.input_bits=4",
            "compress.activation_bits=3",
            FEW_BITS,
        ],
    )
    def test_the_file_runs_on_integers_and_agrees(self, bits: str, activation: str, tmp_path: Path) -> None:
        policy = trained(bits, activation)
        model = onnx_bytes(policy)
        matrices = [t for t in onnx.load_from_string(model).graph.initializer if len(t.dims) == 2]
        assert {t.data_type for t in matrices} == {onnx.TensorProto.INT8}
        operators = optimized_operators(model)
        assert operators.count("QGemm") == 3
        obs = 3 * torch.randn(300, 17, generator=torch.Generator().manual_seed(0)) + 1
        contract = save_artifact(
            tmp_path / "a", policy, model, obs.numpy(), algorithm="sac", compression={"method": "qat"}
        )
        assert check_artifact(tmp_path / "a") == contract
        again = load_policy(tmp_path / "a")
        assert torch.equal(again(obs), policy(obs))
        assert onnx_bytes(again) == model

    def test_contract_and_file_say_bits_and_packed_bytes(self, tmp_path: Path) -> None:
        policy = trained("compress.weight_bits=4")
        model = onnx_bytes(policy)
        contract = save_artifact(
            tmp_path / "a",
            policy,
            model,
            np.ones((20, 17), np.float32),
            algorithm="sac",
            compression={"method": "qat"},
        )
        assert contract["stages"].count("low_bit_linear") == 3
        stated = contract["low_bit"]
        assert (stated["weight_bits"], stated["input_bits"], stated["onnx_weights"]) == ([4] * 3, [8] * 3, "int8")
        tensors = safetensors.torch.load_file(tmp_path / "a" / "policy.safetensors")
        assert sum(tensor.nbytes for tensor in tensors.values()) == stated["weight_bytes"] == weight_bytes(model)
        packed = sum(tensor.nbytes for name, tensor in tensors.items() if name.endswith("weight_packed"))
        assert packed == 64 * 9 + 64 * 32 + 6 * 32
        properties = {p.key: p.value for p in onnx.load_from_string(model).metadata_props}
        assert (properties["weight_bits"], properties["weight_storage"]) == ("4,4,4", "int8")

    def test_eight_bit_files_say_nothing_of_it(self) -> None:
        policy = make_off_policy("sac", OF, [0], hidden="[16]").policy(0)
        assert not onnx.load_from_string(onnx_bytes(policy)).metadata_props

    @pytest.mark.parametrize("bits", [Bits(4), Bits(8, 4), Bits(2, 3, 4)])
    def test_static_quantisation_has_the_bits_asked_for(self, bits: Bits) -> None:
        policy = load_policy(POLICIES / "ppo-hopper")
        obs = torch.randn(200, 11).numpy()
        quantized, model = quantize_static_policy(
            policy, obs, calibration="minmax", percentile=99.9, reduce_range=False, bits=bits
        )
        layers = low_bit_layers(quantized)
        assert [layer.weight_bits for layer in layers] == [bits.weight] * 3
        assert [layer.input_bits for layer in layers] == [bits.input, bits.activation, bits.activation]
        assert all(layer.weight_int8.abs().max() <= largest_level(bits.weight) for layer in layers)
        actions = OnnxPolicy(model).batch(obs)
        assert np.quantile(np.abs(actions - quantized(torch.from_numpy(obs)).numpy()), 0.99) < 5e-3


DISTILL = "compress.distill.steps=40 compress.distill.states=200 compress.distill.rounds=1 eval.episodes=1"


@pytest.mark.parametrize(
    ("method", "bits"),
    [
        ("prune_qat compress.ratio=0", "compress.weight_bits=4"),
        ("prune_qat compress.ratio=0.7", FEW_BITS),
        ("prune_ptsq", "compress.weight_bits=4"),
        ("ptsq", "compress.weight_bits=2"),
    ],
)
def test_a_trained_policy_is_compressed(
    method: str, bits: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = "" if method == "ptsq" else DISTILL
    compress(f"policy={POLICIES / 'ppo-hopper'} to={tmp_path / 'small'} +compress={method} {bits} {few}".split())
    contract = check_artifact(tmp_path / "small")
    operators = optimized_operators((tmp_path / "small" / "policy.onnx").read_bytes())
    assert sum(kernel in INTEGER_KERNELS for kernel in operators) == 3
    assert contract["low_bit"]["weight_bytes"] == tensor_bytes(load_policy(tmp_path / "small"))
    assert json.loads((tmp_path / "small" / "policy.json").read_text()) == contract
    said = capsys.readouterr().err
    assert ("rounded after training, its actions miss" in said) == ("ptsq" in method)
