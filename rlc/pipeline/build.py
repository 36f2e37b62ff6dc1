"""From settings to objects, through registries."""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import nn

from compression.lsq import prepare_low_bit_qat
from compression.onnx_export import onnx_bytes
from compression.pruning import replace_layers
from compression.ptdq import quantize_dynamic_policy
from compression.ptsq import quantize_static_policy
from compression.qat import prepare_qat
from rlc.config.compress import CompressSettings, PruneSettings, PTDQSettings, PTSQSettings, QATSettings
from rlc.config.settings import Settings
from rlc.config.types import decided
from rlc.messages import warn
from trainers.actor_critic import ActorCritic, ActorTransform
from trainers.envs.seed_envs import EnvFactory, SyncSeedEnvs
from trainers.envs.spec import EnvSpec
from trainers.envs.workers import SubprocSeedEnvs
from trainers.errors import UserError
from trainers.nn.stacked import StackedMLP
from trainers.policy import Policy
from trainers.registry import AGENTS
from trainers.settings import AlgoSettings, OffPolicySettings
from trainers.tensors import FloatArray
from trainers.torch_compat import has_bf16_products


def device_of(name: str) -> torch.device:
    """Raises UserError for a device this machine lacks."""
    device = torch.device(name)
    available = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= available:
        raise UserError(f"device={name}: this machine has {available} CUDA devices; allowed: cpu")
    return device


def check_precision(name: str, device: torch.device) -> None:
    """Raises UserError where a device has no fast products of that precision."""
    if name == "bf16" and device.type == "cpu" and not has_bf16_products():
        raise UserError("precision=bf16: this CPU has no bfloat16 products; allowed: fp32")


def build_agent(
    algo: AlgoSettings,
    compress: CompressSettings,
    spec: EnvSpec,
    seeds: Sequence[int],
    device: torch.device,
    pruned: Sequence[nn.Module] | None = None,
    quantize: ActorTransform | None = None,
) -> ActorCritic:
    """An agent with fresh weights, or with pruned layers in its actor.

    Its actor trains with the fake quantisation of `compress`, or with another one.
    """
    quantize = quantize or actor_transform(algo, compress)

    def transform(actor: StackedMLP) -> None:
        if pruned is not None:
            replace_layers(actor, pruned)
        if quantize is not None:
            quantize(actor)

    make: Callable[..., ActorCritic] = AGENTS[algo.name]
    return make(spec, seeds, algo, device, transform_actor=transform)


def build_envs(
    settings: Settings, make_env: EnvFactory, spec: EnvSpec, seeds: Sequence[int]
) -> SyncSeedEnvs | SubprocSeedEnvs:
    """The training environments of seeds, in this process or in workers."""
    num_envs = settings.algo.num_envs
    if settings.env_workers == 0:
        return SyncSeedEnvs(make_env, spec, seeds, num_envs)
    return SubprocSeedEnvs(make_env, spec, seeds, num_envs, settings.env_workers)


def actor_transform(algo: AlgoSettings, compress: CompressSettings) -> ActorTransform | None:
    """What quantisation-aware training does to an actor's network; None without."""
    raw = isinstance(algo, OffPolicySettings)
    # On-policy ranges move once per rollout, not once per minibatch.
    return qat_transform(compress, standardize_input=raw, range_momentum=0.01 if raw else 0.1)


def qat_transform(
    compress: CompressSettings, *, standardize_input: bool, range_momentum: float
) -> ActorTransform | None:
    """As `actor_transform`, for any network: raw observations are standardised in front of its first quantiser."""
    if isinstance(compress, PruneSettings) and compress.quantization != "qat":
        return None
    if not isinstance(compress, QATSettings | PruneSettings):
        return None
    prepare = functools.partial(prepare_low_bit_qat, bits=compress.bits) if compress.bits.low else prepare_qat
    return functools.partial(
        prepare,
        standardize_input=standardize_input,
        reduce_range=decided(compress.reduce_range),
        range_momentum=range_momentum,
    )


def compress_policy(compress: CompressSettings, policy: Policy, observations: FloatArray) -> tuple[Policy, bytes]:
    """The policy that is deployed and its ONNX file; `observations` [n, obs_dim] were visited by the policy."""
    kind = compress.quantization if isinstance(compress, PruneSettings) else compress.method
    if kind == "ptdq":
        assert isinstance(compress, PTDQSettings | PruneSettings)
        return quantize_dynamic_policy(policy, observations, reduce_range=decided(compress.reduce_range))
    if kind == "ptsq":
        assert isinstance(compress, PTSQSettings | PruneSettings)
        quantized, model = quantize_static_policy(
            policy,
            observations,
            calibration=compress.calibration,
            percentile=compress.percentile,
            reduce_range=decided(compress.reduce_range),
            bits=compress.bits,
        )
        if compress.bits.low:
            warn(
                f"compress={compress.label}: rounded after training, its actions miss those of the float policy by "
                f"{_action_rms(policy, quantized, observations):.2g} half ranges (RMS); prune_qat trains them back"
            )
        return quantized, model
    return policy, onnx_bytes(policy)


def _action_rms(policy: Policy, other: Policy, observations: FloatArray) -> float:
    """Root mean square of the difference of two policies' actions on observations [n, obs_dim], in half ranges."""
    _, half_range = policy.spec.action_center_and_scale(torch.device("cpu"))
    obs = torch.from_numpy(observations)
    return float(((other(obs) - policy(obs)) / half_range).square().mean().sqrt())
