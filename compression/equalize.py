"""Ranges made alike before quantisation, without changing the function (SmoothQuant, arXiv 2211.10438, section 4).

ONNX Runtime has one activation grid per layer and one weight scale per output. What an input is divided by, its
column of the weights is multiplied by: s = max|x|^a / max|w|^(1-a) shares the spread between the two.
"""

import torch
from torch import Tensor, nn

from trainers.nn.stacked import make_linear
from trainers.policy import Policy, input_standardized
from trainers.tensors import FloatArray

MIGRATION_STRENGTH = 0.5
# Activations f with f(s x) = s f(x) for s > 0: a scale passes them.
HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU)


def equalized(policy: Policy, observations: FloatArray) -> Policy:
    """The same function with alike ranges at every linear layer that allows it.

    Those are a first layer that reads raw observations, which gets a float stage in front of it, and layers behind
    a ReLU or LeakyReLU, whose scales move into the layer before. Ranges are those on `observations` [n, obs_dim].
    """
    with torch.no_grad():
        x = torch.from_numpy(observations)
        if isinstance(policy[0], nn.Linear):
            mean = x.double().mean(0)
            policy = input_standardized(policy, mean, _scales((x - mean).abs().amax(0), policy[0]).float())
        stages = list(policy)
        for i in range(len(stages) - 2):
            layer, activation, following = stages[i : i + 3]
            if (
                isinstance(layer, nn.Linear)
                and isinstance(activation, HOMOGENEOUS)
                and isinstance(following, nn.Linear)
            ):
                scales = _scales(activation(layer(x)).abs().amax(0), following)
                stages[i] = make_linear(layer.weight / scales[:, None], layer.bias / scales)
                stages[i + 2] = make_linear(following.weight * scales, following.bias)
            x = stages[i](x)
    return Policy(policy.spec, stages)


def _scales(largest: Tensor, layer: nn.Linear) -> Tensor:
    """The divisor of each input of a layer [in], in float64; its own range for an input that is not used.

    An input that never moved counts as a common one: its weights must not set the scale of the others.
    """
    moving = largest > 0
    if not moving.any():
        return torch.ones_like(largest, dtype=torch.float64)
    largest = torch.where(moving, largest, largest[moving].median())
    weight = layer.weight.double().abs().amax(0)
    scales = largest.double() ** MIGRATION_STRENGTH * weight ** (MIGRATION_STRENGTH - 1)
    return torch.where(weight > 0, scales, largest.double())
