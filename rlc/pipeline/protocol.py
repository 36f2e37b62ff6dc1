"""How a policy is deployed and scored: our way, or the paper's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from compression.artifact import save_artifact
from compression.onnx_export import onnx_bytes
from compression.runtime import OnnxPolicy
from measure.returns import Act, Returns
from rlc.config.compress import CompressSettings
from rlc.config.settings import Settings
from rlc.pipeline import build, paper
from rlc.pipeline.evaluation import evaluate_policy
from trainers.data.rollout import collect_observations
from trainers.envs.make import env_factory
from trainers.policy import Policy

PARITY_STATES = 1024


def export_policy(
    folder: Path, policy: Policy, compress: CompressSettings, *, algorithm: str, seed: int
) -> tuple[dict[str, Any], bytes]:
    """Compress a policy on observations of its own and write the artifact; its contract and ONNX file."""
    steps = getattr(compress, "calibration_steps", PARITY_STATES)
    act = OnnxPolicy(onnx_bytes(policy))
    observations = collect_observations(act, env_factory(policy.spec), policy.spec, seed, steps)
    deployed, model = build.compress_policy(compress, policy, observations)
    settings = compress.model_dump()
    contract = save_artifact(folder, deployed, model, observations, algorithm=algorithm, compression=settings)
    return contract, model


class Protocol(NamedTuple):
    """How a policy is deployed and scored."""

    deployed: Callable[[Policy, str], Policy]
    export: Callable[..., tuple[dict[str, Any], bytes]]
    evaluate: Callable[[Act, Settings], Returns]


PROTOCOLS = {
    "ours": Protocol(lambda policy, _algorithm: policy, export_policy, evaluate_policy),
    "paper": Protocol(paper.deployed, paper.export, paper.evaluate_policy),
}
