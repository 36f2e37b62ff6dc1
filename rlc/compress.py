"""Compress a policy you have: python -m rlc.compress policy=<artifact or SB3 zip> +compress=ptsq env=hopper"""

from pathlib import Path

import torch

from compression.artifact import ONNX_FILE, check_artifact, load_policy, quantized_layers
from compression.distill import distill
from compression.onnx_export import onnx_bytes
from compression.pruning import Importance, prune
from compression.runtime import OnnxPolicy
from compression.sb3 import read_sb3
from measure.returns import Returns, evaluate
from rlc.cli import given_path, run_command, split
from rlc.config.compose import compose_groups
from rlc.config.compress import PruneSettings
from rlc.config.decide import decide_range
from rlc.config.settings import CompressRequest, parse_request
from rlc.pipeline import build
from rlc.pipeline.protocol import export_policy
from rlc.runs.find import artifact_of
from trainers.envs.make import env_factory
from trainers.errors import UserError
from trainers.policy import Clamp, Policy, split_at_linears

OWN = ("policy", "statistics", "activation", "to")


def compress(arguments: list[str]) -> None:
    """Read, compress, check, evaluate both, and write an artifact to `to`."""
    values, rest = split(arguments, OWN)
    if not values.get("policy"):
        raise UserError("policy: none given; add policy=<folder of an artifact or zip of Stable-Baselines3>")
    if values.get("activation") not in (None, "relu", "tanh"):
        raise UserError(f"activation={values['activation']}: unknown; allowed: relu, tanh")
    request = parse_request(compose_groups(rest))
    source = given_path(values["policy"])
    policy, algorithm = _read(source, values, request, env_given=any(a.startswith("env") for a in rest))
    _check_weights(policy, source)
    label = request.compress.label
    target = given_path(values["to"]) if values.get("to") else source.with_name(f"{source.stem}-{label}")
    if target.exists():
        raise UserError(f"to={target}: exists already; choose another to=<folder>")
    factory = env_factory(policy.spec)
    settings = decide_range(request.compress)
    smaller = policy
    if isinstance(settings, PruneSettings):
        smaller = prune_policy(policy, settings, request.seed)
    _, model = export_policy(target, smaller, settings, algorithm=algorithm, seed=request.seed)

    def score(act: OnnxPolicy) -> Returns:
        how = {"episodes": request.eval.episodes, "seed": request.eval.seed}
        return evaluate(act, factory, policy.spec, **how)

    before = score(OnnxPolicy(onnx_bytes(policy)))
    after = score(OnnxPolicy(target / ONNX_FILE))
    size = len(onnx_bytes(policy)), len(model)
    print(f"{source}: {policy.spec.env_id}, return {before.mean:.1f} +- {before.std:.1f}, {size[0] / 1000:.1f} KB")
    print(f"{target}: {label}, return {after.mean:.1f} +- {after.std:.1f}, {size[1] / 1000:.1f} KB")


def _read(source: Path, values: dict[str, str], request: CompressRequest, env_given: bool) -> tuple[Policy, str]:
    """The policy and the name of its algorithm."""
    env_id = request.env.id
    if source.is_dir():
        folder = artifact_of(source)
        contract = check_artifact(folder)
        policy = load_policy(folder)
        if env_given and policy.spec.env_id != env_id:
            raise UserError(f"env.id={env_id}: {source} was made for {policy.spec.env_id}; leave it out")
        if request.env.kwargs and request.env.kwargs != policy.spec.kwargs:
            made = dict(policy.spec.kwargs)
            raise UserError(f"env.kwargs={request.env.kwargs}: {source} was made with {made}; leave it out")
        if quantized_layers(policy):
            raise UserError(f"policy={source}: is quantised already; allowed: a policy in float32")
        return policy, contract["algorithm"]
    statistics = values.get("statistics")
    policy = read_sb3(
        source,
        request.env.spec(),
        activation=values.get("activation"),
        statistics=given_path(statistics) if statistics else None,
    )
    return policy, "stable-baselines3"


def _check_weights(policy: Policy, source: Path) -> None:
    """Raises UserError for weights that no observation gives an action with."""
    for stage in policy:
        for name, tensor in stage.state_dict().items():
            if not (isinstance(stage, Clamp) or torch.isfinite(tensor.float()).all()):
                raise UserError(
                    f"policy={source}: the {name} of its {type(stage).__name__} is NaN or infinite: its training had "
                    "diverged when it was saved; take a file of an earlier step"
                )


def prune_policy(policy: Policy, compress: PruneSettings, seed: int) -> Policy:
    """The policy pruned, and recovered by distillation if asked."""
    before, core, after = split_at_linears(policy)
    importance = Importance(compress.norm, compress.reduction, compress.normalizer, compress.bias)
    narrow = Policy(policy.spec, [*before, *prune(core, compress.ratio, importance), *after])
    if compress.finetune == "none":
        return narrow
    factory = env_factory(policy.spec)
    transform = build.qat_transform(compress, raw=not before)
    how = compress.distill.model_dump()
    return distill(narrow, policy, factory, seed=seed, transform=transform, **how)


if __name__ == "__main__":
    run_command(compress)
