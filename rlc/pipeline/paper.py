"""protocol=paper: train further, deploy, compress and evaluate as the code of arXiv 2407.04803 did.

docs/protocol.md lists what that is and where it is not followed.
"""

import functools
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from compression.artifact import INT8_TOLERANCE, save_artifact
from compression.onnx_export import onnx_bytes
from compression.paper import prepare_qat_as_published, quantize_dynamic_as_published, quantize_static_as_published
from compression.runtime import OnnxPolicy
from measure.returns import Act, Returns, evaluate
from rlc.config.compress import CompressSettings
from rlc.config.settings import EvalSettings
from rlc.pipeline import build
from rlc.pipeline.tracking import Tracker
from rlc.pipeline.training import MadePolicy, train
from rlc.runs.run import Run
from rlc.runs.stored import StoredRun
from trainers.data.rollout import collect_observations
from trainers.envs.make import env_factory
from trainers.envs.seed_envs import Env
from trainers.envs.spec import EnvSpec
from trainers.nn.normalizer import EPSILON
from trainers.nn.stacked import make_linear
from trainers.on_policy import OBSERVATION_LIMIT
from trainers.policy import Policy, Rescale, Standardize
from trainers.sac import SACSettings
from trainers.settings import AlgoSettings, OffPolicySettings

SEED = 102
CALIBRATION_STEPS = 10_000
QAT_LEARNING_STARTS = 5_000
QAT_INITIAL_ALPHA = 1.0
# With one grid over raw inputs a rounding that falls the other way moves an action further.
COARSE_TOLERANCE = 4 * INT8_TOLERANCE


def make_env(algorithm: str, spec: EnvSpec) -> Env:
    """An environment seeded once, for all its episodes. PPO's learns its observation statistics anew in it."""
    env = env_factory(spec)()
    if algorithm == "ppo":
        env = gym.wrappers.NormalizeObservation(gym.wrappers.ClipAction(env))
        clip = functools.partial(np.clip, a_min=-OBSERVATION_LIMIT, a_max=OBSERVATION_LIMIT)
        env = gym.wrappers.TransformObservation(env, clip, env.observation_space)
    env.reset(seed=SEED)
    return env


def deployed(policy: Policy, algorithm: str) -> Policy:
    """What was exported of a policy: SAC without its squash, TRPO without its clip, PPO without its statistics.

    TRPO's network read raw observations, so its statistics move into the first layer where that is in float.
    """
    stages = list(policy)
    if algorithm == "sac":
        squash = max(i for i, stage in enumerate(stages) if isinstance(stage, nn.Tanh))
        return Policy(policy.spec, stages[:squash])
    if algorithm not in ("ppo", "trpo"):
        return policy
    standardize, _, *core, rescale, _ = stages
    if isinstance(core[-1], nn.Linear):
        core[-1] = _rescaled(core[-1], rescale)
    else:
        core.append(rescale)
    if algorithm == "trpo":
        core[:1] = [_standardized(core[0], standardize)] if isinstance(core[0], nn.Linear) else [standardize, core[0]]
    return Policy(policy.spec, core)


def _rescaled(layer: nn.Linear, stage: nn.Module) -> nn.Linear:
    """The layer with the scaling behind it inside."""
    assert isinstance(stage, Rescale)
    return make_linear(layer.weight * stage.scale[:, None], layer.bias * stage.scale + stage.center)


def _standardized(layer: nn.Linear, stage: nn.Module) -> nn.Linear:
    """The layer with the standardisation in front of it inside.

    Inputs that never moved count for nothing, as they did: their weights would be ten thousand times as large, their
    share would cancel the bias but for rounding, and with one scale for the layer int8 would keep of it nothing else.
    """
    assert isinstance(stage, Standardize)
    moved = stage.inverse_std < 0.99 / math.sqrt(EPSILON)
    weight = layer.weight * torch.where(moved, stage.inverse_std, 0.0)
    return make_linear(weight, layer.bias - weight @ stage.mean)


def export(
    folder: Path,
    policy: Policy,
    compress: CompressSettings,
    *,
    algorithm: str,
    seed: int,  # noqa: ARG001 (ours needs it)
) -> tuple[dict[str, Any], bytes]:
    """As `protocol.export_policy`, with the published settings of each method."""
    act = OnnxPolicy.from_policy(policy)
    spec = policy.spec
    factory = functools.partial(make_env, algorithm, spec)
    observations = collect_observations(act, factory, spec, None, CALIBRATION_STEPS)
    if compress.method == "ptdq":
        policy, model = quantize_dynamic_as_published(policy)
    elif compress.method == "ptsq":
        policy, model = quantize_static_as_published(policy, observations)
    else:
        model = onnx_bytes(policy)
    settings = {**compress.model_dump(), "protocol": "paper"}
    # One observation at a time through the check: a tenth of them is enough.
    contract = save_artifact(
        folder,
        policy,
        model,
        observations[::10],
        algorithm=algorithm,
        compression=settings,
        int8_tolerance=COARSE_TOLERANCE,
    )
    return contract, model


def evaluate_policy(act: Act, run: StoredRun, settings: EvalSettings) -> Returns:
    """As `evaluation.evaluate_policy`, on one stream of start states."""
    factory = functools.partial(make_env, run.settings.algo.name, run.spec)
    return evaluate(act, factory, run.spec, episodes=settings.episodes, seed=None)


def train_further(run: Run, tracker: Tracker, tensors: dict[str, Tensor]) -> MadePolicy:
    """Quantisation-aware training as a second training of `total_steps` from the finished fp32 agent.

    Optimisers, memory and temperature begin anew, off-policy behind random steps.
    """
    algo = second_training(run.settings.algo)
    settings = run.settings.model_copy(update={"algo": algo})
    heads = 2 if isinstance(algo, SACSettings) else 1
    quantize = functools.partial(prepare_qat_as_published, heads=heads)
    agent = build.build_agent(algo, settings.compress, run.spec, [run.seed], torch.device("cpu"), quantize=quantize)
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith("log_alpha")}
    agent.load_state(0, agent.state(0) | weights)
    trained = train([run], [tracker], agent, settings, [run.checkpoints().newest()])
    return MadePolicy(agent.policy(0), trained.record(0))


def second_training(algo: AlgoSettings) -> AlgoSettings:
    """The settings of an algorithm that trains a finished agent further."""
    changes: dict[str, Any] = {}
    if isinstance(algo, OffPolicySettings):
        changes["learning_starts"] = min(algo.learning_starts, QAT_LEARNING_STARTS)
    if isinstance(algo, SACSettings):
        changes |= {"alpha": "auto", "initial_alpha": QAT_INITIAL_ALPHA}
    return algo.model_copy(update=changes)
