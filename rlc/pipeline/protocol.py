"""How a policy is deployed and scored: our way, or the paper's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from compression.artifact import save_artifact
from compression.runtime import OnnxPolicy
from measure.returns import Act, Returns
from rlc.config.compress import CompressSettings
from rlc.config.settings import EvalSettings, Settings
from rlc.pipeline import build, paper
from rlc.pipeline.evaluation import evaluate_policy
from rlc.runs.stored import StoredRun
from trainers.data.rollout import collect_observations
from trainers.envs.make import env_factory
from trainers.policy import Policy, within_bounds

PARITY_STATES = 1024


def export_policy(
    folder: Path, policy: Policy, compress: CompressSettings, *, algorithm: str, seed: int
) -> tuple[dict[str, Any], bytes]:
    """Compress a policy on observations of its own and write the artifact.

    Its actions end in a clip to the bounds, whatever the policy is made of.

    Args:
        folder: of the artifact, made here.
        policy: in float32.
        compress: the method and its settings; steps of calibration are environment steps.
        algorithm: what trained the policy, for the contract.
        seed: of the random stream in which the policy's observations are collected.

    Returns:
        The contract, and the ONNX file.

    Raises:
        ArtifactError: the ONNX file does not agree with the policy; nothing is written then.
    """
    steps = getattr(compress, "calibration_steps", PARITY_STATES)
    policy = within_bounds(policy)
    act = OnnxPolicy.from_policy(policy)
    factory = env_factory(policy.spec)
    observations = collect_observations(act, factory, policy.spec, seed, steps)
    compressed, model = build.compress_policy(compress, policy, observations)
    settings = compress.model_dump()
    contract = save_artifact(folder, compressed, model, observations, algorithm=algorithm, compression=settings)
    return contract, model


def deploy_whole(policy: Policy, _algorithm: str) -> Policy:
    """Ours: what was trained is what is deployed."""
    return policy


class Protocol(NamedTuple):
    """How a policy is deployed and scored."""

    deploy: Callable[[Policy, str], Policy]
    """What of a trained policy is exported, by the name of its algorithm."""
    export: Callable[..., tuple[dict[str, Any], bytes]]
    """As `export_policy`."""
    evaluate: Callable[[Act, StoredRun, EvalSettings], Returns]
    """As `evaluate_policy`."""


PROTOCOLS = {
    "ours": Protocol(deploy_whole, export_policy, evaluate_policy),
    "paper": Protocol(paper.deployed, paper.export, paper.evaluate_policy),
}


def protocol_of(settings: Settings) -> Protocol:
    """The protocol that a job asks for."""
    return PROTOCOLS[settings.protocol]
