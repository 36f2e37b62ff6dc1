"""Compress a policy you have: python -m rlc.compress policy=<artifact or SB3 zip> +compress=ptsq env=hopper"""

import functools
from pathlib import Path

from compression.artifact import ONNX_FILE, quantized_layers
from compression.onnx_export import onnx_bytes
from compression.runtime import OnnxPolicy
from compression.sb3 import read_sb3
from measure.returns import evaluate
from rlc.cli import run_command, split
from rlc.config.compose import compose_groups
from rlc.config.compress import PruneSettings
from rlc.config.decide import decide_range
from rlc.config.settings import CompressRequest, parse_request
from rlc.pipeline.protocol import export_policy
from rlc.pipeline.prune import prune_policy
from rlc.runs.find import open_artifact
from trainers.envs.make import make_env, spec_of
from trainers.errors import UserError
from trainers.policy import Policy

OWN = ("policy", "statistics", "activation", "to")


def compress(arguments: list[str]) -> None:
    """Read, compress, check, evaluate both, and write an artifact to `to`."""
    values, rest = split(arguments, OWN)
    if not values.get("policy"):
        raise UserError("policy: none given; add policy=<folder of an artifact or zip of Stable-Baselines3>")
    if values.get("activation") not in (None, "relu", "tanh"):
        raise UserError(f"activation={values['activation']}: unknown; allowed: relu, tanh")
    request = parse_request(compose_groups(rest))
    source = Path(values["policy"])
    policy, algorithm = _read(source, values, request, env_given=any(a.startswith("env") for a in rest))
    label = request.compress.label
    target = Path(values.get("to") or source.with_name(f"{source.stem}-{label}"))
    if target.exists():
        raise UserError(f"to={target}: exists already; choose another to=<folder>")
    factory = functools.partial(make_env, policy.spec.env_id)
    settings = decide_range(request.compress)
    smaller = policy
    if isinstance(settings, PruneSettings):
        smaller = prune_policy(policy, settings, request.seed)
    _, model = export_policy(target, smaller, settings, algorithm=algorithm, seed=request.seed)

    original = onnx_bytes(policy)
    episodes = {"episodes": request.eval.episodes, "seed": request.eval.seed}
    before = evaluate(OnnxPolicy(original), factory, policy.spec, **episodes)
    after = evaluate(OnnxPolicy(target / ONNX_FILE), factory, policy.spec, **episodes)
    kilobytes = len(original) / 1000
    print(f"{source}: {policy.spec.env_id}, return {before.mean:.1f} +- {before.std:.1f}, {kilobytes:.1f} KB")
    print(f"{target}: {label}, return {after.mean:.1f} +- {after.std:.1f}, {len(model) / 1000:.1f} KB")


def _read(source: Path, values: dict[str, str], request: CompressRequest, env_given: bool) -> tuple[Policy, str]:
    """The policy and the name of its algorithm."""
    env_id = request.env.id
    if source.is_dir():
        _, contract, policy = open_artifact(source)
        if env_given and policy.spec.env_id != env_id:
            raise UserError(f"env.id={env_id}: {source} was made for {policy.spec.env_id}")
        if quantized_layers(policy):
            raise UserError(f"policy={source}: is quantised already; allowed: a policy in float32")
        return policy, contract["algorithm"]
    statistics = values.get("statistics")
    policy = read_sb3(
        source,
        spec_of(env_id),
        activation=values.get("activation"),
        statistics=Path(statistics) if statistics else None,
    )
    return policy, "stable-baselines3"


if __name__ == "__main__":
    run_command(compress)
