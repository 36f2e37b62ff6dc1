"""From settings to objects, through registries."""

import functools
from collections.abc import Callable, Sequence

import torch

from compression.onnx_graph import onnx_bytes
from compression.ptdq import quantize_dynamic_policy
from compression.qat import prepare_qat
from rlc.settings import AlgoSettings, CompressSettings, PTDQSettings, QATSettings, SettingsError
from trainers.actor_critic import ActorCritic, ActorTransform
from trainers.policy import Policy
from trainers.rollout import FloatArray
from trainers.sac import SAC
from trainers.spec import Spec


def device_of(name: str) -> torch.device:
    """Raises SettingsError for a device this machine lacks."""
    device = torch.device(name)
    available = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= available:
        raise SettingsError(f"device={name}: this machine has {available} CUDA devices; allowed: cpu")
    return device


def build_agent(
    algo: AlgoSettings, compress: CompressSettings, spec: Spec, seeds: Sequence[int], device: torch.device
) -> ActorCritic:
    return AGENTS[algo.name](algo, spec, seeds, device, _actor_transform(compress))


def _build_sac(
    algo: AlgoSettings, spec: Spec, seeds: Sequence[int], device: torch.device, transform: ActorTransform | None
) -> SAC:
    return SAC(
        spec,
        seeds,
        device,
        hidden=algo.hidden,
        activation=algo.activation,
        actor_lr=algo.actor_lr,
        critic_lr=algo.critic_lr,
        alpha=algo.alpha,
        initial_alpha=algo.initial_alpha,
        alpha_lr=algo.alpha_lr,
        tau=algo.tau,
        transform_actor=transform,
    )


AGENTS: dict[str, Callable[..., ActorCritic]] = {"sac": _build_sac}


def _actor_transform(compress: CompressSettings) -> ActorTransform | None:
    if isinstance(compress, QATSettings):
        # The off-policy algorithms act on raw observations.
        return functools.partial(prepare_qat, standardize_input=True, reduce_range=compress.reduce_range)
    return None


def compress_policy(compress: CompressSettings, policy: Policy, observations: FloatArray) -> tuple[Policy, bytes]:
    """The policy that is deployed and its ONNX file; `observations` [n, obs_dim] were visited by the policy."""
    if isinstance(compress, PTDQSettings):
        return quantize_dynamic_policy(policy, observations, reduce_range=compress.reduce_range)
    return policy, onnx_bytes(policy)
